"""What `python -m summarizer.summarize` does once its arguments are read."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from summarizer.config.paths import shown
from summarizer.config.schema import GenerationConfig
from summarizer.config.shared_flags import chosen_generation
from summarizer.console.progress import bar
from summarizer.data.articles import STDIN, BadItem, Item, ItemColumns, read_items
from summarizer.errors import ConfigError, Issue, RunsFailed, sound
from summarizer.runs.logs import log_to_terminal
from summarizer.runs.mistakes import MISTAKE, ended_by_sigterm, say
from summarizer.runs.trained_run import TrainedRun, read_run
from summarizer.summaries.flags import SummarizeFlags
from summarizer.summaries.output import SummaryFile, continued, lock_path, output_issues, settings_path
from summarizer.summaries.settings import made_with, require_room

if TYPE_CHECKING:
    from summarizer.runs.summarizer import Summarizer

log = logging.getLogger(__name__)


def summarize(flags: SummarizeFlags) -> None:
    """Summarize all that can be, then raise RunsFailed where something could not.

    Raises ConfigError before the model is loaded for what is wrong with the run, the flags or the output.
    """
    log_to_terminal()
    run, generation, at_once = _checked(flags)
    items, bad = _sorted_out(flags, run)

    def opened() -> Summarizer:
        return _opened(flags, run, generation, at_once)

    with ended_by_sigterm():
        if items and flags.output is None:
            from summarizer.summaries.standard_output import print_summaries

            print_summaries(opened(), items, None if flags.base else 0, headed=len(items) + bad > 1)
        elif items and flags.output is not None:
            settings = made_with(run, generation, base=flags.base, precision=flags.precision)
            with continued(flags.output, items, settings) as file:
                _fill(file, items, opened, None if flags.base else [0], run.spec.prompt.max_tokens)
    if bad:
        raise RunsFailed(
            f"{bad} of {len(items) + bad} items could not be summarized, as said above.", MISTAKE
        )


def _checked(flags: SummarizeFlags) -> tuple[TrainedRun, GenerationConfig, int]:
    """The run, how it writes, and how many articles at once. Raises ConfigError with every mistaken flag."""
    issues = list(flags.mistakes)
    run = sound(lambda: read_run(flags.run, model=flags.model, adapter=flags.adapter), issues)
    generation = sound(lambda: chosen_generation(run.spec, flags), issues) if run else None
    if flags.base and flags.adapter is not None:
        issues.append(Issue("--adapter", "has no place beside --base, which writes without an adapter"))
    if flags.output is not None:
        issues += output_issues(flags.output, flags.files)
    if not flags.files and sys.stdin.isatty():
        issues.append(Issue("FILE", "name a file or folder to summarize, or pipe an article in"))
    if run and generation:
        from summarizer.runs.trained_run import opening_issues

        issues += opening_issues([run], device=flags.device, precision=flags.precision)
    if issues or run is None or generation is None:
        raise ConfigError(issues)
    return run, generation, flags.batch_size or run.spec.evaluation.batch_size


def _sorted_out(flags: SummarizeFlags, run: TrainedRun) -> tuple[list[Item], int]:
    """The items that can be summarized, and how many cannot: each of those is named on standard error."""
    columns = run.spec.data.columns
    output = flags.output
    written = () if output is None else (output, settings_path(output), lock_path(output))
    left_out = {path.resolve() for path in written}
    if STDIN in flags.files and sys.stdin.isatty():
        say("Paste an article, then press Ctrl-D on a line of its own.")
    items: list[Item] = []
    bad = 0
    for item in read_items(
        flags.files or [STDIN],
        ItemColumns(
            article=flags.column or columns.article,
            reference=columns.summary,
            id=flags.id_column or columns.id,
            id_is_required=flags.id_column is not None,
        ),
        left_out=left_out,
    ):
        if isinstance(item, BadItem):
            bad += 1
            log.error("%s", item)
        else:
            items.append(item)
    return items, bad


def _fill(
    file: SummaryFile,
    items: Sequence[Item],
    opened: Callable[[], Summarizer],
    trials: Sequence[int] | None,
    max_tokens: int,
) -> None:
    """Write what the file does not hold yet; the model is loaded only where there is something."""
    from summarizer.summaries.standard_output import cut_text
    from summarizer.summaries.writing import Rate, summaries_as_done

    before = file.held
    start_s = time.monotonic()
    if before and file.left:
        log.info("%s: going on after %d of %d summaries", shown(file.path), before, len(items))
    try:
        if file.left:
            summarizer = opened()
            start_s = time.monotonic()
            with bar("summaries", len(items), done=before) as shown_bar:
                for _, summary in summaries_as_done(summarizer, file.left, trials, Rate(shown_bar)):
                    file.append(summary)
        file.put_in_order()
    except KeyboardInterrupt:
        say(
            f"Stopped: {file.held} of {len(items)} summaries are in {shown(file.path)}; "
            "the same command goes on from there."
        )
        raise
    took = _how_long(before, file.held - before, time.monotonic() - start_s)
    log.info("%s: %d summaries, %s", shown(file.path), len(items), took)
    if cut := file.cut:
        log.warning("%s", cut_text(cut, len(items), max_tokens))


def _how_long(before: int, done: int, elapsed_s: float) -> str:
    if not done:
        return "all of them there already"
    return f"{done} of them written now in {elapsed_s:.1f} s" + (f", {before} before" if before else "")


def _opened(flags: SummarizeFlags, run: TrainedRun, generation: GenerationConfig, at_once: int) -> Summarizer:
    from summarizer.data.prompt import build_prompt
    from summarizer.models.source import model_folder
    from summarizer.models.tokenizer import load_tokenizer
    from summarizer.runs.loaded_run import load_runs
    from summarizer.runs.summarizer import Summarizer

    tokenizer = load_tokenizer(model_folder(run.spec.model, weights=False))
    require_room(build_prompt(run.spec.prompt, tokenizer), generation)  # before a base of gigabytes is loaded
    opened = load_runs([run], device=flags.device, precision=flags.precision)
    return Summarizer(opened, generation, articles_at_once=at_once)
