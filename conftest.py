"""Load the plugin that checks stored notebooks."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "tests" / "notebooks"), str(ROOT / "book")]

pytest_plugins = ["checked_notebooks"]
