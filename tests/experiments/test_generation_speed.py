"""The study of generation's speed: its arithmetic, that all engines get the same weights, that its command runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import REPOSITORY
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig

# Its files import each other by name, as the command does.
sys.path.insert(0, str(REPOSITORY / "experiments" / "generation_speed"))

import answering
import materials
import nearness
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
    sharpness = 1.0
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

    def logits(self, prompt: list[int], given: list[int]) -> Iterator[np.ndarray]:
        """Each token likeliest behind the one ahead of it; how much so depends on how many were read."""
        read = list(prompt)
        for token in given:
            yield self.sharpness * np.sin(np.arange(90.0) * len(read)) + 9 * np.eye(90)[(read[-1] + 1) % 90]
            read.append(token)


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


def test_a_turn_reads_batches_for_their_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int, int]] = []

    def answer_all(
        side: Counting, prompts: list[list[int]], new_tokens: int, beams: int, batch: int
    ) -> list[list[int]]:
        asked.append((len(prompts), new_tokens, beams, batch))
        return [[0]] * len(prompts)

    monkeypatch.setattr(Counting, "answer_all", answer_all)
    found = counted(monkeypatch, Work([[3]], 2, readings=[[[1, 2]], [[1, 2, 3]] * 8]))["readings"]
    assert [(read["articles"], read["tokens"]) for read in found] == [(1, 2), (8, 3)]
    assert asked == [(1, 1, 1, 1)] * answering.READINGS + [(8, 1, 1, 8)] * answering.READINGS
    assert all(len(read["seconds"]) == answering.READINGS for read in found)
    turns = [answer_of([0.2], readings=[found[0] | {"seconds": s}]) for s in ([3.0, 2.0], [1.0])]
    row = speed_rows.row_of("ours int8", turns)
    assert row.readings == (speed_rows.Reading(1, 2, 2.0),)
    lines = speed_rows.reading_table([row, speed_rows.Row("other", problem="broken")]).splitlines()
    assert lines[0] == "| prompt | articles | ours int8 |"
    assert lines[2:] == ["| 2 | 1 | 2 s |"]
    assert speed_rows.reading_table([speed_rows.Row("other")]) == ""


def test_the_divergence_is_torch_s() -> None:
    first, second = (torch.randn(50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = torch.nn.functional.kl_div(
        second.log_softmax(0), first.log_softmax(0), reduction="sum", log_target=True
    )
    padded = torch.cat([second, torch.full((7,), 30.0)]).numpy()
    found = nearness.divergence(nearness.log_softmax(first.numpy()), padded)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_nearness_is_to_the_engine_that_wrote_the_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, prompts = tmp_path / "reference.safetensors", [[3], [50, 51]]
    exact = Counting({})
    nearness.write_reference(exact, prompts, 4, file)
    same = nearness.nearness(exact, prompts, file)
    assert np.abs(same["kl"]).max() < 1e-6
    monkeypatch.setattr(Counting, "sharpness", 2.0)
    blurred = nearness.nearness(Counting({}), prompts, file)
    assert np.shape(blurred["kl"]) == np.shape(blurred["same_best"]) == (2, 4)
    monkeypatch.setattr(Counting, "sharpness", 1.0)
    logits = list(exact.logits([50, 51], [50, 51, 52, 53]))[2]  # behind four tokens
    theirs = logits + np.sin(np.arange(90.0) * 4)
    p = np.exp(logits) / np.exp(logits).sum()
    expected = (p * (np.log(p) - theirs + np.log(np.exp(theirs).sum()))).sum()
    assert blurred["kl"][1][2] == pytest.approx(expected, rel=1e-4)
    row = speed_rows.row_of("ours int8", [answer_of([0.2], **blurred)])
    assert row.kl_first == pytest.approx((blurred["kl"][0][0] + blurred["kl"][1][0]) / 2)
    assert row.kl_further == pytest.approx(np.mean([one[1:] for one in blurred["kl"]]))
    assert row.same_best == np.mean(blurred["same_best"])


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

    model = untied_model(config, tmp_path / "model")
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
    found = list(side.answer(prompt, 8))
    assert found == greedy(model, prompt, 8)
    assert list(side.answer(prompt, 8)) == found  # the state begins anew
    other = list(range(40, 60))
    assert side.answer_all([prompt, other, prompt], 8, 1, 2) == [found, greedy(model, other, 8), found]
    assert side.answer_all([prompt, other[1:]], 8, 1, 2) == [found, greedy(model, other[1:], 8)]
    assert_logits(side, model, prompt, 1e-4)


def greedy(model: Any, prompt: list[int], new_tokens: int) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=95,
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


def assert_logits(side: Any, model: Any, prompt: list[int], tolerance: float) -> None:
    """Of an engine, beside the model's own in one pass; the tokens that are given are not those it would choose."""
    given = [7, 90, 3, 3]
    with torch.no_grad():
        expected = model(torch.tensor([prompt + given])).logits[0, len(prompt) - 1 : -1]
    found = torch.tensor(np.stack(list(side.logits(prompt, given))))
    assert torch.dist(found[:, :96], expected) < tolerance * expected.norm()


def untied_model(config: Any, folder: Path) -> Any:
    """Tied, answers repeat a token."""
    torch.manual_seed(0)
    untied = type(config)(**{**config.to_dict(), "tie_word_embeddings": False})
    model = AutoModelForCausalLM.from_config(untied).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("config", [GPTJ, LLAMA], ids=["gptj", "llama"])
def test_llama_cpp_s_file_computes_the_model(config: Any, tmp_path: Path) -> None:
    """GPT-J as a Phi-2, its rows in another order; both in fp32."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from answer_llama_cpp import LlamaCpp, convert

    model = untied_model(config, tmp_path / "model")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # which a new model has at 0
                parameter.normal_(0, SPREAD)
    model.save_pretrained(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", "f32")
    work = Work([[0] * 40], 8)
    asked = request(Contender("llama_cpp", "f32"), tmp_path / "out", tmp_path, work, "cpu", 1, 96 * 32)
    side = LlamaCpp(asked | {"end_id": 95})
    prompt = list(range(5, 25))
    found = list(side.answer(prompt, 8))
    assert found == greedy(model, prompt, 8)
    assert side.answer_all([prompt, prompt[1:]], 8, 1, 2) == [found, greedy(model, prompt[1:], 8)]
    assert_logits(side, model, prompt, 2e-3)  # its keys and values are in fp16
    assert side.read_bytes == side.stored_bytes - 4 * 96 * 32


@pytest.mark.parametrize("variant", ["q8_0", "q4_0"])
def test_llama_cpp_s_quantizer_makes_what_is_asked_for(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from answer_llama_cpp import FILE, convert
    from gguf import GGUFReader

    untied_model(LLAMA, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out", variant)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / FILE).tensors}
    assert kinds["blk.1.attn_q.weight"] == kinds["token_embd.weight"] == variant.upper()
    assert not (tmp_path / "out" / "dense.gguf").exists()


def test_transformers_gives_the_logits_of_its_decoding(tmp_path: Path) -> None:
    from answer_transformers import Transformers

    model = untied_model(LLAMA, tmp_path)
    asked = request(Contender("transformers", "fp32"), tmp_path, tmp_path, Work([[1]], 2), "cpu", 1, 0)
    assert_logits(Transformers(asked), model, list(range(5, 25)), 1e-5)


def test_ctranslate2_gives_its_logits(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed")
    from answer_ctranslate2 import CTranslate2, convert

    model = untied_model(LLAMA, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "out")
    asked = request(Contender("ctranslate2", "int8"), tmp_path / "out", tmp_path, Work([[1]], 2), "cpu", 1, 0)
    assert_logits(CTranslate2(asked), model, list(range(5, 25)), 0.1)  # its weights are in int8


def test_ours_gives_the_logits_of_its_decoding(tmp_path: Path) -> None:
    from answer_ours import Ours

    untied_model(LLAMA, tmp_path / "model")
    made = materials.prepare(str(tmp_path / "model"), None, 2, 0, tmp_path / "work")
    asked = request(Contender("ours", "none"), made.base, made.adapter, Work([[1]], 2), "cpu", 1, 0)
    merged = AutoModelForCausalLM.from_pretrained(made.merged, dtype=torch.float32).eval()
    assert_logits(Ours(asked), merged, list(range(5, 25)), 0.1)  # in bf16


@pytest.mark.slow
def test_the_quick_command_runs(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            *(
                sys.executable,
                STUDY / "measure.py",
                "--quick",
                "--out=out",
                "--articles=2",
                "--article-tokens=4",
            ),
            *("--reading-tokens", "16", "--reading-articles", "1", "2", "--kl-tokens", "3"),
        ],
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
        assert [(read["articles"], read["tokens"]) for read in row["readings"]] == [(1, 16), (2, 16)]
        assert row["kl_first"] < 0.01
        assert row["kl_further"] < 0.01
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
