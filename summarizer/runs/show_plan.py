"""`plan=true`: what a run would take, found without loading a weight."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omegaconf import OmegaConf

from summarizer import compat
from summarizer.console.progress import console, working
from summarizer.data.prompt import build_prompt
from summarizer.data.splits import build_split
from summarizer.errors import ConfigError
from summarizer.models.load import load_config
from summarizer.models.source import model_folder
from summarizer.models.tokenizer import check_context, load_tokenizer
from summarizer.processes import join_processes, leave_processes
from summarizer.runs.preflight import preflight
from summarizer.runs.record import RunRecord
from summarizer.training.dry_run import CannotPlan, Microbatch
from summarizer.training.plan import Plan, Work, build_plan
from summarizer.training.schedule import total_steps
from summarizer.training.sizing import dry_run_of, plan_slots, rows_at_once, size_run, widest

log = logging.getLogger(__name__)


def show_plan(jobs: Sequence[RunRecord]) -> Plan:
    """Print the plan of runs that would train as a group. Raises ConfigError as they would."""
    specs = [preflight(OmegaConf.create(job.config), imported=True) for job in jobs]
    if not compat.can_simulate():
        raise ConfigError.single("plan", "true: a step cannot be planned with the torch that is installed")
    spec = widest(specs)
    processes = join_processes(device=spec.trainer.device, precision=spec.trainer.precision, wanted=None)
    folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    prompt = build_prompt(spec.prompt, load_tokenizer(folder))
    sizing = size_run(spec, config, processes.dtype, processes.device)
    sizing = plan_slots(specs, sizing, config, processes.dtype, processes.device)
    rows = rows_at_once(spec)
    if (limit := sizing.microbatches.tokens) is not None:
        rows = max(min(rows, limit // (sizing.slots * prompt.max_tokens)), 1)
    if spec.data.streaming:
        assert spec.trainer.max_steps is not None
        tokens = spec.trainer.max_steps * spec.trainer.batch_size * prompt.max_tokens
        work, longest = Work(spec.trainer.max_steps, tokens, None), prompt.max_tokens
    else:
        lengths = build_split(spec.data, "train", prompt).training_tokens
        steps_per_epoch = -(-len(lengths) // spec.trainer.batch_size)
        steps = total_steps(spec.trainer, steps_per_epoch)
        work, longest = Work(steps, round(sum(lengths) * steps / steps_per_epoch), sum(lengths)), max(lengths)
    # The widest, and as many others as train beside it.
    together = sorted(specs, key=lambda one: one is not spec)[: sizing.slots]
    optimizers = [one.optimizer.build for one in together]
    try:
        with working("planning a step"):
            run = dry_run_of(together, config, processes.dtype, sizing)
            plan = build_plan(run, optimizers, Microbatch(rows, longest), work)
    except CannotPlan as error:
        raise ConfigError.single("plan", f"true: a step of this model cannot be planned ({error})") from error
    console().print(plan.table(spec.plan_tokens_per_s))
    log.info(plan.describe())
    leave_processes()
    return plan
