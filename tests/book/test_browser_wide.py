"""Every page in Chromium at 1280 px: what it fetches, its weight, formulas and accessibility."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import browser
import pytest
from pages import MAXIMAL_WEIGHT, PAGES


@pytest.mark.parametrize("page", PAGES)
def test_page_at_1280_px(
    chromium: Any, address: str, page: str, record_property: Callable[[str, object], None]
) -> None:
    with browser.visit(chromium, address, f"{page}.html", browser.WIDE) as (tab, look):
        record_property("weight", look.weight)
        assert look.complaints() == []
        assert browser.math_errors(tab) == []
        assert browser.overflow(tab) == []
        assert look.weight <= MAXIMAL_WEIGHT, look.heaviest()
        assert browser.accessibility(tab) == []
        for theme in ("light", "dark"):
            browser.set_theme(tab, theme)
            assert browser.contrast(tab) == [], theme
