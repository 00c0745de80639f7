"""The pictures of a sweep as PNG files."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

from summarizer.atomic import SCRATCH_PREFIX
from summarizer.sweeps.curves import draw_curves
from summarizer.sweeps.heatmap import draw_heatmap
from summarizer.sweeps.record import SweepRecord
from summarizer.sweeps.swept import Swept

HEATMAP, CURVES = "heatmap.png", "curves.png"
DOTS_PER_INCH = 150


def save_pictures(sweep: Path, record: SweepRecord, swept: Swept) -> dict[str, Path]:
    """Draw heatmap.png and curves.png in the sweep folder, each replaced in one step.

    Returns their paths by what they show. Raises OSError, and ConfigError where a metrics.jsonl is broken.
    """
    # A second to import, which a config check need not wait for.
    import matplotlib

    # At its first use on a machine it says "generated new fontManager", which tells nobody anything.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    pictures = {"heatmap": sweep / HEATMAP, "curves": sweep / CURVES}
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # pictures of different people look the same
        matplotlib.rcParams["text.parse_math"] = False  # "$" in a value is no formula
        # A value may have letters that the font lacks; the table shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figures = {"heatmap": draw_heatmap(record, swept), "curves": draw_curves(sweep, record, swept)}
        with TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=sweep) as scratch:
            for name, figure in figures.items():
                figure.savefig(Path(scratch) / pictures[name].name, dpi=DOTS_PER_INCH)
                os.replace(Path(scratch) / pictures[name].name, pictures[name])
    return pictures
