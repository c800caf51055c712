"""`sishu generate` and `sishu bench generate`: what a model writes, and how fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer

from sishu.console import UserError, say, show_table
from sishu.generate.batching import BatchingEngine, BatchSettings
from sishu.generate.guide import Guide
from sishu.generate.quantise import Weights
from sishu.generate.sampling import Sampling
from sishu.generate.speed import measure
from sishu.models.open import open_decoder
from sishu.native.build import absence
from sishu.serve.models_of_run import model_at
from sishu.tokenizer.tokenizer import Tokenizer

KINDS: tuple[Weights, ...] = get_args(Weights)

bench_app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


def kind_of(weights: str) -> Weights:
    """The weights that a user names; raises UserError for others."""
    for kind in KINDS:
        if kind == weights:
            return kind
    raise UserError(f"--weights is {weights!r}; it must be one of {', '.join(KINDS)}.")


def prompt_ids(tokenizer: Tokenizer, text: str, chat: bool) -> list[int]:
    """A text as the beginning of a document, or as what a user says."""
    if chat:
        return tokenizer.encode_conversation([{"role": "user", "content": text}], generation_prompt=True).ids
    ids = tokenizer.begin(tokenizer.encode(text))
    if not ids:
        raise UserError("The prompt is empty and this model has no token that texts begin with: write one.")
    return ids


def guide_of(schema: Path | None, regex: str | None) -> Guide | None:
    """The form that an answer must have, if one was asked for."""
    if schema is not None and regex is not None:
        raise UserError("--json-schema and --regex cannot both be asked for: an answer has one form.")
    if regex is not None:
        return Guide("regex", regex)
    if schema is None:
        return None
    try:
        return Guide.of_schema(json.loads(schema.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{schema} is not a readable JSON schema: {error}.") from error


def generate(
    model: Annotated[Path, typer.Argument(help="A run's folder, a model's folder, or a .gguf file.")],
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to go on with; without it, each line of standard input is one."),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="base, sft or ppo of a run; default: the last.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is what a user says.")] = False,
    max_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    top_k: Annotated[int, typer.Option(help="Choose among so many of the likeliest; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest of this share.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out what is less than this share as likely.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: rather no token twice.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes answers repeatable.", show_default=False)] = None,
    n: Annotated[int, typer.Option("-n", help="Answers to each prompt.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the answer; repeatable.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="The answer is JSON of this schema.")] = None,
    regex: Annotated[str | None, typer.Option(help="The answer matches this expression.")] = None,
    weights: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}: smaller is faster.")] = "bf16",
    speculate: Annotated[int, typer.Option(help="Tokens guessed ahead from the text itself.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: prompt, text, ids, log-probabilities.")
    ] = False,
) -> None:
    """Go on with a prompt, or with every line of standard input at once."""
    guide = guide_of(json_schema, regex)
    try:
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            n=n,
            stop=tuple(stop or ()),
            guide=guide,
            log_probs=0 if as_json else None,
        )
    except ValueError as error:
        raise UserError(f"{error}.") from error
    prompts = [prompt] if prompt is not None else [line.rstrip("\n") for line in sys.stdin]
    settings = BatchSettings(speculate=speculate)
    engine = BatchingEngine.load(model_at(model, stage), kind_of(weights), settings)
    ids = [prompt_ids(engine.tokenizer, text, chat) for text in prompts]
    for one in ids:
        if len(one) > engine.context_length:
            raise UserError(
                f"The prompt is {len(one):,} tokens, the model reads {engine.context_length:,}: shorten it."
            )
    # as much of an answer as fits behind the longest prompt
    sampling = replace(sampling, max_tokens=min(max_tokens, engine.context_length - max(map(len, ids)) + 1))
    if len(prompts) == n == 1 and not as_json:
        for output in engine.stream(ids[0], sampling):
            print(output.text, end="", flush=True)
        print()
        return
    for line in _answers(engine, prompts, ids, sampling, as_json):
        print(line, flush=True)


def _answers(
    engine: BatchingEngine,
    prompts: Sequence[str],
    ids: Sequence[list[int]],
    sampling: Sampling,
    as_json: bool,
) -> Iterator[str]:
    """The answers in the order of the prompts, each as soon as it and those before it are whole."""
    first = min((engine.submit(one, sampling) for one in ids), default=0)
    whole: dict[int, dict[str, Any]] = {}
    told = 0
    while engine.busy or told < len(prompts) * sampling.n:
        for output in engine.step():
            place = (output.request - first) * sampling.n + output.index
            kept = whole.setdefault(place, {"text": "", "ids": [], "log_probs": [], "finish": None})
            kept["text"] += output.text
            kept["ids"] += output.ids
            kept["log_probs"] += [round(one.chosen, 6) for one in output.log_probs]
            kept["finish"] = output.finish
        while told in whole and whole[told]["finish"] is not None:
            kept = whole.pop(told)
            prompt = prompts[told // sampling.n]
            yield json.dumps({"prompt": prompt} | kept, ensure_ascii=False) if as_json else kept["text"]
            told += 1


@bench_app.command("generate", help="Tokens a second of a model: reading, writing one text, writing many.")
def bench_generate(
    model: Annotated[Path, typer.Argument(help="A run's folder, a model's folder, or a .gguf file.")],
    stage: Annotated[str | None, typer.Option(help="base, sft or ppo of a run; default: the last.")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="Which; default: all.")] = None,
    prompt: Annotated[int, typer.Option(min=8, help="Tokens of the prompt that is read.")] = 512,
    new: Annotated[int, typer.Option(min=2, help="Tokens that are written.")] = 64,
    texts: Annotated[int, typer.Option(min=1, help="Texts written at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Measure and tell."""
    path = model_at(model, stage)
    kinds = [kind_of(name) for name in weights] if weights else list(KINDS)
    found = [measure(lambda: open_decoder(path), kind, prompt, new, texts) for kind in kinds]
    if as_json:
        for speed in found:
            print(json.dumps(asdict(speed)))
        return
    rows = [
        (
            s.weights,
            f"{s.megabytes:,.0f}",
            f"{s.prefill:,.0f}",
            f"{s.decode:,.1f}",
            f"{s.decode / s.bound:.0%} of {s.bound:,.0f}" if s.bound else "",
            f"{s.together:,.1f}",
        )
        for s in found
    ]
    say(f"Tokens a second on {torch.get_num_threads()} threads; the bound is the time to read the weights.")
    names = ["weights", "MB", f"reading {prompt}", "writing one", "bound", f"writing {texts} at once"]
    show_table(path.name, names, rows)
    if absence():
        say(f"Without compiled code, which is several times faster on a CPU: {absence()}.")
