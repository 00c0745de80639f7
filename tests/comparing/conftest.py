"""Chromium without a window, and the page of a comparison in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from summarizer.comparing.compared import Comparison
from summarizer.comparing.html import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if found is None or driver is None:
        pytest.skip("no chromium and chromedriver here (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size=1280,1000",
        "--force-prefers-reduced-motion",  # a smooth scroll would still be under way at the click after it
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[[Comparison], Any]]:
    """Opens comparisons as a user does, from a file; then nothing was asked of a network and no error noted."""
    path = tmp_path / "comparison.html"
    for kind in ("browser", "performance"):
        browser.get_log(kind)

    def open_(comparison: Comparison) -> Any:
        path.write_text(page(comparison), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    yield open_
    requested = {
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (event := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    }
    assert requested <= {path.as_uri(), "data:,"}
    assert [entry["message"] for entry in browser.get_log("browser")] == []
