"""The end of a sweep: its best settings are scored on rows that chose nothing, and compared.

First the winner and the runners-up are measured, row by row, on the validation rows that ranked them: a runner-up
that is behind by more than the noise of those rows is no candidate. Then the winner, the others and the default are
scored on the confirming rows, and the winner is compared with each. What is measured is kept beside each run, so
that a confirmation that is killed goes on from there, and one that is done is not done again.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from summarizer.config.paths import shown
from summarizer.data.articles import Item
from summarizer.evaluation.metrics import RowLosses, Scores, bootstrap, score_pairs
from summarizer.evaluation.pipeline import BEST_BY
from summarizer.evaluation.record import LOSS, RougeTokenizer
from summarizer.evaluation.resumable import (
    ScoredModel,
    measure_row_losses,
    open_files,
    read_summaries,
    write_missing,
)
from summarizer.evaluation.rows import ScoredRows
from summarizer.evaluation.statistics import compare
from summarizer.runs.settings import sweep_axes
from summarizer.runs.trained_run import SHARED, TrainedRun, read_trained_run
from summarizer.sweeps.candidates import (
    Setting,
    candidates_of,
    default_values,
    identity_of,
    settings_of,
    spread_between,
    spread_within,
)
from summarizer.sweeps.confirmation import (
    Confirmation,
    ConfirmedSetting,
    read_confirmation,
    write_confirmation,
)
from summarizer.sweeps.record import SweepRecord, collect

if TYPE_CHECKING:
    from summarizer.data.prompt import Prompt
    from summarizer.evaluation.evaluator import Evaluator
    from summarizer.generation.summarizer import Summarizer
    from summarizer.runs.heldout import HeldOut
    from summarizer.runs.loaded_run import LoadedRun

FOLDER = Path("evaluations", "confirming")
"""Below a run folder: the run's losses and summaries of these rows."""

log = logging.getLogger(__name__)


def confirm(sweep: Path) -> Confirmation | None:
    """Confirm the sweep in a folder, and keep it there; None where there is nothing to compare or to compare on.

    One that is kept already, of the same runs and rows, is returned as it is.
    Raises ConfigError where a run, its base model or its data cannot be read, StopRequested and KeyboardInterrupt
    when it is stopped, what was measured being kept.
    """
    begun_s = time.monotonic()
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells of its tokenizer, once a run
    record = collect(sweep)
    swept = sweep_axes(record.runs)
    settings = settings_of(record, swept, default_values(sweep, swept.keys))
    if len(settings) < 2:
        return None
    trained = read_trained_run(sweep / settings[0].runs[0].folder)
    if trained.spec.evaluation.confirm_split is None:
        return None
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        log.info("the sweep is confirmed by one process alone: resume=%s without a launcher", shown(sweep))
        return None
    candidates = candidates_of(settings)
    runs = {
        run.folder: read_trained_run(sweep / run.folder) for setting in candidates for run in setting.runs
    }
    work = _Work(runs)
    rows = work.confirming(runs[settings[0].runs[0].folder])
    if rows is None or not rows.ids:
        log.warning(
            "the sweep is not confirmed: no row is left that chose nothing; name some by data.test=..."
        )
        return None
    identity = identity_of(record, candidates, rows.texts_sha256)
    kept = read_confirmation(sweep)
    if kept is not None and kept.identity == identity:
        return kept
    found = _confirmed(record, candidates, work, identity, rows, len(settings) - len(candidates))
    if found is None:
        return None
    found = found.model_copy(update={"wall_s": round(time.monotonic() - begun_s, 1)})
    write_confirmation(sweep, found)
    return found


def _confirmed(
    record: SweepRecord,
    candidates: Sequence[Setting],
    work: _Work,
    identity: str,
    rows: ScoredRows,
    not_looked_at: int,
) -> Confirmation | None:
    winner, *others = candidates
    settings = work.runs[winner.runs[0].folder].spec.evaluation
    samples, seed = settings.bootstrap_samples, settings.bootstrap_seed
    left_out: list[str] = []

    # ---- who is behind by more than the noise of the rows that ranked them -----------------------------------
    behind: list[str] = []
    if record.metric.best == "min":
        log.info(
            "confirming: who of %d others is within the noise of %s, on the validation rows that ranked them",
            len(others),
            winner.name,
        )
        choosing = work.losses(candidates, "choosing")
        known = _comparable(winner, others, choosing, left_out)
        pairs = {(winner.name, one.name): (choosing[winner.name], choosing[one.name]) for one in known}
        by_row = {
            pair: (Scores({}, row_losses=a), Scores({}, row_losses=b)) for pair, (a, b) in pairs.items()
        }
        noise = compare(by_row, samples=samples, seed=seed, metrics=(LOSS,))
        behind = [one.second for one in noise if not one.mean.low <= 0 <= one.mean.high]
    chosen = [
        one for one in others if one.name not in left_out and (one.name not in behind or one.is_default)
    ]
    behind = [name for name in behind if name not in [one.name for one in chosen]]

    # ---- the winner and those, on the confirming rows --------------------------------------------------------
    log.info(
        "confirming: %s, and %d other setting%s, on %d %s rows that chose nothing",
        winner.name,
        len(chosen),
        "" if len(chosen) == 1 else "s",
        len(rows.ids),
        rows.split,
    )
    finalists = [winner, *chosen]
    losses = work.row_losses(finalists, "confirming")
    means = {name: averaged(list(of_runs.values())) for name, of_runs in losses.items()}
    chosen = _comparable(winner, chosen, means, left_out)
    finalists = [winner, *chosen]
    rouge = work.rouge(finalists, rows) if settings.rows_during_training else {}
    scores = {
        one.name: Scores({}, row_losses=means[one.name], per_row=rouge.get(one.name, {})) for one in finalists
    }
    variant = BEST_BY if record.metric.best == "min" else record.metric.name.rpartition("/")[2]
    metrics = (LOSS, variant) if rouge else (LOSS,)
    differences = compare(
        {(winner.name, one.name): (scores[winner.name], scores[one.name]) for one in chosen},
        samples=samples,
        seed=seed,
        metrics=metrics,
    )
    if not all(np.isfinite(means[one.name].nats).all() for one in finalists):
        log.warning("the sweep is not confirmed: a loss of the confirming rows is not a finite number")
        return None
    by_run = [[of_run.mean for of_run in losses[one.name].values()] for one in finalists]
    return Confirmation(
        identity=identity,
        split="test" if rows.split == "test" else "validation",
        rows=len(rows.ids),
        settings=tuple(
            ConfirmedSetting(
                name=one.name,
                runs=tuple(run.folder for run in one.runs),
                planned=one.planned,
                is_default=one.is_default,
                chosen_by=one.value,
                loss=means[one.name].interval(samples, seed),
                seed_losses=tuple(of_runs),
                rouge=bootstrap(rouge[one.name], samples, seed) if one.name in rouge else None,
            )
            for one, of_runs in zip(finalists, by_run, strict=True)
        ),
        behind=tuple(behind),
        not_looked_at=not_looked_at,
        left_out=tuple(dict.fromkeys(left_out)),
        differences=tuple(differences),
        finished=sum(run.status == "completed" for run in record.runs),
        planned=len(record.runs),
        spread_of_seeds=spread_within(by_run),
        spread_of_settings=spread_between(by_run),
        wall_s=0.0,
    )


def averaged(losses: Sequence[RowLosses]) -> RowLosses:
    """The losses of the runs of a setting, averaged row by row.

    Raises ValueError where they are not over the same rows.
    """
    if any(not np.array_equal(losses[0].tokens, other.tokens) for other in losses):
        raise ValueError("losses of different rows have no average")
    return RowLosses(np.mean([one.nats for one in losses], axis=0), losses[0].tokens)


def averaged_scores(scores: Sequence[Scores]) -> dict[str, NDArray[np.float64]]:
    """Each row's ROUGE in percent, averaged over the runs of a setting, by variant."""
    return {
        variant: np.mean([one.per_row[variant] for one in scores], axis=0) for variant in scores[0].per_row
    }


def _comparable(
    winner: Setting, others: Sequence[Setting], losses: Mapping[str, RowLosses], left_out: list[str]
) -> list[Setting]:
    """The settings whose losses are over the winner's rows, in as many tokens each; the others are left out."""
    tokens = losses[winner.name].tokens
    alike = [one for one in others if np.array_equal(losses[one.name].tokens, tokens)]
    left_out += [one.name for one in others if one not in alike]
    return alike


# ---- the runs over their base models -----------------------------------------------------------------------------


@dataclass
class _Work:
    """Measures runs, those over one base side by side; a base is loaded when something is missing of its runs."""

    runs: Mapping[str, TrainedRun]
    """By their folders below the sweep's."""

    def __post_init__(self) -> None:
        self._loaded: tuple[tuple[str, ...], LoadedRun] | None = None
        self._prompts: dict[str, Prompt] = {}
        self._rows: dict[tuple[str, str], ScoredRows | None] = {}
        self._tokenizers: dict[str, RougeTokenizer] = {}
        """Of each split whose rows were read."""

    @cached_property
    def _groups(self) -> list[tuple[str, ...]]:
        """The folders of runs that are loaded together: over one base."""
        groups: dict[str, list[str]] = {}
        for folder, run in self.runs.items():
            shared = [getattr(run.spec, name).model_dump_json() for name in SHARED]
            key = str([*shared, run.spec.trainer.device, run.spec.trainer.precision])
            groups.setdefault(key, []).append(folder)
        return [tuple(folders) for folders in groups.values()]

    def confirming(self, run: TrainedRun) -> ScoredRows | None:
        """The rows that the run is confirmed on."""
        return self._rows_of(run, "confirming")

    def losses(self, settings: Sequence[Setting], kind: str) -> dict[str, RowLosses]:
        """Each setting's losses by row, averaged over its runs."""
        of_runs = self.row_losses(settings, kind)
        return {name: averaged(list(losses.values())) for name, losses in of_runs.items()}

    def row_losses(self, settings: Sequence[Setting], kind: str) -> dict[str, dict[str, RowLosses]]:
        """The losses by row of each setting's runs, by the runs' folders."""
        wanted = {run.folder for setting in settings for run in setting.runs}
        found: dict[str, RowLosses] = {}
        for group in self._groups:
            for rows, folders in self._by_rows([folder for folder in group if folder in wanted], kind):
                models = self._models(group, folders, rows)
                assert rows.encoded is not None
                found |= measure_row_losses(
                    models,
                    rows.encoded,
                    rows.texts_sha256,
                    lambda group=group: self._evaluator(group),  # type: ignore[misc]
                )
        return {setting.name: {run.folder: found[run.folder] for run in setting.runs} for setting in settings}

    def rouge(
        self, settings: Sequence[Setting], rows: ScoredRows
    ) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Each setting's ROUGE by row and variant, averaged over its runs. rows: the winner's."""
        wanted = {run.folder for setting in settings for run in setting.runs}
        items = [
            Item(row_id, f"{rows.split} row {number}", article, reference)
            for number, (row_id, article, reference) in enumerate(
                zip(rows.ids, rows.articles, rows.references, strict=True), start=1
            )
        ]
        scores: dict[str, Scores] = {}
        for group in self._groups:
            folders = [folder for folder in group if folder in wanted]
            if not folders:
                continue
            models = self._models(group, folders, rows)
            with open_files(models, items) as files:
                write_missing(models, files, lambda group=group: self._summarizer(group))  # type: ignore[misc]
                for model in models:
                    tokenizer = self._tokenizers[rows.split]
                    per_row = score_pairs(
                        read_summaries(files[model.name]), rows.references, tokenizer=tokenizer
                    )
                    scores[model.name] = Scores({}, per_row=per_row)
        return {
            setting.name: averaged_scores([scores[run.folder] for run in setting.runs])
            for setting in settings
        }

    def _models(self, group: Sequence[str], folders: Sequence[str], rows: ScoredRows) -> list[ScoredModel]:
        models = []
        for folder in folders:
            run = self.runs[folder]
            file = f"{run.adapter_digest()[:8]}-{rows.texts_sha256[:8]}.jsonl"
            settings = run.summary_settings(
                run.spec.generation, base=False, precision=run.spec.trainer.precision
            )
            (run.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            models.append(ScoredModel(folder, group.index(folder), run.folder / FOLDER / file, settings))
        return models

    # ---- rows ----------------------------------------------------------------------------------------------------

    def _by_rows(self, folders: Sequence[str], kind: str) -> list[tuple[ScoredRows, list[str]]]:
        """The runs by their rows of that kind: mostly the same for all."""
        groups: dict[str, tuple[ScoredRows, list[str]]] = {}
        for folder in folders:
            if (rows := self._rows_of(self.runs[folder], kind)) is not None:
                groups.setdefault(rows.texts_sha256, (rows, []))[1].append(folder)
        return list(groups.values())

    def _rows_of(self, run: TrainedRun, kind: str) -> ScoredRows | None:
        spec = run.spec
        parts = (spec.model, spec.prompt, spec.data, spec.evaluation)
        key = (kind, "".join(part.model_dump_json() for part in parts))
        if key not in self._rows:
            rows = self._read(run, kind)
            self._rows[key] = None if rows is None else _scored(rows)
            if rows is not None:
                self._tokenizers[rows.split] = rows.tokenizer
        return self._rows[key]

    def _read(self, run: TrainedRun, kind: str) -> HeldOut | None:
        from summarizer.data.splits import build_split
        from summarizer.runs.heldout import choosing, confirming_rows, held_out

        spec, prompt = run.spec, self._prompt(run)
        if kind == "confirming":
            return confirming_rows(spec, prompt, of_sweep=True)
        validation = held_out(build_split(spec.data, "validation", prompt), spec.evaluation.rouge_tokenizer)
        return choosing(spec, validation, of_sweep=True).first(spec.evaluation.loss_rows)

    def _prompt(self, run: TrainedRun) -> Prompt:
        from summarizer.data.prompt import build_prompt
        from summarizer.models.source import model_folder
        from summarizer.models.tokenizer import load_tokenizer

        key = run.spec.model.model_dump_json() + run.spec.prompt.model_dump_json()
        if key not in self._prompts:
            self._prompts[key] = build_prompt(
                run.spec.prompt, load_tokenizer(model_folder(run.spec.model, weights=False))
            )
        return self._prompts[key]

    # ---- models --------------------------------------------------------------------------------------------------

    def _load(self, group: tuple[str, ...]) -> LoadedRun:
        from summarizer.runs.loaded_run import load_runs

        if self._loaded is None or self._loaded[0] != group:
            self._loaded = None
            gc.collect()  # of the last group, and of training: two bases may not fit beside each other
            runs = [self.runs[folder] for folder in group]
            spec = runs[0].spec
            self._loaded = (
                group,
                load_runs(runs, device=spec.trainer.device, precision=spec.trainer.precision),
            )
        return self._loaded[1]

    def _evaluator(self, group: tuple[str, ...]) -> Evaluator:
        spec = self.runs[group[0]].spec
        return self._load(group).evaluator(spec.generation, spec.evaluation.batch_size)

    def _summarizer(self, group: tuple[str, ...]) -> Summarizer:
        from summarizer.generation.summarizer import Summarizer

        spec = self.runs[group[0]].spec
        return Summarizer(self._load(group), spec.generation, batch_size=spec.evaluation.batch_size)


def _scored(rows: HeldOut) -> ScoredRows:
    return ScoredRows(
        data="",
        split=rows.split,
        ids=[row.id for row in rows.rows],
        articles=rows.articles,
        references=rows.references,
        encoded=lambda: rows.rows,
    )
