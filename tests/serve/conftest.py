"""Real servers with a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import openai
import pytest
import torch

from sishu.console import UserError
from sishu.generate.engine import Engine
from sishu.models.decoder import Decoder, DecoderConfig
from sishu.models.folder import save_model
from sishu.serve.app import create_app
from sishu.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def lively_model_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: DecoderConfig, tiny_tokenizer: Tokenizer
) -> Path:
    """A random model with room for a conversation and no strong opinions, so that answers vary."""
    torch.manual_seed(0)
    decoder = Decoder(replace(tiny_config, context_length=512))
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        decoder.norm.weight.mul_(0.15)
    folder = tmp_path_factory.mktemp("lively-model")
    save_model(decoder, tiny_tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def engine(lively_model_folder: Path) -> Engine:
    return Engine.load(lively_model_folder)


@pytest.fixture(scope="session")
def loads() -> list[str]:
    """The name of a model, each time the shared server has loaded it."""
    return []


@pytest.fixture(scope="session")
def address(
    engine: Engine, lively_model_folder: Path, loads: list[str], start_server: Callable[..., str]
) -> str:
    """A server with an engine at hand, one that is loaded when needed, and one that cannot be."""

    def load() -> Engine:
        loads.append("tiny-sft")
        return Engine.load(lively_model_folder)

    def broken() -> Engine:
        raise UserError("there is nothing in this folder: train the model first")

    return start_server(create_app({"broken": broken, "tiny-sft": load, "tiny-base": engine}, "tiny-base"))


@pytest.fixture(scope="session")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0, timeout=30)
