"""What a picture looks like on screen and on paper; a phone fetches one landing picture; cards lie flat."""

from __future__ import annotations

import re
from typing import Any

import browser
import pytest

FILTER = "(picture) => getComputedStyle(picture).filter"
LANDING = "notebooks/front/landing.html"


def test_dark_mode_inverts_figures_but_not_photographs_and_nothing_on_paper(chromium: Any, address: str) -> None:
    with browser.visit(chromium, address, LANDING, browser.WIDE) as (tab, _):
        picture = tab.locator("figure img").first
        assert picture.evaluate(FILTER) == "none"
        browser.set_theme(tab, "dark")
        assert picture.evaluate(FILTER) == "invert(0.92) hue-rotate(180deg)"
        tab.emulate_media(media="print")
        assert picture.evaluate(FILTER) == "none"
        for text in ("h1", "p", "figcaption", ".claim-numbers"):
            colour = tab.locator(f"article {text}").first.evaluate("(text) => getComputedStyle(text).color")
            assert sum(map(int, re.findall(r"\d+", colour))) < 300, f"{text} is printed in {colour}"
        tab.emulate_media(media="screen")
        picture.evaluate("(picture) => picture.classList.add('photo')")
        assert picture.evaluate(FILTER) == "none"


@pytest.mark.parametrize(("width", "shown"), [(browser.WIDE, "landing.png"), (browser.NARROW, "landing-narrow.png")])
def test_a_window_fetches_one_landing_picture(chromium: Any, address: str, width: int, shown: str) -> None:
    with browser.visit(chromium, address, "book/intro.html", width) as (tab, _):
        fetched = tab.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name.split('/').pop())")
        assert [name for name in fetched if name.startswith("landing")] == [shown]
        cards = tab.locator(".sd-card").evaluate_all(
            "(cards) => cards.map((card) => [getComputedStyle(card).boxShadow, card.getBoundingClientRect().left])"
        )
        left = tab.locator("article p").first.evaluate("(text) => text.getBoundingClientRect().left")
        assert {shadow for shadow, _ in cards} == {"none"}
        assert min(edge for _, edge in cards) == pytest.approx(left, abs=1)
