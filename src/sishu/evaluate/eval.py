"""eval: the examination of a run, on held-out text, questions and rankings."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sishu.batches.batch import shuffled
from sishu.batches.conversations import encode_all, read_conversations
from sishu.batches.tokens import document_start, read_documents, read_tokens
from sishu.config import Section
from sishu.console import say, show_table
from sishu.corpus.lessons.likeness import Likeness
from sishu.corpus.table import read_split
from sishu.evaluate.answering import answer_prompts, divergence, named, reward_answers, summary
from sishu.evaluate.kneser_ney import KneserNey
from sishu.evaluate.xz import plain_xz_bits_per_byte, xz_bits_per_byte
from sishu.files import dump_json, read_json, write_atomic
from sishu.generate.engine import Completion, Engine, Sampling
from sishu.generate.rollouts import read_scale
from sishu.models.decoder import Decoder
from sishu.models.folder import load_decoder, load_scorer
from sishu.nn.device import best_device
from sishu.run import StageContext
from sishu.stages.reward import SCALE, accuracy_by_pair, load_rankings, score
from sishu.stages.sft import answer_loss
from sishu.stages.stage import Need, Stage
from sishu.tokenizer.tokenizer import Tokenizer
from sishu.train.held_out import bits_per_byte, held_out_nats

NAMES = {"pretrain": "base", "sft": "sft", "ppo": "ppo"}


class EvalSettings(Section):
    """How much is examined."""

    questions: int = Field(200, ge=1)
    """Held-out questions answered by every model."""
    rewarded: int = Field(600, ge=1)
    """Held-out questions on whose answers rewards and divergence are measured: their mean wants more."""
    samples: int = Field(5, ge=1)
    """Questions whose answers are shown side by side."""
    max_tokens: int = Field(64, ge=1)
    """Longest answer."""
    temperature: float = Field(0.3, ge=0)
    """At which questions are asked, as in `sishu chat`; rewards and divergence are taken at PPO's, or 1."""
    order: int = Field(5, ge=1, le=8)
    """Of the n-gram baseline."""


def work(s: EvalSettings, context: StageContext) -> dict[str, Any]:
    """Examine whatever the run has made, into `eval.json`."""
    inputs = context.inputs
    device = best_device()
    models: dict[str, Decoder] = {}
    tokenizer: Tokenizer | None = None
    for stage, name in NAMES.items():
        if stage in inputs:
            models[name], tokenizer = load_decoder(inputs[stage])
    assert tokenizer is not None
    random = Decoder(models["base"].config)
    random.initialise(context.seed)
    models = {"random": random} | models
    for model in models.values():
        model.to(device).eval()

    report: dict[str, Any] = {"bits_per_byte": _language(s, context, models, tokenizer)}
    if "questions" in inputs:
        report |= _questions(s, context, models, tokenizer)
    else:
        report["samples"] = _continuations(s, context, models, tokenizer)
    write_atomic(context.folder / "eval.json", dump_json(report))
    return {key: value for key, value in report.items() if key != "samples"}


def _language(
    s: EvalSettings,
    context: StageContext,
    models: dict[str, Decoder],
    tokenizer: Tokenizer,
) -> dict[str, float]:
    texts = {
        side: [d.text for d in read_split(context.inputs["documents"], side)]
        for side in ("train", "validation")
    }
    size = sum(len(t.encode()) for t in texts["validation"])
    held_out = read_tokens(context.inputs["validation_tokens"], tokenizer.vocabulary_size)
    start, result = document_start(tokenizer), {}
    for name, model in models.items():
        stride = model.config.context_length // 2
        nats, _ = held_out_nats(model, held_out, start, stride=stride, precision="fp32")
        result[name] = round(bits_per_byte(nats, size), 5)
    train_documents = read_documents(context.inputs["train_tokens"], tokenizer.vocabulary_size)
    ngram = KneserNey(s.order).fit(train_documents, tokenizer.vocabulary_size)
    nats = 0.0
    for document in read_documents(context.inputs["validation_tokens"], tokenizer.vocabulary_size):
        nats -= float(ngram.log_probabilities(document)[1:].sum())
    result[f"kneser_ney_{s.order}"] = round(bits_per_byte(nats, size), 5)
    result["xz"] = round(xz_bits_per_byte(texts["train"], texts["validation"]), 5)
    result["xz_alone"] = round(plain_xz_bits_per_byte(texts["validation"]), 5)
    show_table(
        "Held-out text, bits per byte",
        ["", "bits"],
        [(k, f"{v:.3f}") for k, v in result.items()],
    )
    return result


def _questions(
    s: EvalSettings,
    context: StageContext,
    models: dict[str, Decoder],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    everything = read_conversations(context.inputs["questions"])
    order = shuffled(len(everything), "questions", context.seed)
    limit = models["base"].config.context_length
    fitting = [
        (item, prompt)
        for item in (everything[i] for i in order)
        if len(prompt := tokenizer.encode_conversation(item["messages"][:-1], True).ids) < limit
    ]
    items, prompts = (list(column) for column in zip(*fitting[: s.questions], strict=True))
    rewarded = [prompt for _, prompt in fitting[: s.rewarded]]
    documented = [item["messages"][-1]["content"] for item, _ in fitting]
    likeness = Likeness(documented)
    learnt = read_json(context.inputs["ppo"].parent / "manifest.json")["figures"] if "ppo" in models else {}
    rows = encode_all(items, tokenizer, limit)
    engines = {name: Engine(model, tokenizer) for name, model in models.items()}
    cool = Sampling(max_tokens=s.max_tokens, temperature=s.temperature, seed=context.seed)
    free = Sampling(max_tokens=s.max_tokens, temperature=learnt.get("temperature", 1.0), seed=context.seed)
    asked = {name: answer_prompts(engine, prompts, cool) for name, engine in engines.items()}
    answers = {
        name: answer_prompts(engines[name], rewarded, free) for name in ("sft", "ppo") if name in models
    }
    result: dict[str, Any] = {
        "answers": {
            name: {"loss": round(answer_loss(model, rows, tokenizer.pad, "fp32"), 5)} | summary(asked[name])
            for name, model in models.items()
        }
    }
    names = [item.get("name", "") for item in items]
    if all(names):
        for name, about in result["answers"].items():
            about["named"] = named(asked[name], names)
    if "reward" in context.inputs:
        scorer, _ = load_scorer(context.inputs["reward"])
        scorer.to(best_device()).eval()
        scale = read_scale(context.inputs["reward"] / SCALE)
        rankings = load_rankings(context.inputs["rankings"])
        pairs = accuracy_by_pair(score(scorer, rankings, tokenizer.pad))
        result["reward"] = {
            "accuracy": round(sum(pairs.values()) / len(pairs), 4),
            "by_pair": pairs,
            "prompts": len(rankings),
        }
        result["rewards"] = {}
        for name, given in answers.items():
            near = [likeness(answer.text, text) for answer, text in zip(given, documented, strict=False)]
            result["rewards"][name] = reward_answers(scorer, scale, rewarded, given, tokenizer.pad) | {
                "likeness": round(sum(near) / len(near), 4)
            }
    if "ppo" in models:
        kl = divergence(
            models["ppo"], models["sft"], rewarded, answers["ppo"], tokenizer.pad, free.temperature
        )
        result["kl"] = {"mean": kl, "target": learnt["kl_target"]}
    result["samples"] = _show(items[: s.samples], asked)
    return result


def _show(items: list[dict[str, Any]], asked: dict[str, list[Completion]]) -> list[dict[str, Any]]:
    """The same questions answered side by side."""
    samples = []
    for place, item in enumerate(items):
        told = {name: answers[place].text for name, answers in asked.items()}
        question = item["messages"][-2]["content"] if len(item["messages"]) > 1 else ""
        samples.append(
            {
                "question": question,
                "name": item.get("name", ""),
                "reference": item["messages"][-1]["content"],
                "answers": told,
            }
        )
        say(f"\n? {question}")
        for name in ("base", "sft", "ppo"):
            if name in told:
                say(f"  {name:>5}: {' '.join(told[name].split())[:300]}")
    return samples


def _continuations(
    s: EvalSettings,
    context: StageContext,
    models: dict[str, Decoder],
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Held-out beginnings continued, for a run without questions."""
    tokens = read_documents(context.inputs["validation_tokens"], tokenizer.vocabulary_size)
    samples = []
    for document in tokens[: s.samples]:
        prompt = [int(i) for i in document[: min(24, max(1, len(document) // 2))]]
        cool = Sampling(max_tokens=s.max_tokens, temperature=0.7, seed=context.seed)
        told = {n: Engine(m, tokenizer).complete([prompt], cool)[0].text for n, m in models.items()}
        reference = tokenizer.decode([int(i) for i in document[len(prompt) : len(prompt) + s.max_tokens]])
        samples.append(
            {
                "question": tokenizer.decode(prompt),
                "name": "",
                "reference": reference,
                "answers": told,
            }
        )
    return samples


STAGE = Stage(
    "eval",
    "Examine the models on held-out text, questions and rankings.",
    EvalSettings,
    (
        Need("documents", "corpus", "documents.parquet"),
        Need("train_tokens", "pretrain", "train.bin"),
        Need("validation_tokens", "pretrain", "validation.bin"),
        Need("pretrain", "pretrain", "model"),
        Need("sft", "sft", "model", optional=True),
        Need("questions", "sft", "conversations-validation.jsonl", optional=True),
        Need("reward", "reward", "model", optional=True),
        Need("rankings", "reward", "rankings-validation.jsonl", optional=True),
        Need("ppo", "ppo", "model", optional=True),
    ),
    work,
)
