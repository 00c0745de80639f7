"""The study of training throughput: its arithmetic, that both sides do the same work, that its command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import REPOSITORY

# Its files import each other by name, as the command does.
sys.path.insert(0, str(REPOSITORY / "experiments" / "training_throughput"))

import anatomy
import measure
import report
import turns
import worker
from workload import Contender, Point, Setting, build_workload

STUDY = REPOSITORY / "experiments" / "training_throughput"
SETTING = Setting("embedded:tiny_gptj", None, None, 16, "cpu")
POINT = Point(2, 48, 2)


def row(
    contender: str, tokens_per_s: float | None, ratio: float | None = None, length: int = 1024
) -> report.Row:
    return report.Row(contender, 2, length, 2, tokens_per_s=tokens_per_s, ratio=ratio)


def test_percentiles_of_known_values() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [report.percentile(values, percent) for percent in (0, 10, 50, 90, 100)] == [1, 1.4, 3, 4.6, 5]
    assert report.median([4.0, 1.0]) == 2.5


def test_ratios() -> None:
    assert report.ratio(30.0, 10.0) == 3
    assert report.ratio(None, 10.0) is None
    assert report.ratio(30.0, None) is None
    assert report.relative_difference(2.2, -2.0) == pytest.approx(2.1)


def test_a_ratio_to_another_peer_goes_by_the_reference_that_both_alternated_with() -> None:
    """The GPU slowed down by half between the two rounds; the ratio must not see it."""
    rows = [row("peer int8", 100, 1.0), row("ours int8", 1000, 10.0), row("peer bf16", 150, 3.0)]
    assert report.ratios_to(rows[1], rows, "peer bf16") == pytest.approx(10 / 3)
    assert report.ratios_to(rows[1], rows, "peer int8") == 10
    assert report.ratios_to(rows[1], rows, "peer nf4") is None
    without = [replace(r, ratio=None) for r in rows]
    assert report.ratios_to(without[1], without, "peer bf16") == pytest.approx(1000 / 150)
    assert report.ratios_to(row("ours int8", 1000, 10.0, length=256), rows, "peer bf16") is None


def test_the_table_has_a_line_for_every_row_and_a_column_for_every_peer() -> None:
    full = replace(
        row("ours int8", 19268.4, 7.858),
        step_s=0.1063,
        step_s_p10=0.105,
        step_s_p90=1.5,
        peak_bytes=23 * 2**30,
        mfu=0.512,
        loss=2.5,
        gradient_norm=1.25,
        loss_difference=0.0012,
        gradient_difference=0.5,
        agrees=False,
        first_step_s=31.0,
        compile_s=28.0,
        start_s=40.0,
        note="after running out of memory, at most 1 at once",
    )
    rows = [full, row("peer int8", 2452, 1.0), replace(row("peer bf16", None), problem="out of memory")]
    lines = report.table(rows, ["peer int8", "peer bf16"]).splitlines()
    assert len(lines) == 2 + 3 + 2
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert "x peer int8 | x peer bf16" in lines[0]
    for cell in (
        "19,268",
        "7.86",
        "106.3 (105.0-1,500) ms",
        "23.00 GiB",
        "51.2%",
        "(0.12 %, DISAGREES)",
        "28.0 s",
    ):
        assert f"| {cell} |" in lines[2] or cell in lines[2], cell
    assert "out of memory" in lines[4]
    assert lines[-1] == "2 x 1024, 2, ours int8: after running out of memory, at most 1 at once"


def test_the_grid_begins_at_its_center() -> None:
    points = measure.grid([2, 4], [256, 1024], [2, 16], full=False)
    assert points[0] == Point(2, 1024, 2)
    assert set(points) == {Point(2, 1024, 2), Point(2, 256, 2), Point(4, 1024, 2), Point(2, 1024, 16)}
    assert len(measure.grid([2, 4], [256, 1024], [2, 16], full=True)) == 8


def test_the_reference_is_in_every_round_and_everyone_in_one() -> None:
    contenders = [Contender("ours", name) for name in ("int8", "fp8", "none")]
    contenders += [Contender("peer", name) for name in ("int8", "bf16")]
    points = [Point(2, 1024, 2), Point(2, 256, 2), Point(2, 1024, 16)]
    found = list(turns.rounds(points, contenders, together=3))
    assert [own for own, _ in found] == [points[:2]] * 2 + [points[2:]] * 2
    assert all(chosen[0] == contenders[3] and len(chosen) <= 3 for _, chosen in found)
    assert {contender for _, chosen in found for contender in chosen} == set(contenders)
    alone = [chosen for _, chosen in turns.rounds(points[:1], contenders, together=1)]
    assert alone == [[contenders[3]], *([c] for c in contenders if c != contenders[3])]


@pytest.mark.parametrize(
    ("contender", "named"),
    [
        (Contender("ours", "int9"), "int9"),
        (Contender("ours", "int8+checkpointing"), "checkpointing"),
        (Contender("peer", "int8+low"), "low"),
    ],
)
def test_a_contender_that_is_none_is_named(contender: Contender, named: str) -> None:
    assert named in (contender.problem() or "")
    assert Contender("ours", "int8+low+fp32").problem() is None
    assert Contender("ours", "int8+graphs").overrides()[-1] == "trainer.compile=graphs"
    assert Contender("peer", "nf4+checkpointing").problem() is None


def test_made_rows_are_full_and_the_same_for_every_contender() -> None:
    plain, ours = (
        build_workload(SETTING, POINT, more) for more in ((), Contender("ours", "nf4+low").overrides())
    )
    batches = [next(stream) for stream in (plain.stream(), ours.stream())]
    assert batches[0] == batches[1]
    assert plain.lengths(batches[0]) == [48, 48]
    assert [len(r.target_ids) for r in batches[0]] == [16, 16]
    assert ours.spec.quantization.format == "nf4"
    assert ours.spec.trainer.memory == "low"


@pytest.mark.slow
def test_both_sides_take_the_same_steps() -> None:
    """Unquantized and in fp32: the same loss and gradient norm, step after step, as the optimizer moves on."""
    numbers = {}
    for contender in (Contender("ours", "none+fp32"), Contender("peer", "fp32")):
        turns = worker.Turns(SETTING, contender, POINT)
        turns.begin(POINT, 1)
        turn = turns.steps(2, 0)
        assert turn.tokens == [96, 96]
        again = turns.begin(POINT, 1)
        numbers[contender.side] = again.numbers + turn.numbers
        assert len(turn.seconds) == 2
        assert turn.peak_bytes > 2**26
    assert len(numbers["peer"]) == 3
    for ours, theirs in zip(numbers["ours"], numbers["peer"], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert numbers["ours"][0] != pytest.approx(numbers["ours"][1], rel=1e-3)


def test_what_a_step_s_operators_are_counted_as() -> None:
    stored = torch.randint(-127, 128, (512, 512), dtype=torch.int8)
    x, scale = torch.randn(4, 512), torch.tensor(0.5)
    counts = anatomy.count_step(lambda: x @ stored.float().t() * scale, torch.device("cpu"))
    assert counts["products"] == 1
    assert counts["dequantizations"] == 1
    assert counts["dequantized_bytes"] == 512 * 512 * 4
    assert counts["copied_bytes"] == 512 * 512 * (1 + 4)
    assert counts["operators"] == 3
    assert counts["host_waits"] == 0
    assert anatomy.count_step(lambda: torch.ones(2).sum().item(), torch.device("cpu"))["host_waits"] == 1
    quantized = anatomy.count_step(lambda: torch.zeros(512, 512).to(torch.float8_e4m3fn), torch.device("cpu"))
    assert (quantized["quantizations"], quantized["dequantizations"]) == (1, 0)
    table = anatomy.anatomy_table({"ours": counts, "peer": quantized}, {"other": "out of memory"})
    assert "| matrix products | 1 | 0 |" in table
    assert table.endswith("other: out of memory")


def test_a_worker_that_fails_says_why() -> None:
    message = worker.describe(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert message == "out of memory"
    assert worker.describe(ValueError("no\n such")) == "ValueError: no such"
    failing = Point(2, 48, 2)
    arguments = Namespace(turns=2, warm_steps=1, warm_steps_of_turn=0, steps=2)

    class Bar:
        def note(self, text: str) -> None: ...
        def advance(self) -> None: ...

    class Dead:
        def begin(self, point: Point, warm_steps: int) -> worker.Begun:
            raise worker.ContenderFailed("out of memory")

    contender = Contender("peer", "int8")
    assert turns.take_turns({contender: Dead()}, {}, failing, arguments, Bar()) == {
        contender: "out of memory"
    }


@pytest.mark.slow
def test_the_quick_command_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, STUDY / "measure.py", "--quick", f"--out={out}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["contender"] for row in rows[:3]] == ["ours int8", "ours none+fp32", "peer fp32"]
    assert len(rows) == 6
    assert set(rows[0]) == set(report.Row.__dataclass_fields__)
    for found in rows:
        assert found["problem"] is None, found
        assert found["steps"] == 4
        assert found["step_s_p10"] <= found["step_s"] <= found["step_s_p90"]
        assert found["tokens_per_s"] == pytest.approx(2 * found["length"] / found["step_s"], rel=0.3)
        assert found["agrees"] is (None if found["contender"] == "peer fp32" else True)
        assert found["mfu"] is None or 0 < found["mfu"] <= 1
    assert rows[1]["loss_difference"] < 1e-4
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert ended.stdout.strip() in (out / "results.md").read_text()


@pytest.mark.slow
def test_anatomy_of_random_weights(tmp_path: Path) -> None:
    """A folder with a config alone: both sides draw the same weights."""
    from transformers import GPTJConfig

    config = GPTJConfig(vocab_size=8192, n_embd=64, n_layer=2, n_head=2, rotary_dim=16, n_positions=128)
    config.save_pretrained(tmp_path / "model")
    setting = replace(SETTING, model=f"random:{tmp_path / 'model'}")
    numbers = []
    for contender in (Contender("ours", "none+fp32"), Contender("peer", "fp32")):
        turns = worker.Turns(setting, contender, POINT)
        numbers += turns.begin(POINT, 1).numbers
        assert turns.anatomy()["products"] > 20
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


@pytest.mark.slow
def test_the_mixed_dims_command_runs() -> None:
    ended = subprocess.run(
        [sys.executable, STUDY / "mixed_dims.py", "--steps", "1"], capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| mixed",
        "| equal, 2",
        "| equal, 21",
        "| equal, 64",
    ]
    assert lines[2].endswith("| 1.00 x |")


@pytest.mark.slow
def test_the_kinds_command_runs() -> None:
    options = ["--kinds", "lora,dora", "--trials", "1", "--steps", "1", "data.rows.train=8"]
    ended = subprocess.run(
        [sys.executable, STUDY / "kinds.py", *options], capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| lora", "| dora", "| all kinds in one group"]
    assert lines[2].endswith("| 1.00 |")


@pytest.mark.slow
def test_the_commands_of_the_kernels_run() -> None:
    for name, lines in (("kernels_in_a_step.py", 6), ("attention.py", 3)):
        ended = subprocess.run(
            [sys.executable, STUDY / name, "--turns", "1"], capture_output=True, text=True, timeout=280
        )
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) >= lines
