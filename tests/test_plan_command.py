"""`plan=true`, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SHARED, TINY, Command, run_here


def test_a_plan_loads_no_weight_and_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_here([*TINY, "plan=true", "plan_tokens_per_s=1000.0", "adapter.dim=4"])
    said = capsys.readouterr().err
    for part in (
        "base",
        "adapters",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "together",
        "steps",
        "time",
        "4 rows",
        "loss and summary by the base",
        "scores of 4 rows take",
    ):
        assert part in said, part
    assert "base model: " not in said, "the line that loading prints"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_the_reference_experiment_is_planned_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-J-6B from its config alone: no weight is there to load."""
    folder = tmp_path / "gptj"
    folder.mkdir()
    from transformers import GPTJConfig

    GPTJConfig().save_pretrained(folder)
    tokenizer = SHARED / "tiny_gptj"
    if not tokenizer.is_dir():
        pytest.skip("needs ../shared/tiny_gptj for its tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    model = ("model=hf", f"model.name_or_path={folder}")
    monkeypatch.chdir(tmp_path)
    run_here([*TINY, "plan=true", *model, "prompt.max_tokens=512", "trainer.memory=low"])
    said = capsys.readouterr().err
    assert "4,346,752" in said
    assert "5.6" in said, "GiB of the base in 8 bits"


WRONG = {
    "plan=maybe": "plan: 'maybe' is not true or false",
    "plan_tokens_per_s=0": "plan_tokens_per_s: 0 is not a number above 0",
    "trainer.memory=slow": "trainer.memory: 'slow' is not one of fast, low, auto",
    "trainer.batch_tokens=0": "trainer.batch_tokens: 0 is not a whole number of at least 1, auto or null",
    "trainer.compile=perhaps": "trainer.compile: 'perhaps' is not true, false, auto or graphs",
    "trainer.gradient_checkpointing=true": "trainer.gradient_checkpointing: unknown key",
}


def test_what_is_wrong_is_said_of_every_key(command: Command) -> None:
    done = command([*TINY, *WRONG])
    assert done.returncode == 2
    for message in WRONG.values():
        assert message in done.stderr
    assert f"{len(WRONG)} mistakes:" in done.stderr
