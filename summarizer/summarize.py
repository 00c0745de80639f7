"""`python -m summarizer.summarize`: summaries of articles by a trained run.

    python -m summarizer.summarize outputs/2026-11-22/10-15-30-123456 article.txt
    python -m summarizer.summarize RUN news.jsonl --column body --output summaries.jsonl
    curl ... | python -m summarizer.summarize RUN

Exit code 0 on success, 2 for a user's mistake (an item that cannot be read too, once the others are done), 1 for a
failure, 128 + the signal's number when it was stopped.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg

from summarizer.config.flags import FilePath, Flags, FolderPath
from summarizer.config.paths import shown
from summarizer.config.schema import GenerationConfig
from summarizer.config.shared_flags import BatchFlags, GenerationFlags, chosen_generation
from summarizer.console.safe_text import say
from summarizer.errors import ConfigError, Issue, RunsFailed, sound
from summarizer.runs.mistakes import MISTAKE, ended_by_sigterm, report_mistakes, say_kept

if TYPE_CHECKING:
    from summarizer.data.articles import Item
    from summarizer.generation.summarizer import Summarizer
    from summarizer.generation.summary_file import SummaryFile
    from summarizer.runs.trained_run import TrainedRun

EPILOG = """\
FILE is text (UTF-8, one article), a table (.jsonl, .json, .csv, .tsv, .parquet, .xlsx, one article a row), either
also with .gz, a folder (all files in it and below that are not hidden), or - for an article from standard input,
which is also what is read where no FILE is named.

One article's summary is printed alone, several under lines `==> SOURCE <==`. With --output, each becomes a line
of JSON (id, source, prediction, reference if the table has one, article_tokens, cut_tokens, article_digest); a
file that exists is continued.

Articles are cut as in training, at their end, to fit into the run's prompt.max_tokens, and the cut is reported.
"""

log = logging.getLogger(__name__)


class TableFlags(Flags):
    """Which columns of a table are read."""

    HEADING: ClassVar[str] = "tables"

    column: str | None = None
    """of the article; default: the run's own"""
    id_column: str | None = None
    """of the id; default: the run's own, or row numbers"""


class WriterFlags(Flags):
    """What writes in place of the run's own adapter."""

    HEADING: ClassVar[str] = "model"

    base: bool = False
    """summarize by the base model, without an adapter"""
    adapter: FolderPath | None = None
    """a PEFT adapter in place of the run's own"""


class SummarizeFlags(GenerationFlags, BatchFlags, WriterFlags, TableFlags):
    """Summarize articles by a trained run."""

    run: CliPositionalArg[FolderPath] = Field(validation_alias="RUN")
    """the run's folder"""
    files: CliPositionalArg[tuple[str, ...]] = Field((), validation_alias="FILE")
    """what to summarize"""
    output: FilePath | None = None
    """write there (.jsonl), or go on writing there; default: print"""


def main() -> None:
    """The command. Heavy imports wait until its arguments are read, so that --help answers at once."""
    sys.exit(command(sys.argv[1:]))


def command(arguments: Sequence[str]) -> int:
    """Run the command with these arguments and return its exit code. Raises SystemExit for --help."""
    return report_mistakes(lambda: _summarize(arguments), arguments)


def _summarize(arguments: Sequence[str]) -> None:
    """Summarize all that can be, then raise RunsFailed where something could not."""
    flags = SummarizeFlags.read(arguments, command="summarize", usage="RUN [FILE ...]", epilog=EPILOG)

    from summarizer.runs.launch import prepare_process

    prepare_process()

    from summarizer.generation.summary_file import open_summaries
    from summarizer.runs.logs import log_to_terminal

    log_to_terminal()
    run, generation = _checked(flags)
    items, bad = _items(flags, run)

    def loaded() -> Summarizer:
        return _loaded(flags, run, generation)

    with ended_by_sigterm():
        if items and flags.output is None:
            from summarizer.generation.print_summaries import print_summaries

            print_summaries(loaded(), items, None if flags.base else 0, headed=len(items) + bad > 1)
        elif items and flags.output is not None:
            settings = run.summary_settings(generation, base=flags.base, precision=flags.precision)
            with open_summaries(flags.output, items, settings) as file:
                _fill(file, items, loaded, None if flags.base else [0], run.spec.prompt.max_tokens)
    if bad:
        raise RunsFailed(
            f"{bad} of {len(items) + bad} items could not be summarized, as said above.", MISTAKE
        )


def _checked(flags: SummarizeFlags) -> tuple[TrainedRun, GenerationConfig]:
    """The run and how it writes. Raises ConfigError with every mistake that shows before articles are read."""
    from summarizer.generation.summary_file import output_issues
    from summarizer.runs.trained_run import opening_issues, read_trained_run

    issues = list(flags.mistakes)
    run = sound(lambda: read_trained_run(flags.run, model=flags.model, adapter=flags.adapter), issues)
    generation = sound(lambda: chosen_generation(run.spec, flags), issues) if run else None
    if flags.base and flags.adapter is not None:
        issues.append(Issue("--adapter", "has no place beside --base, which writes without an adapter"))
    article = flags.column or (run.spec.data.columns.article if run else None)
    if flags.id_column is not None and flags.id_column == article:
        issues.append(Issue("--id-column", f"{flags.id_column!r} is the column of the article already"))
    if flags.output is not None:
        issues += output_issues(flags.output, flags.files)
    if not flags.files and sys.stdin.isatty():
        issues.append(Issue("FILE", "name a file or folder to summarize, or pipe an article in"))
    if run and generation:
        issues += opening_issues([run], device=flags.device, precision=flags.precision)
    if issues or run is None or generation is None:
        raise ConfigError(issues)
    return run, generation


def _items(flags: SummarizeFlags, run: TrainedRun) -> tuple[list[Item], int]:
    """The items that can be summarized, and how many cannot: each of those is named on standard error."""
    from summarizer.data.articles import STDIN, BadItem, ItemColumns, read_items
    from summarizer.generation.summary_file import lock_path, settings_path

    columns = run.spec.data.columns
    article = flags.column or columns.article
    output = flags.output
    written = () if output is None else (output, settings_path(output), lock_path(output))
    if STDIN in flags.files and sys.stdin.isatty():
        say("Paste an article, then press Ctrl-D on a line of its own.")
    items: list[Item] = []
    bad = 0
    for item in read_items(
        flags.files or [STDIN],
        ItemColumns(
            article=article,
            reference=None if columns.summary == article else columns.summary,
            id=flags.id_column or columns.id,
            id_is_required=flags.id_column is not None,
            messages=columns.messages if flags.column is None else None,
        ),
        left_out={path.resolve() for path in written},
    ):
        if isinstance(item, BadItem):
            bad += 1
            log.error("%s", item)
        else:
            items.append(item)
    return items, bad


def _loaded(flags: SummarizeFlags, run: TrainedRun, generation: GenerationConfig) -> Summarizer:
    from summarizer.generation.summarizer import Summarizer
    from summarizer.runs.loaded_run import load_runs

    loaded = load_runs([run], device=flags.device, precision=flags.precision, generation=generation)
    return Summarizer(loaded, generation, batch_size=flags.batch_size or run.spec.evaluation.batch_size)


def _fill(
    file: SummaryFile,
    items: Sequence[Item],
    loaded: Callable[[], Summarizer],
    trials: Sequence[int] | None,
    max_tokens: int,
) -> None:
    """Write what the file does not hold yet; the model is loaded only where there is something."""
    from summarizer.console.progress import bar
    from summarizer.generation.summarizer import Rate, cut_text, summaries_as_done

    before = file.held
    start_s = time.monotonic()
    if before and file.left:
        log.info("%s: resuming after %d of %d summaries", shown(file.path), before, len(items))
    try:
        if file.left:
            summarizer = loaded()
            start_s = time.monotonic()
            with bar("summaries", len(items), done=before) as shown_bar:
                for _, summary in summaries_as_done(summarizer, file.left, trials, Rate(shown_bar)):
                    file.append(summary)
        file.put_in_order()
    except KeyboardInterrupt:
        say_kept(file.held, len(items), shown(file.path))
        raise
    new, elapsed_s = file.held - before, time.monotonic() - start_s
    took = f"{new} of them written now in {elapsed_s:.1f} s" + (f", {before} before" if before else "")
    log.info(
        "%s: %d summaries, %s", shown(file.path), len(items), took if new else "all of them there already"
    )
    if cut := file.cut:
        log.warning("%s", cut_text(cut, len(items), max_tokens))


if __name__ == "__main__":
    main()
