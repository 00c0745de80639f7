"""The comparison as one web page: a single file that needs nothing else, no network and no server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from summarizer.comparing.compared import Comparison
from summarizer.comparing.page_data import page_data

PARTS = Path(__file__).parent / "page"
SCRIPTS = (
    "elements.js",
    "runs.js",
    "metrics.js",
    "colors.js",
    "scales.js",
    "chart.js",
    "reading.js",
    "table.js",
    "filters.js",
    "curves.js",
    "heatmap.js",
    "parallel.js",
    "scatter.js",
    "predictions.js",
    "details.js",
    "page.js",
)
"""In the order in which they run; the page has them as one script."""


def page(comparison: Comparison) -> str:
    """The page's HTML, to be written as UTF-8.

    Everything that came from a run, such as names, texts and configs, stands in one block of escaped JSON, and the
    page's script puts it into the document as text. The page's Content-Security-Policy lets only that script and
    that style sheet work, by their hashes, and no request leave.
    """
    style = (PARTS / "style.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    data = page_data(comparison)
    template = Template((PARTS / "index.html").read_text(encoding="utf-8"))
    return template.substitute(
        policy=html.escape(policy),
        title=html.escape(_title(comparison)),
        style=style,
        data=_json(data),
        script=script,
    )


def _title(comparison: Comparison) -> str:
    count = len(comparison.runs)
    return f"Comparison of {count} {'run' if count == 1 else 'runs'}"


def _json(data: Any) -> str:
    r"""JSON that can stand in a script element: without <, > and &, so that no text in it ends the element.

    All that is not ASCII is escaped too, so that half a surrogate pair in a broken file can be written.
    Source: HTML, "Restrictions for contents of script elements".
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _hash(text: str) -> str:
    """Of an inline script or style, as Content-Security-Policy Level 3 names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
