"""Every page in Chromium at 390 px, a phone: nothing sticks out, all of it is accessible."""

from __future__ import annotations

from typing import Any

import browser
import pytest
from pages import PAGES


@pytest.mark.parametrize("page", PAGES)
def test_page_at_390_px(chromium: Any, address: str, page: str) -> None:
    with browser.visit(chromium, address, f"{page}.html", browser.NARROW) as (tab, look):
        assert look.complaints() == []
        assert browser.math_errors(tab) == []
        assert browser.overflow(tab) == []
        assert browser.accessibility(tab) == []
        for theme in ("light", "dark"):
            browser.set_theme(tab, theme)
            assert browser.contrast(tab) == [], theme
