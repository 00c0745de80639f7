"""The page in a real browser without a window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from headless import complaints, forget, requested
from served import ARTICLE, REFERENCE, Client, Gated, served, until

from summarizer.runs.loaded_run import LoadedRun


@pytest.fixture
def page(browser: Any, loaded: LoadedRun) -> Iterator[tuple[Any, Client]]:
    """The page of a server whose model writes when the test lets it; then nothing went wrong unseen."""
    forget(browser)
    with served(loaded, lambda spec: Gated(loaded, spec, batch_size=1), most_waiting=1) as client:
        browser.get(client.address)
        until(lambda: len(all_of(browser, "input[name=run]")) == 3)
        yield browser, client
    assert {urlsplit(address).netloc for address in requested(browser)} == {f"127.0.0.1:{client.port}"}
    expected = (" 422 ", " 503 ")  # a refused fetch is noted by the browser itself
    assert [text for text in complaints(browser) if not any(status in text for status in expected)] == []


def all_of(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def text_of(browser: Any, selector: str) -> str:
    text: str = browser.find_element("css selector", selector).text
    return text


def paste(browser: Any, selector: str, text: str) -> None:
    field = browser.find_element("css selector", selector)
    browser.execute_script("arguments[0].value = arguments[1]", field, text)


def press(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def release(pieces: int) -> None:
    for _ in range(pieces):
        Gated.gate.release()


def test_summaries_stream_in_side_by_side(page: tuple[Any, Client]) -> None:
    browser, _ = page
    paste(browser, "#article", ARTICLE)
    paste(browser, "#reference", REFERENCE)
    press(browser, "input[name=run][value=base]")
    press(browser, "#go")
    release(4)
    first, second = ".card[data-run='0']", ".card[data-run='1']"
    until(lambda: len(all_of(browser, first)) == 1 and text_of(browser, f"{first} .summary") != "")
    assert browser.find_element("css selector", first).get_attribute("aria-busy") == "true"
    part = text_of(browser, f"{first} .summary")
    until(lambda: text_of(browser, f"{second} .summary") not in ("", "Waits for its turn."))
    assert text_of(browser, "#status").startswith("Writing: ")
    release(100)
    until(lambda: text_of(browser, "#status") == "Done.")
    whole = text_of(browser, f"{first} .summary")
    assert whole != part
    assert whole.startswith(part.rstrip())
    assert len(all_of(browser, ".card")) == 2
    for card in (first, second):
        assert [one.text for one in all_of(browser, f"{card} .rouge dt")] == [
            "rouge1",
            "rouge2",
            "rougeL",
            "rougeLsum",
        ]
        assert all(float(one.text) >= 0 for one in all_of(browser, f"{card} .rouge dd"))
        assert "tokens/s" in text_of(browser, f"{card} .figures")
    assert "tokens were not read" in text_of(browser, "#cut")


def test_a_copied_passage_is_marked_and_shown_in_the_article(page: tuple[Any, Client]) -> None:
    browser, _ = page
    article = "😀 one. The trial has split parents in the village."
    paste(browser, "#article", article)
    summary = "😀😀 The trial has split parents."
    start, article_start = summary.index("The"), article.index("The")
    length = len("The trial has split parents")
    passage = {
        "start": start,
        "end": start + length,
        "article_start": article_start,
        "article_end": article_start + length,
    }
    browser.execute_script(
        "asked = document.getElementById('article').value; layCards(['0']);"
        "cards.get('0').summary.replaceChildren(...marked(arguments[0], [arguments[1]]))",
        summary,
        passage,
    )
    assert text_of(browser, ".summary") == summary
    assert text_of(browser, ".summary mark") == "The trial has split parents"
    browser.execute_script(
        "cards.get('0').summary.replaceChildren(...marked(arguments[0], [arguments[1]], arguments[2]))",
        summary,
        passage,
        [{"kind": "names", "start": 0, "end": 2}, {"kind": "numbers", "start": start + 4, "end": 99}],
    )
    assert text_of(browser, ".summary") == summary
    assert [one.text for one in all_of(browser, ".summary .missing")] == [
        "😀😀",
        "trial has split parents",
        ".",
    ]
    assert all_of(browser, ".missing")[0].get_attribute("title") == "This name is not in the article"
    browser.find_element("css selector", ".summary mark.copied").send_keys("\n")
    chosen = browser.execute_script(
        "const box = document.activeElement; return box.value.slice(box.selectionStart, box.selectionEnd)"
    )
    assert chosen == "The trial has split parents"


def test_what_is_wrong_is_said_in_words_at_its_field(page: tuple[Any, Client]) -> None:
    browser, _ = page
    paste(browser, "#num_beams", "99")
    press(browser, "#go")
    until(lambda: text_of(browser, "#error") != "")
    assert text_of(browser, "#error").splitlines() == [
        "Article: empty; paste the text of an article.",
        "Beams: 99; at least 1, at most 8.",
    ]
    invalid = [field.get_attribute("id") for field in all_of(browser, "[aria-invalid=true]")]
    assert invalid == ["article", "num_beams"]
    assert browser.switch_to.active_element.get_attribute("id") == "article"


def test_a_full_line_is_said_and_stop_stops(page: tuple[Any, Client]) -> None:
    browser, client = page
    asked = {"article": ARTICLE, "runs": ["0"]}
    first, _ = client.ask(asked)
    until(lambda: client.writer.busy)
    paste(browser, "#article", ARTICLE)
    press(browser, "#go")
    until(lambda: text_of(browser, "#status") == "Waiting: 1 request ahead.")
    press(browser, "#stop")
    until(lambda: text_of(browser, "#status") == "Stopped." and client.writer.waiting == 0)
    second, _ = client.ask(asked)
    until(lambda: client.writer.waiting == 1)
    press(browser, "#go")
    until(lambda: "1 request waits already" in text_of(browser, "#error"))
    for connection in (first, second):
        connection.close()


def test_it_fits_a_phone_and_has_a_dark_side(page: tuple[Any, Client]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser, _ = page
    light = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    emulate = browser.execute_cdp_cmd
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    emulate("Emulation.setDeviceMetricsOverride", phone)
    emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    try:
        paste(browser, "#article", ARTICLE + "x" * 300)
        paste(browser, "#reference", REFERENCE)
        release(1000)
        browser.find_element("css selector", "#article").send_keys(Keys.CONTROL, "\n")
        until(lambda: text_of(browser, "#status") == "Done.")
        widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [390, 390]
        dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert light != dark
        assert contrast(browser, "#about") >= 4.5
    finally:
        emulate("Emulation.clearDeviceMetricsOverride", {})
        emulate("Emulation.setEmulatedMedia", {"features": []})
    assert contrast(browser, "#about") >= 4.5


def test_every_field_has_a_label(page: tuple[Any, Client]) -> None:
    browser, _ = page
    fields = all_of(browser, "input, textarea")
    assert len(fields) == 9
    assert all(field.accessible_name for field in fields)


def contrast(browser: Any, selector: str) -> float:
    """Contrast of a text with the page. Source: WCAG 2.2, relative luminance and contrast ratio."""
    colors = browser.execute_script(
        "const of = (node, key) => getComputedStyle(node)[key].match(/\\d+/g).slice(0, 3).map(Number);"
        "return [of(document.querySelector(arguments[0]), 'color'), of(document.body, 'backgroundColor')]",
        selector,
    )

    def luminance(color: list[int]) -> float:
        linear = [
            (c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in color
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted(map(luminance, colors), reverse=True)
    return (high + 0.05) / (low + 0.05)
