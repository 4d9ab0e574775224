"""The pages that are opened in the browser tests: all of them."""

from __future__ import annotations

from checks import ROOT
from claims_ledger import reading_order

ROOT_PAGE, *OTHERS = reading_order(ROOT / "_toc.yml")
GENERATED = ["genindex", "search", "prf-prf", "py-modindex"]
PAGES = [ROOT_PAGE, *OTHERS, *GENERATED]
MAXIMAL_WEIGHT = 1_500_000  # bytes over the wire, compressed as static hosts do
