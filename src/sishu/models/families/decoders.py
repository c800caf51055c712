"""The families of decoders that are read and written, by their published name."""

from __future__ import annotations

from sishu.models.decoder import DecoderConfig
from sishu.models.families.family import Family
from sishu.models.families.gpt2 import GPT2
from sishu.models.families.llama import LLAMA
from sishu.models.families.mistral import MISTRAL, MIXTRAL
from sishu.models.families.qwen2 import QWEN2
from sishu.models.families.qwen3 import QWEN3, QWEN3_MOE

DECODERS: dict[str, Family[DecoderConfig]] = {
    family.name: family for family in (QWEN3, QWEN3_MOE, QWEN2, LLAMA, MISTRAL, MIXTRAL, GPT2)
}
