"""What is written for llama.cpp, read by llama.cpp itself: the same greedy text, and what it does not take."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from trained_runs import ARTICLE, exported, save_run, summary_of, written_by_the_card
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from summarizer.config.paths import resolve_path
from summarizer.errors import ConfigError

gguf = pytest.importorskip("gguf")

from summarizer.exporting.gguf import unsupported  # noqa: E402 - needs gguf
from summarizer.exporting.gguf_vocabulary import (  # noqa: E402
    LLAMA3_WORDS,
    QWEN2_WORDS,
    TEKKEN_WORDS,
    pre_tokenizer_name,
)

with_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


SAMPLE = [
    json.loads(line) for line in resolve_path("embedded:sample/train.jsonl", "data").read_text().splitlines()
]


def ask(url: str, path: str, **body: Any) -> dict[str, Any]:
    with urlopen(Request(f"{url}/{path}", json.dumps(body).encode())) as answer:
        read: dict[str, Any] = json.load(answer)
    return read


@contextmanager
def served(model: Path, adapter: Path | None = None) -> Iterator[Any]:
    """llama.cpp's own server over a file."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx, params.n_parallel, params.port = 256, 1, 0
    params.cpuparams.n_threads = 1  # two spin where others use the cores
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    yield xllamacpp.Server(params)


KINDS = [
    "llama_tied",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llama_untied", "qwen2", "qwen3")),
]


@with_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_model(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run(kind, tmp_path)
    folder, _ = exported(run, "gguf", dtype="fp32")
    assert (
        "llama-server -m model.gguf --flash-attn off --cache-type-k f32" in (folder / "README.md").read_text()
    )
    with served(folder / "model.gguf") as server:
        assert written_by_the_card(folder, capsys, server.listening_address) == summary_of(run)


@with_llama_cpp
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_beside_its_base(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On every layer, head and embedding included, which are one tensor in the tied base."""
    run = save_run(kind, tmp_path)
    folder, _ = exported(run, "gguf-lora", with_base=True, dtype="fp32")
    with served(folder / "base.gguf", folder / "adapter.gguf") as server:
        assert written_by_the_card(folder, capsys, server.listening_address) == summary_of(run)
    with served(folder / "base.gguf") as server:
        assert written_by_the_card(folder, capsys, server.listening_address) != summary_of(run)


@with_llama_cpp
@pytest.mark.slow
def test_an_adapter_of_linear_layers_beside_any_gguf_of_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run("llama_tied", tmp_path, targets=["linear"])
    folder, _ = exported(run, "gguf-lora")
    alone, _ = exported(run, "gguf-lora", with_base=True, dtype="fp32", output=tmp_path / "both")
    tensors = gguf.GGUFReader(alone / "base.gguf").tensors
    assert "output.weight" not in {tensor.name for tensor in tensors}  # one tensor still
    with served(alone / "base.gguf", folder / "adapter.gguf") as server:
        assert written_by_the_card(folder, capsys, server.listening_address) == summary_of(run)


CHAT = (
    "{% for turn in messages %}<|extratoken_1|>{{ turn.role }}\n{{ turn.content }}<|extratoken_2|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|extratoken_1|>assistant\n{% endif %}"
)


@with_llama_cpp
@pytest.mark.slow
def test_a_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the card, and by llama.cpp's own chat, which has the model's template from the file."""
    run = save_run(
        "llama_tied",
        tmp_path,
        "prompt.kind=chat",
        "prompt.date='2024-07-26'",
        'prompt.template="Shorten:\\n\\n{article}"',
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "base")
    folder, _ = exported(run, "gguf", dtype="fp32")
    with served(folder / "model.gguf") as server:
        assert written_by_the_card(folder, capsys, server.listening_address) == summary_of(run)
        said = ask(
            server.listening_address,
            "v1/chat/completions",
            messages=[{"role": "user", "content": f"Shorten:\n\n{ARTICLE}"}],
            temperature=0,
            max_tokens=8,
        )
    assert said["choices"][0]["message"]["content"].strip() == summary_of(run)


def test_what_the_files_say(tmp_path: Path) -> None:
    """Names, shapes and numbers, beside the adapter's own in PEFT's form."""
    run = save_run("llama_untied", tmp_path)
    folder, _ = exported(run, "gguf-lora")
    reader = gguf.GGUFReader(folder / "adapter.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert (said["general.type"], said["adapter.type"], said["adapter.lora.alpha"]) == (
        "adapter",
        "lora",
        6.0,
    )
    assert said["general.architecture"] == "llama"
    mine = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    theirs = load_file(run / "adapter" / "adapter_model.safetensors")
    prefix = "base_model.model.model."
    assert len(mine) == len(theirs)
    assert torch.equal(mine["token_embd.weight.lora_a"], theirs[f"{prefix}embed_tokens.lora_embedding_A"].t())
    assert torch.equal(mine["token_embd.weight.lora_b"], theirs[f"{prefix}embed_tokens.lora_embedding_B"])
    query = f"{prefix}layers.1.self_attn.q_proj"
    assert torch.equal(mine["blk.1.attn_q.weight.lora_a"], theirs[f"{query}.lora_A.weight"])
    # Four heads of eight: of each, rows 0, 4, 1, 5, 2, 6, 3, 7.
    order = [8 * head + row for head in range(4) for row in (0, 4, 1, 5, 2, 6, 3, 7)]
    b = theirs[f"{query}.lora_B.weight"]
    assert torch.equal(mine["blk.1.attn_q.weight.lora_b"], b[order])
    card = (folder / "README.md").read_text()
    assert "llama-server -m BASE.gguf --lora adapter.gguf --ctx-size 160 --port 8080" in card


# ---- what llama.cpp does not take, refused before anything is computed -----------------------------------------


@pytest.fixture
def too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("summarizer.exporting.steps.load_runs", lambda *_, **__: pytest.fail("too late"))


@pytest.mark.usefixtures("too_late")
@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (["linear", "head"], "head"),
        (["embedding"], "embedding"),
        (["head", "embedding"], "head or the embedding"),
    ],
)
def test_a_head_that_is_the_embedding(targets: list[str], named: str, tmp_path: Path) -> None:
    run = save_run("llama_tied", tmp_path, targets=targets)
    with pytest.raises(
        ConfigError, match=f"cannot adapt the {named} of such a base.*--with-base.*targets=.linear"
    ):
        exported(run, "gguf-lora")
    assert not (run / "export").exists()


@pytest.mark.usefixtures("too_late")
@pytest.mark.parametrize("format_name", ["gguf", "gguf-lora"])
def test_families_that_are_not_written(format_name: str, tmp_path: Path) -> None:
    run = save_run("gptj", tmp_path)
    with pytest.raises(ConfigError, match=r"kinds llama, mistral, qwen2, qwen3, and this one is 'gptj'"):
        exported(run, format_name)


def test_positions_that_are_stretched() -> None:
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    named = "rope_type 'yarn' of 'llama' is not written here"
    assert unsupported(LlamaConfig(rope_parameters=scaled)) is None
    assert unsupported(LlamaConfig(rope_parameters=yarn)) == named
    assert (
        unsupported(Qwen2Config(rope_parameters=scaled))
        == "rope_type 'linear' of 'qwen2' is not written here"
    )


def tokenizer_with(model: models.Model, pre: Any, normalizer: Any = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@lru_cache
def sentencepiece() -> dict[str, Any]:
    """A tokenizer.json as transformers makes one of a SentencePiece model, as of Llama 2."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    control = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1200, special_tokens=control, show_progress=False)
    trained.train_from_iterator([row["article"] for row in SAMPLE], trainer)
    content: dict[str, Any] = json.loads(trained.to_str())
    vocabulary = content["model"]["vocab"]
    content["added_tokens"] = content["added_tokens"][:3]
    content["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    content["model"]["merges"] = [
        (piece[:end], piece[end:])
        for piece in list(vocabulary)[len(control) :]
        for end in range(1, len(piece))
        if piece[:end] in vocabulary and piece[end:] in vocabulary
    ]
    marking = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Prepend", "prepend": "▁"}, marking]
    content |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    made = Tokenizer.from_str(json.dumps(content))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    read: dict[str, Any] = json.loads(made.to_str())
    return read


def fast(content: dict[str, Any]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@with_llama_cpp
@pytest.mark.slow
def test_a_vocabulary_of_sentencepiece(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save_run("llama_tied", tmp_path)
    tokenizer = fast(sentencepiece())
    tokenizer.save_pretrained(tmp_path / "base")
    folder, _ = exported(run, "gguf", dtype="fp32")
    texts = [row["article"][:600] for row in SAMPLE[:20]]
    texts += ["  two  spaces\n\n\ttab", "naïve 東京 🚀", "", "▁", "<s> is text"]
    with served(folder / "model.gguf") as server:
        for text in texts:
            (own,) = ask(server.listening_address, "tokenize", content=text, parse_special=False).values()
            ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
            assert own == ids, text
        assert written_by_the_card(folder, capsys, server.listening_address) == summary_of(run)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda content: content["model"]["merges"].pop(), "it never merges"),
        (
            lambda content: content["model"].update(ignore_merges=True),
            "it falls back to bytes in another way",
        ),
        (lambda content: content.update(normalizer=None), "it treats spaces in another way"),
    ],
)
def test_what_is_not_quite_sentencepiece_s(changed: Callable[[dict[str, Any]], Any], said: str) -> None:
    content = deepcopy(sentencepiece())
    assert pre_tokenizer_name(fast(content)) == "default"
    changed(content)
    with pytest.raises(ConfigError, match=said):
        pre_tokenizer_name(fast(content))


VOCABULARY: dict[str, Any] = {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [("a", "b")]}
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPELLED = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def words(expression: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(expression), "isolated")
    return pre_tokenizers.Sequence([split, SPELLED])


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (tokenizer_with(models.BPE(**VOCABULARY), BYTES), "gpt-2"),
        (
            tokenizer_with(
                models.BPE(**VOCABULARY),
                pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]),
            ),
            "smollm",
        ),
        (tokenizer_with(models.BPE(**VOCABULARY, ignore_merges=True), words(LLAMA3_WORDS)), "llama-bpe"),
        (tokenizer_with(models.BPE(**VOCABULARY), words(QWEN2_WORDS), normalizers.NFC()), "qwen2"),
        (tokenizer_with(models.BPE(**VOCABULARY, ignore_merges=True), words(TEKKEN_WORDS)), "tekken"),
    ],
)
def test_ways_of_splitting_text(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    assert pre_tokenizer_name(tokenizer) == name


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (tokenizer_with(models.BPE(**VOCABULARY, ignore_merges=True), BYTES), "it splits text by bytes"),
        (tokenizer_with(models.BPE(**VOCABULARY), words(r"\w+")), r"it splits text by \\w\+"),
        (
            tokenizer_with(models.BPE(**VOCABULARY), BYTES, normalizers.Lowercase()),
            "changes text first .Lowercase",
        ),
        (
            tokenizer_with(models.BPE(**VOCABULARY, byte_fallback=True), BYTES),
            "it treats spaces in another way",
        ),
        (tokenizer_with(models.WordLevel({"a": 0}, unk_token="a"), BYTES), "its vocabulary is WordLevel"),
        (
            tokenizer_with(models.BPE(**VOCABULARY), pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "it splits text by .*add_prefix_space",
        ),
    ],
)
def test_tokenizers_that_llama_cpp_would_misread(tokenizer: PreTrainedTokenizerFast, said: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--format: llama.cpp would not read this model's tokenizer: .*{said}"
    ):
        pre_tokenizer_name(tokenizer)
