"""The page of a comparison in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from headless import complaints, forget, requested

from summarizer.reports.compared import Comparison
from summarizer.reports.html_page import page


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[[Comparison], Any]]:
    """Opens comparisons as a user does, from a file; then nothing was asked of a network and no error noted."""
    path = tmp_path / "comparison.html"
    forget(browser)

    def open_(comparison: Comparison) -> Any:
        path.write_text(page(comparison), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    yield open_
    assert requested(browser) <= {path.as_uri(), "data:,"}
    assert complaints(browser) == []
