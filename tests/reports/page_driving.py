"""What tests do with an open page of a comparison: read it, press it, choose in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from summarizer.reports.compared import Comparison

Open = Callable[[Comparison], Any]
"""Puts a comparison's page into the browser, and gives the browser."""


def texts(browser: Any, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent.toWellFormed())",
        selector,
    )
    return found


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def press(browser: Any, selector: str) -> None:
    """As by a user, who scrolls first to where nothing covers it."""
    button = one(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def choose(browser: Any, selector: str, text: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(one(browser, selector)).select_by_visible_text(text)


def lines(browser: Any, chart: str) -> list[int]:
    """The runs that have a line, a cell or a dot in a chart."""
    found: list[int] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((one) => Number(one.dataset.run))",
        f"{chart} [data-run]",
    )
    return sorted(set(found))
