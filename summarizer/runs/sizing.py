"""How a run is fitted to its device: what is recomputed, and how much goes through the model at once."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.config.schema import RunConfig
from summarizer.console.progress import working
from summarizer.errors import ConfigError
from summarizer.models.blocks import compile_blocks, recompute_blocks
from summarizer.models.causal_lm import CausalLM
from summarizer.training.dry_run import DryRun, Microbatch, dry_run
from summarizer.training.fitting import device_memory_bytes, largest_fitting
from summarizer.training.microbatches import Microbatches
from summarizer.training.plan import GIB, group_state_bytes

SHARE = 0.9
"""Of a device's free memory that a plan may take: kernels' own workspaces and fragmentation are not planned."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizing:
    recomputed: int | None
    """Blocks whose activations are recomputed, from the first; None is all."""
    microbatches: Microbatches
    places: int = 1
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
                log.info(
                    "compile: graphs are recorded in the first two steps of each shape (on a card alone)"
                )
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
    if trainer.memory != "auto" and trainer.batch_tokens != "auto":
        return Sizing(recomputed, microbatches)
    if not compat.can_simulate():
        recomputed = None if trainer.memory == "auto" else recomputed
        if trainer.batch_tokens == "auto":
            microbatches = replace(microbatches, tokens=spec.prompt.max_tokens)
        return Sizing(recomputed, microbatches)
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
    """The most examples of a trial in one forward pass, before a limit of tokens."""
    return min(spec.trainer.microbatch_size or spec.trainer.batch_size, spec.trainer.batch_size)


def dry_run_of(
    specs: Sequence[RunConfig], config: PretrainedConfig, dtype: torch.dtype, sizing: Sizing
) -> DryRun:
    """Of runs that train as one group."""
    return dry_run(
        copy.deepcopy(config),
        specs[0].quantization.format,
        [spec.adapter.build() for spec in specs],
        dtype,
        prepare=lambda model: sizing.prepare(model, compiled=False),
    )


def planned_bytes(run: DryRun, spec: RunConfig, rows: int) -> int:
    """At most held in a step over so many full rows."""
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
