"""One run from its job to its results: the way of the data, top to bottom."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

from omegaconf import OmegaConf

from summarizer.adapters.attach import AdaptedModel, attach, describe
from summarizer.adapters.peft_format import load_adapter, save_adapter
from summarizer.config.paths import shown
from summarizer.config.specs import RunSpec
from summarizer.data.prompt import Prompt, build_prompt
from summarizer.data.sources import SplitName
from summarizer.data.splits import Split, build_split
from summarizer.data.stream import StreamedSplit
from summarizer.errors import StopRequested
from summarizer.evaluation.evaluate import Evaluator
from summarizer.evaluation.predictions import Prediction, write_predictions
from summarizer.evaluation.scores import Comparison
from summarizer.model.load import load_base, load_config
from summarizer.model.source import model_folder
from summarizer.model.tokenizer import check_context, load_tokenizer
from summarizer.processes import Processes, join_processes
from summarizer.runs.folder import claimed
from summarizer.runs.heldout import HeldOut, evaluate_on_the_way, final_scores, held_out
from summarizer.runs.job import Job
from summarizer.runs.outcome import Outcome
from summarizer.runs.preflight import preflight
from summarizer.runs.report import show_results
from summarizer.runs.sizing import compiles, size_run
from summarizer.tracking.recorder import no_recorder, open_recorder
from summarizer.tracking.startup import startup
from summarizer.training.checkpoint import list_checkpoints, load_latest
from summarizer.training.group import build_group
from summarizer.training.loop import fit
from summarizer.training.stopping import StopSignal, listening
from summarizer.training.trial import Trial, build_optimizer

log = logging.getLogger(__name__)


def run_experiment(job: Job) -> float | None:
    """Train, evaluate and save one run in its folder. Returns the best value of `trainer.best_metric`.

    Raises ConfigError on a user's mistake, StopRequested when it was saved and stopped by a signal; whatever it
    raises, summary.json and wandb say so.
    """
    spec = preflight(OmegaConf.create(job.config))
    processes = join_processes(
        device=spec.trainer.device, precision=spec.trainer.precision, wanted=spec.trainer.processes
    )
    main = processes.is_main
    startup().lap("device")
    with listening() as stop, claimed(job.path) if main else nullcontext():
        recorder = no_recorder()
        if main:
            recorder = open_recorder(
                spec.tracking,
                job.path,
                overrides=job.overrides,
                sweep=job.sweep,
                config=job.config,
                resumed=job.resumed,
            )
        outcome = Outcome(job, spec, recorder, writes=main, device=processes.device)
        try:
            return _train(outcome, processes, stop)
        except StopRequested as error:
            outcome.close("stopped", error=error)
            if main and (saved := list_checkpoints(job.path / "checkpoints")):
                log.info("saved as %s; go on with resume=%s", saved[-1].name, shown(job.path))
            raise
        except BaseException as error:
            outcome.close("failed", error=error)
            raise


def _train(outcome: Outcome, processes: Processes, stop: StopSignal) -> float | None:
    job, spec, recorder = outcome.job, outcome.spec, outcome.recorder

    # ---- tokenizer, data -------------------------------------------------------------------------------------
    with processes.main_first():
        folder = model_folder(spec.model, weights=False)
    config = load_config(folder)
    check_context(config, spec.prompt)
    tokenizer = load_tokenizer(folder)
    prompt = build_prompt(spec.prompt, tokenizer)
    with processes.main_first():
        training, validation, final = _read_splits(spec, prompt)
    outcome.known["data_fingerprint"] = training.fingerprint

    startup().lap("tokens")

    # ---- base, adapters --------------------------------------------------------------------------------------
    sizing = size_run(spec, config, processes.dtype, processes.device)
    with processes.main_first():
        base = load_base(spec.model, spec.quantization, processes.device)
    startup().lap("base")
    sizing.prepare(base.model, compiled=compiles(spec, processes.device))
    adapter = spec.adapter.build()
    adapted = attach(base.model, [adapter], [spec.seed])
    if adapter.start_from:
        load_adapter(adapted, 0, Path(adapter.start_from))
    log.info(describe(adapted, 0))

    # ---- fit -------------------------------------------------------------------------------------------------
    parameters = adapted.parameters_of(0)
    trial = Trial(0, spec, job.path, parameters, build_optimizer(spec, parameters), recorder)
    outcome.trial = trial
    if job.resumed:
        load_latest(trial)
        recorder.keep_through(trial.reached.step or -1)  # step 0 is the base's evaluation, done anew
    group = build_group(adapted, [trial], training, prompt, processes, sizing.microbatches)
    outcome.flops_per_s = group.flops_per_s
    startup().lap("attach")
    evaluator = _evaluator(adapted, prompt, spec, processes, stop)
    if trial.reached.step == 0 and spec.evaluation.base:
        (untrained,) = evaluate_on_the_way(evaluator, spec, validation, [recorder], 0, base=True)
        trial.record(untrained, epoch=0.0, step=0)
        log.info("step 0, the base alone: %s", _shown(untrained))
        startup().lap("evaluation of the base")

    def evaluate() -> list[dict[str, float]]:
        return evaluate_on_the_way(evaluator, spec, validation, [recorder], group.step)

    ended_by = fit(group, evaluate, stop)
    outcome.known["ended_by"] = ended_by
    if trial.reached.skipped_steps:
        log.warning(
            "%d of %d steps were skipped, since their gradients overflowed fp16",
            *(trial.reached.skipped_steps, trial.reached.step),
        )
    if (steps_per_epoch := training.steps_per_epoch(spec.trainer.batch_size)) is not None:
        outcome.known["epochs"] = trial.reached.step / steps_per_epoch
    if ended_by == "signal":
        assert stop.number is not None
        raise StopRequested(stop.number)

    # ---- evaluate, save --------------------------------------------------------------------------------------
    trial.restore_best()
    (scores,) = final_scores(evaluator, spec, final)
    if processes.is_main:
        save_adapter(adapted, 0, job.path / "adapter", spec.model.name_or_path, tokenizer)
        _save_predictions(job.path, final, scores)
        base_summaries = scores.base.summaries if scores.base else None
        samples = final.samples(spec.evaluation.sample_summaries, scores.adapter.summaries, base_summaries)
        recorder.log_samples(trial.reached.step, samples)
        recorder.log_adapter(job.path / "adapter")
    outcome.known.update(split=final.split, rows=len(final.rows), adapter="adapter")
    outcome.add_scores(scores)
    outcome.close("completed")
    if processes.is_main:
        show_results(scores, final, job.path)
    return trial.reached.best_value


def _read_splits(spec: RunSpec, prompt: Prompt) -> tuple[Split | StreamedSplit, HeldOut, HeldOut]:
    """Rows to train on, to evaluate on during training, and to score at the end."""
    training: Split | StreamedSplit
    if spec.data.streaming:
        training = StreamedSplit(spec.data, prompt)
    else:
        training = build_split(spec.data, "train", prompt)
        log.info(training.report.describe())
    splits: dict[SplitName, Split] = {}
    for name in dict.fromkeys(("validation", spec.evaluation.split)):
        splits[name] = build_split(spec.data, name, prompt)
        log.info(splits[name].report.describe())
    final = held_out(splits[spec.evaluation.split], spec.evaluation.rows)
    return training, held_out(splits["validation"]), final


def _evaluator(
    adapted: AdaptedModel, prompt: Prompt, spec: RunSpec, processes: Processes, stop: StopSignal
) -> Evaluator:
    def answer_stop() -> None:
        # Several processes may hear of a signal at different batches; they agree on it after the evaluation.
        if stop.number is not None and processes.count == 1:
            raise StopRequested(stop.number)

    return Evaluator(adapted, prompt, spec.generation, spec.evaluation.batch_size, processes, answer_stop)


def _save_predictions(folder: Path, rows: HeldOut, scores: Comparison) -> None:
    """`predictions/SPLIT.jsonl`, and `SPLIT.base.jsonl` where the base was scored too."""
    for suffix, system in (("", scores.adapter), (".base", scores.base)):
        if system is not None:
            predictions = [
                Prediction(id=row.id, prediction=summary, reference=reference)
                for row, summary, reference in zip(rows.rows, system.summaries, rows.references, strict=True)
            ]
            write_predictions(folder / "predictions" / f"{rows.split}{suffix}.jsonl", predictions)


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
