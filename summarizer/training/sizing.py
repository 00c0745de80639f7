"""How a group is fitted to its device: what is recomputed, how much goes through at once, how many trials train."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.config.schema import GenerationConfig, RunConfig
from summarizer.console.progress import working
from summarizer.errors import CannotPlan, ConfigError
from summarizer.models.blocks import compile_blocks, recompute_blocks
from summarizer.models.causal_lm import AttentionShape, CausalLM
from summarizer.training.step import Microbatches

if TYPE_CHECKING:
    # A dry run is imported where one is made: most configs say themselves how much goes through.
    from summarizer.training.dry_run import DryRun

GIB = 2**30
SHARE = 0.9
"""Of a device's free memory that a plan may take: kernels' own workspaces and fragmentation are not planned."""
GLANCE_TOKENS = 64
"""A dry run over so few takes a second; what it says per token is far too much, and mostly little enough."""
MANY_ROWS = 8
"""Of which a closer look is: what all rows share is an eighth of what is then counted for each."""
CACHE_BYTES_PER_NUMBER = 4
"""Of keys and values: transformers keeps some models' in fp32 whatever the products are in."""
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
"""A control group's limit, what it uses, and how much of that is files read before, which it gives up when asked.

Source: the kernel's admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizing:
    recomputed: int | None
    """Blocks whose activations are recomputed, from the first; None is all."""
    microbatches: Microbatches
    slots: int = 1
    """Trials that train at once."""
    evaluation_rows: int = 1
    """Held-out rows of each trial that go through the model at once."""

    def prepare(self, model: CausalLM, *, compiled: bool) -> None:
        """Make the model compute so. On its bare base, before adapters are attached.

        compiled: also as CUDA graphs where the microbatches have few shapes.
        """
        if not recompute_blocks(model, self.recomputed) and self.recomputed != 0:
            log.warning("trainer.memory: this model's code knows no blocks, so nothing is recomputed")
        if not compiled:
            return
        graphs = self.microbatches.few_shapes
        if count := compile_blocks(model, graphs=graphs):
            log.info("compile: %d blocks, in the first step, which takes the longer for it", count)
            if graphs:
                log.info("compile: graphs are recorded in the first two steps of each shape (on a GPU alone)")
        else:
            log.warning("trainer.compile: this model's code knows no blocks, so nothing is compiled")


def compiles(spec: RunConfig, device: torch.device) -> bool:
    wanted = spec.trainer.compile
    return device.type == "cuda" if wanted == "auto" else bool(wanted)


def size_run(spec: RunConfig, config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> Sizing:
    """As the trainer's config says; what it leaves to the plan is planned for rows of prompt.max_tokens.

    Call before the base is on the device. Raises ConfigError where not even one example fits.
    """
    trainer = spec.trainer
    recomputed = {"fast": 0, "low": None, "auto": 0}[trainer.memory]
    tokens = trainer.batch_tokens if isinstance(trainer.batch_tokens, int) else None
    microbatches = Microbatches(trainer.microbatch_size, tokens, few_shapes=trainer.compile == "graphs")
    sizing = Sizing(recomputed, microbatches)
    if trainer.memory != "auto" and trainer.batch_tokens != "auto":
        return sizing
    if compat.can_simulate():
        try:
            return _planned(spec, config, dtype, device, sizing)
        except CannotPlan as error:
            log.warning("memory: %s (%s)", compat.NO_PLANS, error)
    recomputed = None if trainer.memory == "auto" else recomputed
    if trainer.batch_tokens == "auto":
        microbatches = replace(microbatches, tokens=spec.prompt.max_tokens)
    return Sizing(recomputed, microbatches)


def _planned(
    spec: RunConfig, config: PretrainedConfig, dtype: torch.dtype, device: torch.device, sizing: Sizing
) -> Sizing:
    """The sizing with what its config leaves to the plan. Raises CannotPlan where a step cannot be watched."""
    trainer, recomputed, microbatches = spec.trainer, sizing.recomputed, sizing.microbatches
    memory_bytes = int(SHARE * device_memory_bytes(device))
    rows = rows_at_once(spec)
    if trainer.memory == "auto":
        with working("planning what to recompute"):
            recomputed = _blocks_to_recompute(spec, config, dtype, rows, memory_bytes)
        log.info(
            "memory: the activations of %s blocks are recomputed", "all" if recomputed is None else recomputed
        )
    if trainer.batch_tokens == "auto":
        with working("planning how much goes through at once"):
            run = dry_run_of([spec], config, dtype, Sizing(recomputed, microbatches))
            rows = largest_fitting(lambda count: planned_bytes(run, spec, count) <= memory_bytes, rows)
        if rows == 0:
            raise ConfigError.single(
                "trainer.batch_tokens",
                f"auto: one example of {spec.prompt.max_tokens} tokens is planned to take "
                f"{planned_bytes(run, spec, 1) / GIB:.1f} GiB, and {device} has {memory_bytes / GIB:.1f} to give; "
                "trainer.memory=low, a smaller prompt.max_tokens or quantization=nf4 take less",
            )
        microbatches = replace(microbatches, tokens=rows * spec.prompt.max_tokens)
        log.info("memory: %s per forward pass", microbatches)
    return Sizing(recomputed, microbatches)


def rows_at_once(spec: RunConfig) -> int:
    """The most examples of a trial in one forward pass of a process, before a limit of tokens."""
    share = -(-spec.trainer.batch_size // process_count(spec))
    return min(spec.trainer.microbatch_size or share, share)


def process_count(spec: RunConfig) -> int:
    """How many processes share a batch: as the config says, or as many as a launcher has started."""
    return spec.trainer.processes or int(os.environ.get("WORLD_SIZE", 1))


def dry_run_of(
    specs: Sequence[RunConfig], config: PretrainedConfig, dtype: torch.dtype, sizing: Sizing
) -> DryRun:
    """Of runs that train as one group."""
    from summarizer.training.dry_run import dry_run

    return dry_run(
        copy.deepcopy(config),
        specs[0].quantization.name,
        [spec.adapter for spec in specs],
        dtype,
        prepare=lambda model: sizing.prepare(model, compiled=False),
    )


def trained_numbers(
    specs: Sequence[RunConfig], config: PretrainedConfig, dtype: torch.dtype
) -> list[int] | None:
    """How many numbers each run trains, counted on a model without weights; None where that cannot be done."""
    if not compat.can_simulate():
        return None
    distinct = {repr(spec.adapter): spec for spec in specs}
    try:
        run = dry_run_of(list(distinct.values()), config, dtype, Sizing(0, Microbatches(None, None)))
    except CannotPlan:
        return None
    counts = [
        sum(parameter.numel() for parameter in run.adapted.parameters_of(i).values())
        for i in range(len(distinct))
    ]
    by_adapter = dict(zip(distinct, counts, strict=True))
    return [by_adapter[repr(spec.adapter)] for spec in specs]


def planned_bytes(run: DryRun, spec: RunConfig, rows: int) -> int:
    """At most held in a step over so many full rows."""
    from summarizer.training.dry_run import Microbatch, group_state_bytes

    state_bytes = group_state_bytes(run, [spec.optimizer.build])
    return run.cost(Microbatch(rows, spec.prompt.max_tokens)).peak_bytes + state_bytes


def _blocks_to_recompute(
    spec: RunConfig, config: PretrainedConfig, dtype: torch.dtype, rows: int, memory_bytes: int
) -> int | None:
    """As few as let `rows` rows fit; None, for all, where that is not enough either."""

    def planned(count: int | None) -> tuple[int, int]:
        run = dry_run_of([spec], config, dtype, Sizing(count, Microbatches(None, None)))
        return planned_bytes(run, spec, rows), len(run.adapted.model.blocks)

    none_bytes, count = planned(0)
    if none_bytes <= memory_bytes:
        return 0
    all_bytes, _ = planned(None)
    if all_bytes >= min(memory_bytes, none_bytes):
        return None
    # Each block saves as much as another; one more, since what is recomputed has to lie somewhere meanwhile.
    return min(math.ceil(count * (none_bytes - memory_bytes) / (none_bytes - all_bytes)) + 1, count)


# ---- how many trials at once -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What a step takes on the device, at most."""

    shared_bytes: int
    """Whatever the trials and rows are: the base, and of what passes, such as the head's dense matrix."""
    state_bytes: int
    """Of each trial between steps: adapters, gradients, optimizer."""
    row_bytes: int
    """Of each full row that goes through the model, at most."""

    def bytes(self, trials: int, rows: int) -> int:
        """rows: of each trial at once."""
        return self.shared_bytes + trials * (self.state_bytes + rows * self.row_bytes)

    def most_trials(self, rows: int, memory_bytes: int) -> int:
        return (memory_bytes - self.shared_bytes) // (self.state_bytes + rows * self.row_bytes)


def plan_slots(
    specs: Sequence[RunConfig],
    sizing: Sizing,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Sizing:
    """The sizing of one run, for a group: with its slots, and microbatches that leave room for all of them.

    A number that the config asks for is taken as it is, unless the plan is asked for the microbatches.
    specs: of the group's runs.  Call before the base is on the device.
    """
    spec = widest(specs)
    requested = spec.sweep.max_concurrent_trials
    wanted = len(specs) if requested == "auto" else min(requested, len(specs))
    memory_bytes = int(SHARE * device_memory_bytes(device))
    if len(specs) == 1 or (requested != "auto" and spec.trainer.batch_tokens != "auto"):
        rows = evaluation_rows(spec, config, wanted, memory_bytes)
        return replace(sizing, slots=wanted, evaluation_rows=rows)
    limited = sizing.microbatches.tokens is not None
    rows = 1 if limited else rows_at_once(spec)
    need = None
    if compat.can_simulate():
        try:
            with working("planning how many train at once"):
                if spec.trainer.batch_tokens != "auto":
                    need = _need(specs, sizing, config, dtype, min(GLANCE_TOKENS, spec.prompt.max_tokens))
                if need is None or need.bytes(wanted, rows) > memory_bytes:
                    need = _need(specs, sizing, config, dtype, spec.prompt.max_tokens, closely=True)
        except CannotPlan as error:
            log.warning("memory: %s (%s)", compat.NO_PLANS, error)
    if need is None:
        slots = 1 if requested == "auto" else wanted
        microbatches = sizing.microbatches
        if spec.trainer.batch_tokens == "auto":
            microbatches = replace(microbatches, tokens=slots * spec.prompt.max_tokens)
        rows = evaluation_rows(spec, config, slots, memory_bytes)
        return replace(sizing, slots=slots, microbatches=microbatches, evaluation_rows=rows)
    slots = max(min(need.most_trials(rows, memory_bytes), wanted), 1)
    if slots < wanted:
        log.info(
            "memory: %d of the group's %d runs train at once (%.1f GiB planned of %.1f); the others follow",
            *(slots, len(specs), need.bytes(slots, rows) / GIB, memory_bytes / GIB),
        )
    left_bytes = memory_bytes - need.bytes(slots, 0)
    sizing = replace(sizing, slots=slots, evaluation_rows=evaluation_rows(spec, config, slots, left_bytes))
    if spec.trainer.batch_tokens != "auto":
        return sizing
    most_rows = max(min(left_bytes // need.row_bytes, slots * rows_at_once(spec)), slots)
    tokens = most_rows * spec.prompt.max_tokens
    return replace(sizing, microbatches=replace(sizing.microbatches, tokens=tokens))


def evaluation_rows(spec: RunConfig, config: PretrainedConfig, trials: int, free_bytes: int) -> int:
    """Held-out rows of each trial that generate at once: evaluation.batch_size, or what keys and values leave.

    free_bytes: of the device; half of it is left to all else.
    """
    row_bytes = trials * cache_bytes(spec.generation, spec.prompt.max_tokens, config)
    if row_bytes == 0:
        return spec.evaluation.batch_size
    return max(min(spec.evaluation.batch_size, free_bytes // (2 * row_bytes)), 1)


def cache_bytes(generation: GenerationConfig, prompt_tokens: int, config: PretrainedConfig) -> int:
    """Keys and values of one article's beams; 0 where a model keeps a state, whose size no token adds to."""
    shape = AttentionShape.of(config)
    if shape is None:
        return 0
    token_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * CACHE_BYTES_PER_NUMBER
    return generation.num_beams * (prompt_tokens + generation.max_new_tokens) * token_bytes


def widest(specs: Sequence[RunConfig]) -> RunConfig:
    """The run whose adapters are the largest: the group's stacks are as wide as its."""
    return max(specs, key=lambda spec: spec.adapter.width)


def _need(
    specs: Sequence[RunConfig],
    sizing: Sizing,
    config: PretrainedConfig,
    dtype: torch.dtype,
    tokens: int,
    *,
    closely: bool = False,
) -> Need:
    """As a step over one row of `tokens` takes it, and longer rows in proportion; of every trial what most take.

    closely: not all that one row takes is counted for each. A step's peak over n rows is the most of some moments'
    a + b n, so that no moment's b is above f(m) / m for any m, and f(n) is at most f(1) + (n - 1) f(m) / m.
    """
    from summarizer.training.dry_run import SUMMARY_TOKENS, Microbatch, group_state_bytes

    spec = widest(specs)
    run = dry_run_of([spec], config, dtype, sizing)
    cost = run.cost(Microbatch(1, tokens, min(SUMMARY_TOKENS, tokens)))
    lasting = cost.at_peak["adapters"] + cost.at_peak["gradients"]
    # What an optimizer keeps depends on anything but its rate.
    optimizers = {
        (one.optimizer.target, str({**one.optimizer.arguments, "lr": None})): one.optimizer.build
        for one in specs
    }.values()
    kept = cost.at_peak["base"] + lasting
    one_row = each_row = cost.peak_bytes - kept
    if closely:
        many = run.cost(Microbatch(MANY_ROWS, tokens, min(SUMMARY_TOKENS, tokens)))
        each_row = -(-(many.peak_bytes - kept) // MANY_ROWS)
    return Need(
        shared_bytes=cost.at_peak["base"] + one_row - each_row,
        state_bytes=lasting + max(group_state_bytes(run, [build]) for build in optimizers),
        row_bytes=each_row * spec.prompt.max_tokens // tokens,
    )


# ---- how much a device holds -------------------------------------------------------------------------------------


def largest_fitting(fits: Callable[[int], bool], upper: int) -> int:
    """The largest number from 1 to `upper` that fits, by bisection; 0 where even 1 does not.

    fits: true up to some number and false beyond it. It is asked about log2(upper) times, `upper` first.
    """
    if upper < 1 or fits(upper):
        return max(upper, 0)
    fitting, too_many = 0, upper
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def device_memory_bytes(device: torch.device) -> int:
    """What this process could hold there now: what is free, and on CUDA what torch's allocator has of it already.

    On the CPU: what the system can give without swapping, and no more than a container's limit leaves.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes + torch.cuda.memory_reserved(device))
    return min([int(psutil.virtual_memory().available), *_left_by_limits()])


def _left_by_limits() -> Iterator[int]:
    """What each limit leaves on the memory of this process's control group and of those around it, in bytes."""
    if not OWN_GROUPS.is_file():
        return
    for line in OWN_GROUPS.read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            root, (limit, used, files) = CONTROL_GROUPS, VERSION_2
        elif "memory" in controllers.split(","):
            root, (limit, used, files) = CONTROL_GROUPS / "memory", VERSION_1
        else:
            continue
        # Inside a container the root is its own group, below which the path as the host knows it is not there.
        group = root / own.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root) or not (folder / limit).is_file():
                continue
            if (most := (folder / limit).read_text().strip()) == "max":
                continue
            counts = dict(count.split() for count in (folder / "memory.stat").read_text().splitlines())
            used_bytes = int((folder / used).read_text()) - int(counts.get(files, 0))
            yield max(int(most) - used_bytes, 0)
