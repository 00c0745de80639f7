"""The loop against plain transformers + peft + torch, and against itself in other groupings."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor
from training_groups import Watching, build_group, losses_of, spec_of, train
from transformers import GPTJForCausalLM

from summarizer.adapters.peft_format import save_adapter
from summarizer.data.order import EncodedRow
from summarizer.data.prompt import Prompt
from summarizer.errors import NonFiniteLossError, StopRequested
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.training.schedule import TrainingSchedule, rate_factor, total_steps
from summarizer.training.stopping import StopSignal
from summarizer.training.trainer import note_evaluation
from summarizer.training.trial import Trial

pytestmark = pytest.mark.versions

STEPS = 4


def padded(rows: Sequence[EncodedRow], prompt: Prompt) -> dict[str, Tensor]:
    """A batch as transformers is usually given one: padded at the right, masked, labels where the summary is."""
    examples = [prompt.training_ids(row.article_ids, row.target_ids) for row in rows]
    longest = max(len(ids) for ids, _ in examples)
    batch: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, before in examples:
        ids = torch.tensor(ids)
        missing = longest - len(ids)
        batch["input_ids"].append(F.pad(ids, (0, missing), value=prompt.pad_id))
        batch["attention_mask"].append(F.pad(torch.ones_like(ids), (0, missing)))
        batch["labels"].append(F.pad(F.pad(ids[before:], (before, 0), value=-100), (0, missing), value=-100))
    return {name: torch.stack(tensors) for name, tensors in batch.items()}


def adamw(peer: PeftModel, ratio: float) -> torch.optim.Optimizer:
    """PEFT's own optimizer for LoRA+, its embedding's pair and weight decay as here."""
    optimizer = create_loraplus_optimizer(
        peer, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=ratio, loraplus_weight_decay=0.01
    )
    embedding = optimizer.param_groups.pop(1)["params"]
    for group, name in zip(optimizer.param_groups[:2], "AB", strict=True):
        of_embedding = (p for n, p in peer.named_parameters() if f"lora_embedding_{name}" in n)
        group["params"] += [p for p in of_embedding if any(p is other for other in embedding)]
    return optimizer


@pytest.mark.parametrize("ratio", [1.0, 4.0])
def test_trains_as_transformers_and_peft_do(ratio: float, tmp_path: Path) -> None:
    spec = spec_of(
        "adapter=lora_plus",
        f"adapter.loraplus_lr_ratio={ratio}",
        "optimizer=adamw",
        "optimizer.lr=1e-2",
        f"trainer.max_steps={STEPS}",
        "trainer.max_grad_norm=0.5",
        "trainer.schedule.name=linear",
        "trainer.schedule.warmup_steps=2",
        "trainer.microbatch_size=1",
    )
    group = build_group([spec], tmp_path)
    save_adapter(group.adapted, 0, tmp_path / "start", "tiny")
    dense = {
        name: module.base.weight.dense(torch.float32).clone() for name, module in group.adapted.layers.items()
    }

    reference = GPTJForCausalLM(load_config(model_folder(spec.model)))
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            module, _, leaf = name.rpartition(".")
            if module in dense:
                source = dense[module] if leaf == "weight" else group.adapted.layers[module].base.bias
            else:
                source = group.adapted.model.get_parameter(name)
            parameter.copy_(source)
    peer = PeftModel.from_pretrained(reference, tmp_path / "start", is_trainable=True)
    trainable = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = adamw(peer, ratio)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert sorted({*rates}) == sorted({1e-2, 1e-2 * ratio})
    (trial,) = group.trials
    batches = trial.rows.batches(spec.seed, 2, 0, shuffle=True, group_by_length=False)
    expected = []
    for step in range(1, STEPS + 1):
        loss = peer(**padded(next(batches), group.prompt)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 0.5)
        for own, rate in zip(optimizer.param_groups, rates, strict=True):
            own["lr"] = rate * rate_factor(spec.trainer.schedule, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())

    watched = train(group)
    assert watched.losses[trial] == pytest.approx(expected, rel=1e-4)
    final = watched.final[trial]
    theirs = {name.replace(".default", ""): p for name, p in peer.named_parameters() if p.requires_grad}
    assert len(theirs) == len(final) == 76
    for name, tensor in final.items():
        # Adam divides by the gradient's size: rounding in one near zero moves a value by up to its rate.
        assert (tensor - theirs[name]).abs().mean() < 2e-4, name


@pytest.mark.slow
def test_a_group_trains_each_trial_as_it_would_train_alone(tmp_path: Path) -> None:
    common = (f"trainer.max_steps={STEPS}", "trainer.microbatch_size=1")
    specs = [
        spec_of("adapter.dim=2", "optimizer.lr=1e-3", "seed=0", *common),
        spec_of("adapter.dim=5", "optimizer.lr=3e-3", "seed=1", *common),
        spec_of("adapter.dim=3", "optimizer=adamw", "optimizer.lr=1e-2", "seed=2", *common),
    ]
    together = train(build_group(specs, tmp_path / "together"))
    for spec, (trial, losses) in zip(specs, together.losses.items(), strict=True):
        group = build_group([spec], tmp_path / f"alone{spec.seed}")
        (by_itself,) = group.trials
        alone = train(group)
        assert losses == pytest.approx(alone.losses[by_itself], rel=1e-4)
        assert together.final[trial].keys() == alone.final[by_itself].keys()
        for name, tensor in alone.final[by_itself].items():
            assert (together.final[trial][name] - tensor).abs().mean() < 2e-4, name


@pytest.mark.parametrize(
    "override", ["trainer.microbatch_size=1", "trainer.memory=low"], ids=lambda text: text
)
def test_how_a_batch_is_computed_does_not_change_it(override: str, tmp_path: Path) -> None:
    plain = losses_of(build_group([spec_of("trainer.max_steps=3")], tmp_path / "plain"))
    other = losses_of(build_group([spec_of("trainer.max_steps=3", override)], tmp_path / "other"))
    assert other[0] == pytest.approx(plain[0], rel=1e-5)


@pytest.mark.slow
def test_dropout_is_drawn_again_where_activations_are_recomputed(tmp_path: Path) -> None:
    overrides = ("trainer.max_steps=3", "adapter.dropout=0.3", "optimizer.lr=1e-2")
    plain = losses_of(build_group([spec_of(*overrides)], tmp_path / "plain"))
    again = losses_of(build_group([spec_of(*overrides, "trainer.memory=low")], tmp_path / "again"))
    without = losses_of(
        build_group([spec_of("trainer.max_steps=3", "optimizer.lr=1e-2")], tmp_path / "without")
    )
    assert again[0] == pytest.approx(plain[0], rel=1e-5)
    assert plain[0][1:] != pytest.approx(without[0][1:], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_step_and_rows(tmp_path: Path) -> None:
    group = build_group([spec_of("optimizer.lr=1e30", "trainer.checkpoint_every_steps=1")], tmp_path)
    (trial,) = group.trials
    (why,) = train(group).why.values()
    assert why.by == "error"
    assert isinstance(why.error, NonFiniteLossError)
    assert re.search(r"at step 2 on rows sample-\d-\d\d, sample-\d-\d\d", str(why.error))
    assert [path.name for path in trial.checkpoints.iterdir()] == ["step-00000001"]


def test_a_stop_signal_before_the_first_step_saves_nothing(tmp_path: Path) -> None:
    group = build_group([spec_of("trainer.max_steps=4")], tmp_path)
    (trial,) = group.trials
    stop = StopSignal()
    stop.number = 15
    assert [why.by for why in train(group, stop=stop).why.values()] == ["signal"]
    assert (trial.state.step, trial.checkpoints.exists()) == (0, False)


def test_a_stop_in_the_evaluation_after_the_first_step_leaves_it_untaken(tmp_path: Path) -> None:
    group = build_group([spec_of("trainer.max_steps=4")], tmp_path)
    (trial,) = group.trials

    class Stopped(Watching):
        def first_step_taken(self) -> None:
            assert trial.state.step == 1
            raise StopRequested(15)

    with pytest.raises(StopRequested):
        train(group, Stopped(group))
    assert (trial.state.step, trial.state.tokens, trial.checkpoints.exists()) == (0, 0, False)


@pytest.mark.slow
def test_the_evaluation_after_the_first_step_takes_none_of_its_time(tmp_path: Path) -> None:
    group = build_group([spec_of("trainer.max_steps=2", "trainer.log_every_steps=1")], tmp_path)
    (trial,) = group.trials

    class Slow(Watching):
        def first_step_taken(self) -> None:
            super().first_step_taken()
            time.sleep(3)

    train(group, Slow(group))
    assert 0 < trial.state.train_s < 3


def test_early_stopping_waits_for_its_patience(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, 2.5, 2.4, 2.3, 1.0])
    group = build_group(
        [spec_of("trainer.epochs=5", "trainer.evaluate_every_steps=1", "trainer.early_stopping.patience=2")],
        tmp_path,
    )
    (trial,) = group.trials
    watched = train(group, Watching(group, lambda trial: next(values)))
    assert watched.why[trial].by == "early_stopping"
    reached = trial.state
    assert (reached.step, reached.best_step, reached.best_value) == (4, 2, 2.0)


def test_values_that_are_not_finite_use_patience_up_from_the_first_on(tmp_path: Path) -> None:
    (trial,) = build_group([spec_of()], tmp_path).trials
    for value in (float("nan"), float("inf")):
        note_evaluation(trial, value)
    assert (trial.state.best_value, trial.state.evaluations_since_best) == (None, 2)


def test_the_best_evaluation_is_what_is_kept(tmp_path: Path) -> None:
    group = build_group([spec_of("trainer.best_metric=val/rouge1")], tmp_path)
    trial: Trial = group.trials[0]
    name, parameter = next(iter(trial.parameters.items()))
    for step, value in enumerate([10.0, float("nan"), 12.0, 11.0], start=1):
        trial.state.step = step
        parameter.data.fill_(step)
        note_evaluation(trial, value)
    kept = copy.deepcopy(trial.state)
    trial.restore_best()
    assert (kept.best_step, kept.best_value, kept.evaluations_since_best) == (3, 12.0, 1)
    assert (trial.parameters[name] == 3).all()


@pytest.mark.parametrize(("total", "step", "expected"), [(10, 3, 0), (10, 8, 2), (10, 10, 3), (8, 8, 2)])
def test_the_evaluation_at_the_end_counts_wherever_it_lies(total: int, step: int, expected: int) -> None:
    assert TrainingSchedule(total, None, 4, 4, "max_steps").evaluations_by(step) == expected


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps_per_epoch", "expected"),
    [(3.0, None, 50, 150), (0.5, None, 5, 3), (3.0, 20, 50, 20), (None, 7, None, 7), (1.0, 500, 50, 50)],
)
def test_total_steps(
    epochs: float | None, max_steps: int | None, steps_per_epoch: int | None, expected: int
) -> None:
    trainer = spec_of().trainer.model_copy(update={"epochs": epochs, "max_steps": max_steps})
    assert total_steps(trainer, steps_per_epoch) == expected
