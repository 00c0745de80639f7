"""`plan=true`, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import SHARED, TINY, Command


def test_a_plan_loads_no_weight_and_leaves_no_run(command: Command, tmp_path: Path) -> None:
    done = command([*TINY, "plan=true", "plan_tokens_per_s=1000", "adapter.dim=4"])
    assert done.returncode == 0, done.stderr
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
    ):
        assert part in done.stderr, part
    assert "base: " not in done.stderr, "the line that loading prints"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_reference_experiment_is_planned_in_seconds(command: Command, tmp_path: Path) -> None:
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
    done = command([*TINY, "plan=true", *model, "prompt.max_tokens=512", "trainer.memory=low"])
    assert done.returncode == 0, done.stderr
    assert "4,346,752" in done.stderr
    assert "5.6" in done.stderr, "GiB of the base in 8 bits"


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
