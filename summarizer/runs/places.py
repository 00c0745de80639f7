"""How many trials of a group train at once: as many as fit into memory, found before anything is loaded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PretrainedConfig

from summarizer import compat
from summarizer.adapters.protocol import Adapter
from summarizer.config.schema import RunConfig
from summarizer.console.progress import working
from summarizer.runs.sizing import SHARE, Sizing, dry_run_of, rows_at_once
from summarizer.training.dry_run import SUMMARY_TOKENS, Microbatch
from summarizer.training.fitting import device_memory_bytes
from summarizer.training.plan import GIB, group_state_bytes

GLANCE_TOKENS = 64
"""A dry run over so few takes a second; what it says per token is far too much, and mostly little enough."""
CACHE_BYTES_PER_NUMBER = 4
"""Of keys and values: transformers keeps some models' in fp32 whatever the products are in."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """What a step takes on the device. What lies beside the trials, such as the base, they share."""

    shared_bytes: int
    state_bytes: int
    """Of each trial between steps: adapters, gradients, optimizer."""
    row_bytes: int
    """Of each full row that goes through the model, at most."""

    def bytes(self, trials: int, rows: int) -> int:
        """rows: of each trial at once."""
        return self.shared_bytes + trials * (self.state_bytes + rows * self.row_bytes)

    def most_trials(self, rows: int, memory_bytes: int) -> int:
        return (memory_bytes - self.shared_bytes) // (self.state_bytes + rows * self.row_bytes)


def plan_places(
    specs: Sequence[RunConfig],
    sizing: Sizing,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> Sizing:
    """The sizing of one run, for a group: with its places, and microbatches that leave room for all of them.

    A number that sweep.places asks for is taken as it is, unless the plan is asked for the microbatches.
    specs: of the group's runs.  Call before the base is on the device.
    """
    spec = widest(specs)
    wanted = len(specs) if spec.sweep.places == "auto" else min(spec.sweep.places, len(specs))
    memory_bytes = int(SHARE * device_memory_bytes(device))
    if len(specs) == 1 or (spec.sweep.places != "auto" and spec.trainer.batch_tokens != "auto"):
        rows = evaluation_rows(spec, config, wanted, memory_bytes)
        return replace(sizing, places=wanted, evaluation_rows=rows)
    if not compat.can_simulate():
        places = 1 if spec.sweep.places == "auto" else wanted
        microbatches = sizing.microbatches
        if spec.trainer.batch_tokens == "auto":
            microbatches = replace(microbatches, tokens=places * spec.prompt.max_tokens)
        rows = evaluation_rows(spec, config, places, memory_bytes)
        return replace(sizing, places=places, microbatches=microbatches, evaluation_rows=rows)
    limited = sizing.microbatches.tokens is not None
    rows = 1 if limited else rows_at_once(spec)
    with working("planning how many train at once"):
        need = _need(specs, sizing, config, dtype, min(GLANCE_TOKENS, spec.prompt.max_tokens))
        if need.bytes(wanted, rows) > memory_bytes:
            need = _need(specs, sizing, config, dtype, spec.prompt.max_tokens)
    places = max(min(need.most_trials(rows, memory_bytes), wanted), 1)
    if places < wanted:
        log.info(
            "memory: %d of the group's %d runs train at once (%.1f GiB planned of %.1f); the others follow",
            *(places, len(specs), need.bytes(places, rows) / GIB, memory_bytes / GIB),
        )
    left_bytes = memory_bytes - need.bytes(places, 0)
    sizing = replace(sizing, places=places, evaluation_rows=evaluation_rows(spec, config, places, left_bytes))
    if spec.trainer.batch_tokens != "auto":
        return sizing
    most_rows = max(min(left_bytes // need.row_bytes, places * rows_at_once(spec)), places)
    tokens = most_rows * spec.prompt.max_tokens
    return replace(sizing, microbatches=replace(sizing.microbatches, tokens=tokens))


def evaluation_rows(spec: RunConfig, config: PretrainedConfig, trials: int, free_bytes: int) -> int:
    """Held-out rows of each trial that generate at once: evaluation.batch_size, or what keys and values leave.

    free_bytes: of the device; half of it is left to all else.
    """
    text = config.get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    token_bytes = 2 * int(text.num_hidden_layers) * heads * head_dim * CACHE_BYTES_PER_NUMBER
    tokens = spec.prompt.max_tokens + spec.generation.max_new_tokens
    row_bytes = trials * spec.generation.num_beams * tokens * token_bytes
    return max(min(spec.evaluation.batch_size, free_bytes // (2 * row_bytes)), 1)


def widest(specs: Sequence[RunConfig]) -> RunConfig:
    """The run whose adapters are the largest: the group's stacks are as wide as its."""
    return max(specs, key=lambda spec: _width(spec.adapter))


def _width(adapter: Adapter) -> int:
    """Parameters beside a layer of one input and one output: they grow with the adapter's dim alone."""
    return sum(tensor.numel() for tensor in adapter.draw_linear(1, 1, torch.Generator()).values())


def _need(
    specs: Sequence[RunConfig], sizing: Sizing, config: PretrainedConfig, dtype: torch.dtype, tokens: int
) -> Need:
    """As a step over one row of `tokens` takes it, and longer rows in proportion; of every trial what most take."""
    spec = widest(specs)
    run = dry_run_of([spec], config, dtype, sizing)
    cost = run.cost(Microbatch(1, tokens, min(SUMMARY_TOKENS, tokens)))
    lasting = cost.at_peak["adapters"] + cost.at_peak["gradients"]
    # What an optimizer keeps depends on anything but its rate.
    optimizers = {
        (one.optimizer.target, str({**one.optimizer.arguments, "lr": None})): one.optimizer.build
        for one in specs
    }.values()
    passing = cost.peak_bytes - cost.at_peak["base"] - lasting
    return Need(
        shared_bytes=cost.at_peak["base"],
        state_bytes=lasting + max(group_state_bytes(run, [build]) for build in optimizers),
        row_bytes=passing * spec.prompt.max_tokens // tokens,
    )
