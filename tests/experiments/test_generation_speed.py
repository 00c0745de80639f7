"""The study of generation's speed: its arithmetic, that all engines get the same weights, that its command runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import REPOSITORY
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig

# Its files import each other by name, as the command does.
sys.path.insert(0, str(REPOSITORY / "experiments" / "generation_speed"))

import answering
import materials
import speed_rows
from answer_transformers import streamed
from memory_rate import MemoryReader
from speed_contenders import Contender, Work, request
from speed_turns import ask

from summarizer.errors import ConfigError

STUDY = REPOSITORY / "experiments" / "generation_speed"
SPREAD = 0.3
"""Of weights: with the usual 0.02 so small a model attends to everything alike, wherever it is."""
GPTJ = GPTJConfig(
    vocab_size=96, n_embd=32, n_layer=2, n_head=2, rotary_dim=8, n_positions=64, initializer_range=SPREAD
)
LLAMA = LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    initializer_range=SPREAD,
)


def answer_of(token_s: list[float], **more: Any) -> dict[str, Any]:
    return {
        "load_s": 2.0,
        "warm_up_s": 0.5,
        "first_token_s": [8.0, 9.0],
        "token_s": token_s,
        "memory_rates": [40e9] * len(token_s),
        "tokens": [[1, 2, 3], [4, 5, 6]],
        "stored_bytes": 7 * 10**9,
        "read_bytes": 6 * 10**9,
        "resident_bytes": 8 * 2**30,
        "anonymous_bytes": 2**30,
        "about": "engine 1",
        **more,
    }


def test_the_share_of_the_floor_is_of_the_bytes_that_a_token_reads() -> None:
    turns = [
        answer_of([0.3, 0.2], memory_rates=[40e9, 60e9]),
        answer_of([0.2, 0.25], memory_rates=[60e9, 40e9]),
    ]
    row = speed_rows.row_of("ours int8", turns)
    assert row.token_s == pytest.approx(0.225)
    assert row.floor_s == pytest.approx(0.125)  # of 0.15, 0.1, 0.1, 0.15
    assert row.floor_share == pytest.approx(0.5)  # of 0.15 / 0.3, 0.1 / 0.2, 0.1 / 0.2, 0.15 / 0.25
    assert row.first_token_s == 8.5
    assert row.turns == 2
    small = speed_rows.row_of("ours int8", [answer_of([0.2], read_bytes=10**8)])
    assert small.floor_share is None  # caches hold it
    alone = speed_rows.row_of("ctranslate2 int8", [answer_of([0.2], memory_rates=[])])
    assert alone.floor_s is None  # nothing could be read beside its tokens


def test_agreement_ends_at_an_answer_s_first_difference() -> None:
    ours = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert speed_rows.agreement(ours, ours) == (1.0, 2)
    assert speed_rows.agreement(ours, [[1, 2, 9, 4], [5, 6, 7, 8]]) == (0.75, 1)
    assert speed_rows.agreement(ours, [[9, 2, 3, 4], [5, 9, 7, 8]]) == (0.125, 0)


def test_the_table_has_a_line_for_every_row_and_no_empty_column() -> None:
    rows = [
        speed_rows.row_of("ours int8", [answer_of([0.2])]),
        speed_rows.Row("ctranslate2 int8", problem="ctranslate2 is not installed"),
    ]
    header, _, *lines = speed_rows.table(rows, 512).splitlines()
    assert "articles/s" not in header
    assert "same tokens" not in header
    assert "first token (512 in the prompt)" in header
    assert [line.split(" | ")[0] for line in lines] == ["| ours int8", "| ctranslate2 int8"]
    for cell in ("2.0 s", "8.00 GiB", "8.5 s", "0.2 s (0.2 s-0.2 s)", "6.00 GB", "0.15 s", "75%"):
        assert f"| {cell} |" in lines[0], cell
    assert "not installed" in lines[1]
    assert header.count("|") == lines[0].count("|") == lines[1].count("|")


@pytest.mark.parametrize("name", ["theirs:int8", "ours:int9", "openvino:nf4", "ours"])
def test_a_contender_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Contender.parse(name)


def test_what_a_device_cannot_run() -> None:
    assert str(Contender.parse("openvino:int4")) == "openvino int4"
    assert Contender.parse("openvino:int4").problem("cpu") is None
    assert Contender.parse("openvino:int4").problem("cuda")
    assert Contender.parse("transformers:int8").problem("cpu")


class Counting:
    """Answers with the prompt's first token and those after it."""

    stored_bytes, read_bytes, about = 100, 90, "counting"
    short, waits_for_its_reader = False, True

    def __init__(self, request: dict[str, Any]) -> None: ...

    def answer(self, prompt: list[int], new_tokens: int) -> Iterator[int]:
        yield from range(prompt[0], prompt[0] + new_tokens - self.short)

    def answer_all(
        self, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        if beams > 1:
            raise NotImplementedError("no beams")
        return [list(self.answer(prompt, new_tokens)) for prompt in prompts]


def counted(monkeypatch: pytest.MonkeyPatch, work: Work) -> dict[str, Any]:
    monkeypatch.setitem(answering.ENGINES, "ours", ("counting", "Counting"))
    monkeypatch.setitem(sys.modules, "counting", sys.modules[__name__])
    return answering.measure(request(Contender("ours", "int8"), Path(), Path(), work, "cpu", 1, 0))


def test_a_turn_times_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch, Work([[3], [50]], 4, articles=[[1], [2]], article_tokens=5, beams=1))
    assert found["tokens"] == [[3, 4, 5, 6], [50, 51, 52, 53]]
    assert len(found["first_token_s"]) == 2
    assert len(found["token_s"]) == len(found["memory_rates"]) == 6
    assert sum(found["token_s"]) < 0.01  # reading memory between them is not in them: it takes longer
    assert found["articles_per_s"] > 0
    assert found["resident_bytes"] > 2**26
    monkeypatch.setattr(Counting, "waits_for_its_reader", False)
    assert counted(monkeypatch, Work([[3]], 4))["memory_rates"] == []
    monkeypatch.setattr(Counting, "short", True)
    with pytest.raises(RuntimeError, match="3 tokens, not 4"):
        counted(monkeypatch, Work([[3]], 4))


def test_an_engine_without_beams_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(monkeypatch, Work([[3]], 4, articles=[[1]], beams=4))
    assert found["articles_problem"] == "no beams"
    assert "articles_per_s" not in found


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    asked = request(Contender("ours", "int8"), tmp_path / "none", tmp_path, Work([[1]], 2), "cpu", 1, 0)
    asked["engine"] = "no engine"
    assert ask(asked, sys.executable, tmp_path)["problem"].startswith("KeyError")
    assert answering.describe(ModuleNotFoundError(name="ctranslate2")) == "ctranslate2 is not installed"
    assert answering.describe(torch.OutOfMemoryError("CUDA out of memory")) == "out of memory"


def test_streamed_tokens_come_in_order_and_failures_come_through() -> None:
    def generate(streamer: Any) -> None:
        streamer.put(torch.tensor([[7, 8]]))  # the prompt
        for token in (1, 2):
            streamer.put(torch.tensor([token]))
        streamer.end()

    def failing(streamer: Any) -> None:
        raise ValueError("no such token")

    assert list(streamed(generate)) == [1, 2]
    with pytest.raises(ValueError, match="no such token"):
        list(streamed(failing))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_memory_s_rate_is_bytes_by_the_time_of_a_sum(threads: int) -> None:
    reader = MemoryReader(threads, 1 << 22)
    begun_s = time.perf_counter()
    rate = reader.rate()
    assert (1 << 22) / (time.perf_counter() - begun_s) < rate < 1e12


@pytest.mark.parametrize("config", [GPTJ, LLAMA], ids=["gptj", "llama with a tied head"])
def test_merged_weights_are_those_that_peft_merges(config: Any, tmp_path: Path) -> None:
    """And the logits differ from the base's, so that a merge that does nothing is seen."""
    from peft import PeftModel

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "model")
    made = materials.prepare(str(tmp_path / "model"), None, 2, 0, tmp_path / "work")
    assert made.base == tmp_path / "model"
    ids = torch.randint(0, 96, (1, 12))
    with torch.no_grad():
        base = model(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.float32)(ids).logits
        theirs = PeftModel.from_pretrained(model, made.adapter)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.dist(ours, base) > 1e-3 * base.norm()


def test_random_weights_are_written_in_shards_and_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GPTJ.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(materials, "SHARD_BYTES", 8000)
    asked = (f"random:{tmp_path / 'model'}", 1, 2, 0, tmp_path / "work")
    made = materials.prepare(*asked)
    assert len(list(made.base.glob("*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(made.base)
    assert loaded.config.n_layer == 1
    assert float(loaded.lm_head.weight.float().std()) == pytest.approx(0.02, rel=0.1)
    before = (made.merged / "config.json").stat().st_mtime_ns
    assert materials.prepare(*asked) == made
    assert (made.merged / "config.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="--work"):
        materials.prepare(asked[0], 2, *asked[2:])


@pytest.mark.parametrize("config", [GPTJ, LLAMA], ids=["gptj", "llama"])
def test_the_openvino_graph_computes_the_model(config: Any, tmp_path: Path) -> None:
    """Prefill and single steps, beside transformers on the same weights rounded to int8."""
    pytest.importorskip("openvino", reason="openvino is not installed: pip install openvino")
    from answer_openvino import OpenVino, convert
    from openvino_running import EXACT
    from openvino_weights import GROUPS, quantize_groups

    from summarizer.quantization.int8 import quantize

    torch.manual_seed(0)
    untied = type(config)(
        **{**config.to_dict(), "tie_word_embeddings": False}
    )  # tied, answers repeat a token
    model = AutoModelForCausalLM.from_config(untied).eval()
    model.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", "int8")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("lm_head.weight", "wte.weight", "embed_tokens.weight")):
                q, scale = quantize(parameter)
                parameter.copy_(q * scale)
            elif parameter.dim() > 1:
                group = next(size for size in GROUPS["int8"] if parameter.shape[1] % size == 0)
                q, scale = quantize_groups(parameter, group, "int8")
                parameter.copy_((q * scale).reshape(parameter.shape))
    asked = {"threads": 1, "folder": str(tmp_path / "out"), "embedding_weights": 96 * 32, "end_id": 95}
    side = OpenVino(asked, EXACT)
    prompt = list(range(5, 25))
    out = model.generate(
        torch.tensor([prompt]), max_new_tokens=8, min_new_tokens=8, do_sample=False, eos_token_id=95
    )
    found = list(side.answer(prompt, 8))
    assert found == out[0, 20:].tolist()
    assert list(side.answer(prompt, 8)) == found  # the state begins anew


@pytest.mark.slow
def test_the_quick_command_runs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, STUDY / "measure.py", "--quick", "--out=out", "--articles=2", "--article-tokens=4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["ours int8", "ours none", "transformers fp32"]
    assert set(rows[0]) == set(speed_rows.Row.__dataclass_fields__)
    for row in rows:
        assert row["problem"] is None, row
        assert row["turns"] == 2
        assert row["token_s_p10"] <= row["token_s"] <= row["token_s_p90"]
        assert row["articles_per_s"] > 0
        assert 0 <= row["same"] <= 1 if row != rows[0] else row["same"] is None
    assert (tmp_path / "out" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert ended.stdout.split("\n\n", 1)[1].strip() in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_the_kernels_command_has_a_line_for_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import kernel_rates

    if not kernel_rates.native.available(kernel_rates.decode_gemm.CODED):
        pytest.skip("the kernels want Linux, AVX-512 with VNNI and VBMI, and a C compiler")
    for name, value in {"SHAPES": ((128, 256),), "WEIGHTS_AT_ONCE": 1, "PASSES": 1, "LAYERS": 1}.items():
        monkeypatch.setattr(kernel_rates, name, value)
    lines = kernel_rates.table([1, 3]).splitlines()
    assert len([line for line in lines if line.startswith("| 128 to 256 | 3 |")]) == 11
    assert len([line for line in lines if line.startswith("| 128 to 256 |")]) == 11 + 11 + 4
    assert all(line.count("|") == lines[0].count("|") for line in lines[: 2 + 2 * 11])
