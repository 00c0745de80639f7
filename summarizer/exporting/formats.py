"""The forms in which a trained run leaves the house: one table, and one file of this room for each.

A format's file has `write(request)`, which writes `request.output` and returns what a person is told of it.
"""

from __future__ import annotations

from dataclasses import dataclass

TRANSFORMERS_DTYPES = ("bf16", "fp16", "fp32")
CTRANSLATE2_DTYPES = {
    "int8": "fp16",
    "int8_float16": "fp16",
    "int8_bfloat16": "bf16",
    "int8_float32": "fp16",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
}
"""How CTranslate2 can store weights, and the type of the merged weights that it is given to make them of: half
precision for those it quantizes, whose own steps are some ten times as coarse."""


@dataclass(frozen=True)
class Format:
    """What is true of one format, whichever run is written in it."""

    module: str
    """The file of this room that writes it."""
    what: str
    """What comes out, in a sentence of the model card."""
    library: str
    """`library_name` of the card: what loads it."""
    relation: str
    """What the result is to its base model, as the hub calls it."""
    adapter_alone: bool = False
    """The adapter stays apart from its base model, which `--with-base` puts beside it."""
    dtypes: tuple[str, ...] = TRANSFORMERS_DTYPES
    default_dtype: str = "bf16"
    package: str | None = None
    """What must be installed beside this project, as pip takes it."""


FORMATS = {
    "peft": Format(
        module="peft",
        what="A low-rank adapter for plain `peft`, to be loaded onto its base.",
        library="peft",
        relation="adapter",
        adapter_alone=True,
    ),
    "merged": Format(
        module="merged",
        what="A whole model for plain `transformers`: the base with the adapter merged into its weights.",
        library="transformers",
        relation="finetune",
    ),
    "ctranslate2": Format(
        module="ctranslate2",
        what="A whole model for CTranslate2: the base with the adapter merged into its weights, converted.",
        library="ctranslate2",
        relation="quantized",
        dtypes=tuple(CTRANSLATE2_DTYPES),
        default_dtype="int8",
        package="ctranslate2>=4.8",  # the first version that was tried with transformers 5
    ),
    "gguf": Format(
        module="gguf",
        what="A whole model for llama.cpp: the base with the adapter merged into its weights.",
        library="gguf",
        relation="finetune",
        default_dtype="fp16",
        package="gguf>=0.17",
    ),
    "gguf-lora": Format(
        module="gguf_lora",
        what="A low-rank adapter for llama.cpp, to be loaded beside a GGUF of its base.",
        library="gguf",
        relation="adapter",
        adapter_alone=True,
        default_dtype="fp16",
        package="gguf>=0.17",
    ),
}
"""By the name that `--format` takes."""
