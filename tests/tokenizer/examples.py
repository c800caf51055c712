"""Small foreign tokenizers of every kind, made here, with the files they would be published in."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as messages  # the form of tokenizer.model
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, trainers
from tokenizers.pre_tokenizers import Metaspace

from sishu.tokenizer.byte_level import BYTE_OF, read
from sishu.tokenizer.patterns import QWEN2
from sishu.tokenizer.pieces import BYTE, CONTROL, NORMAL, UNKNOWN, Pieces, tokenizer_json
from sishu.tokenizer.train import train_bpe
from sishu.tokenizer.vocabularies import byte_level_json, word_pieces_json

TEXT = (
    "The school opens at eight. What's `json.dumps` for? It turns an object into text.\n"
    "私塾是旧时私人设立的教学处所。学而时习之，不亦说乎？ 🙂 def f(x):\n    return x + 1\n"
    "    the school of the teachers, the theory of the thing; 2,048 tokens in 123 texts.\n"
)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + "
    "'\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + "
    "message['content'].strip() + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA3_CHAT = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
    "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
MARKED = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ message.content }}<|im_end|>"
    "{% endif %}\n{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama-2": LLAMA2, "llama-3": LLAMA3_CHAT, "zephyr": ZEPHYR, "marked": MARKED}

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|user|>", "<|system|>", "<|assistant|>",
)  # fmt: skip


def ranks() -> dict[bytes, int]:
    """A byte-level vocabulary in tiktoken's form."""
    trained = train_bpe([TEXT] * 4, 400, pattern="qwen2")
    tokens = [trained.token_of(i) for i in range(6, trained.vocabulary_size)]
    return {read(token): rank for rank, token in enumerate(tokens)}


def byte_level_folder(folder: Path, template: str = CHATML) -> Path:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE with a chat template."""
    model = json.loads(train_bpe([TEXT] * 4, 400, pattern="qwen2")._fast.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda e: e[1])][6:]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    special = {token: len(tokens) + i for i, token in enumerate(SPECIAL)}
    text = byte_level_json(vocabulary, model["merges"], [QWEN2], special, added={"<think>": len(tokens) + 50})
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>" if template == CHATML else "</s>"},
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def tiktoken_folder(folder: Path) -> Path:
    """Ranks as Qwen 1 came in."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks().items())
    (folder / "qwen.tiktoken").write_text("\n".join(lines) + "\n")
    return folder


def two_files_folder(folder: Path) -> Path:
    """vocab.json and merges.txt, as GPT-2 came."""
    folder.mkdir(parents=True, exist_ok=True)
    model = json.loads(train_bpe([TEXT] * 4, 400, pattern="gpt-2")._fast.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda e: e[1])][6:]
    vocabulary = {token: index for index, token in enumerate([*tokens, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder


def pieces(unigram: bool = False) -> Pieces:
    """A vocabulary of SentencePiece's kind with byte fallback."""
    fast = FastTokenizer(models.BPE(unk_token="<unk>"))
    fast.pre_tokenizer = Metaspace()
    fast.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = sorted(fast.get_vocab().items(), key=lambda e: (len(e[0]) == 1, e[1]))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *(t for t, _ in learnt)]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(learnt)]
    scores = [0.0] * 259 + [-(i + 1) / (50 if unigram else 1) for i in range(len(learnt))]
    return Pieces(tokens, scores, kinds, unigram)


def sentencepiece_folder(folder: Path, unigram: bool = False) -> Path:
    """tokenizer.model, as Llama 2 came."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pieces(unigram)
    model = messages.ModelProto()
    for token, score, kind in zip(made.tokens, made.scores, made.kinds, strict=True):
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = 1 if unigram else 2
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    model.trainer_spec.pad_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


def pieces_folder(folder: Path, unigram: bool = False) -> Path:
    """The same as tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json(pieces(unigram)), encoding="utf-8")
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
              "chat_template": LLAMA2}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def words_folder(folder: Path) -> Path:
    """vocab.txt, as BERT came."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({c for c in TEXT.lower() if not c.isspace()})
    words = ["the", "school", "open", "##s", "text", "##ing", "th", "##e"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder


def words_json() -> str:
    """A WordPiece tokenizer.json."""
    return word_pieces_json(
        {t: i for i, t in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b"])}, True, None
    )


ALL = {
    "byte level": byte_level_folder,
    "tiktoken": tiktoken_folder,
    "two files": two_files_folder,
    "sentencepiece": sentencepiece_folder,
    "unigram": lambda folder: sentencepiece_folder(folder, unigram=True),
    "pieces": pieces_folder,
    "words": words_folder,
}
assert len(BYTE_OF) == 256
