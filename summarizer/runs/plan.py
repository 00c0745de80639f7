"""`plan=true`: what a run would take, in memory, steps, tokens, arithmetic and time; no weight is read for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from omegaconf import MISSING, OmegaConf
from rich.table import Table

from summarizer import compat
from summarizer.config.schema import RunConfig
from summarizer.console.amounts import duration
from summarizer.console.progress import console, working
from summarizer.data.hold_out import SplitName
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.splits import Split, build_split
from summarizer.errors import CannotPlan, ConfigError
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.processes import join_processes, leave_processes
from summarizer.runs.advice import advise, learned_tokens
from summarizer.runs.heldout import confirming_rows
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord
from summarizer.sweeps.candidates import MOST_RUNNERS_UP
from summarizer.tracking.utilization import matrix_rate, memory_rate
from summarizer.training.dry_run import BuildOptimizer, DryRun, Microbatch, group_state_bytes
from summarizer.training.require_memory import require_adapter_fits, require_generation_fits
from summarizer.training.schedule import total_steps, training_schedule
from summarizer.training.sizing import (
    GIB,
    dry_run_of,
    plan_slots,
    process_count,
    rows_at_once,
    size_run,
    trained_numbers,
    widest,
)

WHAT = {
    "base": "frozen weights, norms and tables",
    "adapters": "trained, in fp32",
    "gradients": "of the adapters",
    "optimizer": "its state after the first step",
    "activations": "kept for the backward pass",
    "logits": "the head, its logits and the loss",
    "temporaries": "all else at that moment",
}
"""Parts of the memory, in the order in which they are shown."""

log = logging.getLogger(__name__)


def show_plan(records: Sequence[RunRecord]) -> Plan:
    """Print the plan of runs that would train as a group. Raises ConfigError as they would."""
    specs = [preflight(OmegaConf.create(record.config), imported=True) for record in records]
    if not compat.can_simulate():
        raise ConfigError.single("plan", "true: a step cannot be planned with the torch that is installed")
    spec = widest(specs)
    processes = join_processes(device=spec.trainer.device, precision=spec.trainer.precision, wanted=None)
    folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    require_adapter_fits(spec, config, processes.dtype, processes.device)
    require_generation_fits(spec.generation, spec.prompt.max_tokens, config, processes.device)
    prompt = build_prompt(spec.prompt, load_tokenizer(folder))
    sizing = size_run(spec, config, processes.dtype, processes.device)
    sizing = plan_slots(specs, sizing, config, processes.dtype, processes.device)
    rows = rows_at_once(spec)
    if (limit := sizing.microbatches.tokens) is not None:
        rows = max(min(rows, limit // (sizing.slots * prompt.max_tokens)), 1)
    steps_per_epoch: int | None = None
    training: Split | None = None
    if spec.data.streaming:
        assert spec.trainer.max_steps is not None
        tokens = spec.trainer.max_steps * spec.trainer.batch_size * prompt.max_tokens
        work, longest = Work(spec.trainer.max_steps, tokens, None), prompt.max_tokens
    else:
        training = build_split(spec.data, "train", prompt)
        for note in training.notes:
            log.info("%s", note)
        lengths = training.training_tokens
        steps_per_epoch = -(-len(lengths) // spec.trainer.batch_size)
        steps = total_steps(spec.trainer, steps_per_epoch)
        work, longest = Work(steps, round(sum(lengths) * steps / steps_per_epoch), sum(lengths)), max(lengths)
    splits = {name: build_split(spec.data, name, prompt) for name in _scored_splits(spec)}
    evaluations = training_schedule(spec.trainer, steps_per_epoch).evaluations_by(work.steps)
    scoring = scoring_of(spec, splits, evaluations, len(specs), sizing.evaluation_rows) if splits else None
    if scoring is not None and records[0].sweep is not None:
        scoring = with_confirming(scoring, specs, prompt, sizing.evaluation_rows)
    # The widest, and as many others as train beside it.
    together = sorted(specs, key=lambda one: one is not spec)[: sizing.slots]
    optimizers = [one.optimizer.build for one in together]
    try:
        with working("planning a step"):
            run = dry_run_of(together, config, processes.dtype, sizing)
            plan = build_plan(run, optimizers, Microbatch(rows, longest), work)
            plan = replace(plan, processes=process_count(spec))
        if scoring is not None:
            # A GPU is a process's own, the cores and the memory of a machine are shared.
            devices = process_count(spec) if processes.device.type == "cuda" else 1
            rates = (
                devices * matrix_rate(processes.device, processes.dtype),
                devices * memory_rate(processes.device),
            )
            plan = replace(plan, scoring=replace(scoring, rates=rates))
    except CannotPlan as error:
        raise ConfigError.single("plan", f"true: a step of this model cannot be planned ({error})") from error
    console().print(plan.table(spec.plan_tokens_per_s))
    every_steps = [total_steps(one.trainer, steps_per_epoch) for one in specs]
    learned = None
    if training is not None and steps_per_epoch is not None:
        learned = learned_tokens(training.summary_tokens, max(every_steps), steps_per_epoch)
    for line in advise(specs, every_steps, trained_numbers(specs, config, processes.dtype), learned):
        log.info("advice: %s", line)
    log.info(plan.describe(spec.plan_tokens_per_s))
    leave_processes()
    return plan


# ---- the plan of a group -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """How much a run trains, as its data and trainer say."""

    steps: int
    """Optimizer steps in all."""
    tokens: int
    """Of each trial, prompts included and padding not, in all steps."""
    tokens_per_epoch: int | None
    """None where only reading to the end would tell."""


@dataclass(frozen=True)
class Scoring:
    """What the scores of a group's runs take beside their training: losses and summaries of held-out rows.

    Every system, the base model or a run's adapter, reads a row twice: for its loss, and to write its summary.
    """

    split: str
    rows: int
    """Of the scores at the end."""
    base: bool
    """Whether the base model is scored too, at step 0 and at the end."""
    trials: int
    evaluations: int
    """Of each trial, during training."""
    loss_rows: int
    summary_rows: int
    """Of one of those."""
    read_tokens: int
    """By all systems, in all evaluations and at the end."""
    written_tokens: int
    """Likewise, where summaries are as long as the references."""
    decode_steps: int
    """In which those are written, many rows at once; each reads all frozen weights."""
    confirming: tuple[str, int, int, int] | None = None
    """Of a sweep: the split, its rows, the most settings and the most runs that its answer is confirmed on."""
    rates: tuple[float, float] | None = None
    """FLOP/s of matrix products and bytes/s from memory, as measured on the device."""

    def seconds(self, plan: Plan, tokens_per_s: float | None) -> float:
        """About how long it takes, where training takes so many tokens per second; at least, for None.

        A token that is read goes forward alone, which is half the work of one that is trained on.
        """
        assert self.rates is not None
        flops_per_s, bytes_per_s = self.rates
        training_s = plan.flops_per_token / flops_per_s if tokens_per_s is None else 1 / tokens_per_s
        return self.read_tokens * training_s / 2 + self.decode_steps * plan.bytes["base"] / bytes_per_s

    def table_rows(self, plan: Plan, tokens_per_s: float | None) -> list[tuple[str, str, str]]:
        """For a person, as `Plan.table` has them."""
        of = " and ".join(
            ["the base model"] * self.base + ["the adapter" if self.trials == 1 else "each run's adapter"]
        )
        rows = [
            ("scores", f"{self.rows:,} rows", f"of {self.split}: loss and summary by {of}"),
            (
                "validations",
                f"{self.evaluations:,}",
                f"in training: loss of {self.loss_rows:,} rows, {self.summary_rows:,} summaries",
            ),
            *(
                [
                    (
                        "confirmed",
                        f"{self.confirming[1]:,} rows",
                        f"of {self.confirming[0]}, at the end: at most {self.confirming[2]} settings, "
                        f"{self.confirming[3]} runs",
                    )
                ]
                if self.confirming is not None
                else []
            ),
            ("tokens read", f"{self.read_tokens:,}", "for all these"),
            ("tokens written", f"{self.written_tokens:,}", "if summaries are as long as the references"),
        ]
        if self.rates is not None:
            least = "at least" if tokens_per_s is None else "about"
            text = f"{least}, for scores; memory is read at {self.rates[1] / 1e9:,.0f} GB/s"
            rows.append(("time", duration(self.seconds(plan, tokens_per_s)), text))
        return rows


def _scored_splits(spec: RunConfig) -> list[SplitName]:
    """The splits that a run is evaluated on; none where one of them is not named, as a plan may leave them."""
    names: list[SplitName] = list(dict.fromkeys(("validation", spec.evaluation.split)))
    return names if all(getattr(spec.data, name) not in (None, MISSING) for name in names) else []


def scoring_of(
    spec: RunConfig, splits: Mapping[SplitName, Split], evaluations: int, trials: int, rows_at_once: int
) -> Scoring:
    """What is read and written for the scores of runs that train as a group.

    evaluations: of each trial, during training.  rows_at_once: of each system.
    """
    settings, base = spec.evaluation, int(spec.evaluation.base)
    final, validation = splits[settings.split], splits["validation"]
    rows = min(len(final), settings.rows or len(final))
    loss_rows = min(len(validation), settings.loss_rows or len(validation))
    summary_rows = min(len(validation), settings.rows_during_training)
    lengths = validation.training_tokens
    written_at_end = _target_tokens(final, rows)
    written_during = _target_tokens(validation, summary_rows)
    read_during = sum(lengths[:loss_rows]) + sum(lengths[:summary_rows])
    ends, during = trials + base, trials * evaluations + base
    # Trials write side by side, by one pass over the weights.
    passes = (1 + base) * written_at_end + (evaluations + base) * written_during
    return Scoring(
        split=settings.split,
        rows=rows,
        base=settings.base,
        trials=trials,
        evaluations=evaluations,
        loss_rows=loss_rows,
        summary_rows=summary_rows,
        read_tokens=ends * 2 * sum(final.training_tokens[:rows]) + during * read_during,
        written_tokens=ends * written_at_end + during * written_during,
        decode_steps=-(-passes // rows_at_once),
    )


def with_confirming(
    scoring: Scoring, specs: Sequence[RunConfig], prompt: Prompt, rows_at_once: int
) -> Scoring:
    """The scores with what a sweep's confirmation takes, were as many settings as can be within the noise.

    specs: of the sweep's runs, or of those of its groups that are planned.
    """
    spec = specs[0]
    settings: dict[str, int] = {}
    for one in specs:
        key = one.model_copy(update={"seed": 0}).model_dump_json(exclude={"optimizer", "adapter"})
        key += f"{one.optimizer} {one.adapter!r}"
        settings[key] = settings.get(key, 0) + 1
    rows = confirming_rows(spec, prompt, of_sweep=True) if len(settings) > 1 else None
    if rows is None or not rows.rows:
        return scoring
    most = sorted(settings.values(), reverse=True)[
        : MOST_RUNNERS_UP + 2
    ]  # the winner and the default beside them
    runs = sum(most)
    read = sum(len(prompt.training_ids(row.article_ids, row.target_ids)[0]) for row in rows.rows)
    generates = spec.evaluation.rows_during_training > 0
    written = sum(len(row.target_ids) for row in rows.rows) if generates else 0
    validation = build_split(spec.data, "validation", prompt).training_tokens[: scoring.loss_rows]
    return replace(
        scoring,
        confirming=(rows.split, len(rows.rows), len(most), runs),
        read_tokens=scoring.read_tokens + runs * (sum(validation) + read * (2 if generates else 1)),
        written_tokens=scoring.written_tokens + runs * written,
        decode_steps=scoring.decode_steps + -(-written // rows_at_once),
    )


def _target_tokens(split: Split, rows: int) -> int:
    """Of the references of the first rows, with their end tokens."""
    return sum(len(ids) for ids in split.rows["target_ids"][:rows])


@dataclass(frozen=True)
class Plan:
    """One group's training."""

    bytes: dict[str, int]
    """By part, at the moment when most is held: in a step over the largest microbatch."""
    peak_bytes: int
    trainable_parameters: int
    """Of all trials."""
    microbatch_tokens: int
    """Of all trials, in the largest microbatch."""
    flops_per_token: float
    work: Work
    trials: int
    scoring: Scoring | None = None
    """None where the splits that runs are evaluated on are not named."""
    processes: int = 1
    """That share each batch; the memory is that of one of them."""

    @property
    def tokens(self) -> int:
        """Of all trials, in all steps."""
        return self.work.tokens * self.trials

    @property
    def flops(self) -> float:
        """In all. Shorter rows than the largest attend to less, so that this is a little too much."""
        return self.flops_per_token * self.tokens

    @property
    def flops_per_step(self) -> float:
        return self.flops / self.work.steps

    def hours(self, tokens_per_s: float) -> float:
        """Of training alone, at so many tokens of all trials per second."""
        return self.tokens / tokens_per_s / 3600

    def table(self, tokens_per_s: float | None = None) -> Table:
        """For a person. tokens_per_s: a rate that was measured, to say the hours by."""
        table = Table(title="plan: memory of a training step, and the work in all", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right")
        table.add_column("")
        for part, what in WHAT.items():
            table.add_row(part, _size(self.bytes[part]), what)
        shared = f"at {self.microbatch_tokens:,} tokens at once"
        alone = self.processes == 1
        table.add_row("together", _size(self.peak_bytes), shared, end_section=alone)
        if not alone:
            each = "take that each: the whole base model, and a share of a batch"
            table.add_row("processes", f"{self.processes}", each, end_section=True)
        for name, value, what in self._rows(tokens_per_s):
            table.add_row(name, value, what)
        return table

    def _rows(self, tokens_per_s: float | None) -> list[tuple[str, str, str]]:
        work = self.work
        epoch = "unknown" if work.tokens_per_epoch is None else f"{work.tokens_per_epoch:,}"
        rows = [
            ("trainable", f"{self.trainable_parameters:,}", "parameters"),
            ("steps", f"{work.steps:,}", f"of {work.tokens / work.steps:,.0f} tokens"),
            ("tokens", f"{work.tokens:,}", f"an epoch: {epoch}"),
            (
                "arithmetic",
                _flops(self.flops),
                f"{_flops(self.flops_per_step)} a step",
            ),
        ]
        if self.trials > 1:
            rows.insert(
                0, ("trials", f"{self.trials:,}", "train together; steps and tokens are those of each")
            )
        if tokens_per_s is not None:
            rows.append(
                (
                    "time",
                    duration(3600 * self.hours(tokens_per_s)),
                    f"training at {tokens_per_s:,.0f} tokens/s",
                )
            )
        return rows + ([] if self.scoring is None else self.scoring.table_rows(self, tokens_per_s))

    def describe(self, tokens_per_s: float | None = None) -> str:
        """One line for the log."""
        scores = ""
        if self.scoring is not None and self.scoring.rates is not None:
            least = "at least " if tokens_per_s is None else ""
            time = duration(self.scoring.seconds(self, tokens_per_s))
            scores = f"; scores of {self.scoring.rows:,} rows take {least}{time}"
        parts = ", ".join(f"{part} {_size(self.bytes[part])}" for part in WHAT)
        each = "" if self.processes == 1 else f" in each of {self.processes} processes"
        return (
            f"plan: {_size(self.peak_bytes)} at most{each} ({parts}), "
            f"{self.work.steps:,} steps, {self.tokens:,} tokens, {_flops(self.flops)}{scores}"
        )


def _size(count: int) -> str:
    return f"{count / GIB:,.2f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def _flops(count: float) -> str:
    unit, size = next(
        (found for found in (("EFLOP", 1e18), ("PFLOP", 1e15)) if count >= found[1]), ("TFLOP", 1e12)
    )
    return f"{count / size:,.3g} {unit}"


def build_plan(run: DryRun, optimizers: Sequence[BuildOptimizer], microbatch: Microbatch, work: Work) -> Plan:
    """Plan a group. optimizers: each trial's, in the order of its adapters; microbatch: the largest of the run."""
    cost = run.cost(microbatch)
    state_bytes = group_state_bytes(run, optimizers)
    trials = run.adapted.stack.size
    tokens = microbatch.all_tokens * trials
    return Plan(
        bytes={"optimizer": state_bytes} | {str(part): size for part, size in cost.at_peak.items()},
        peak_bytes=cost.peak_bytes + state_bytes,
        trainable_parameters=sum(
            parameter.numel() for i in range(trials) for parameter in run.adapted.parameters_of(i).values()
        ),
        microbatch_tokens=tokens,
        flops_per_token=cost.flops / tokens,
        work=work,
        trials=trials,
    )
