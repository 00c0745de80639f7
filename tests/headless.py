"""Chromium without a window, with its driver, as Debian packages them: the fixture `browser` of all tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chrome's driver; it notes what pages ask of a network and what they complain of.

    Each file of tests has its own: what a test of processes in between kills is then no other test's.
    """
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


def forget(browser: Any) -> None:
    """What was noted so far."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)


def requested(browser: Any) -> set[str]:
    """The addresses that pages asked for since it was last told."""
    return {
        event["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (event := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    }


def complaints(browser: Any) -> list[str]:
    """Errors and warnings of the console since it was last told."""
    return [entry["message"] for entry in browser.get_log("browser")]
