"""dnlbook: what a deep network becomes as its depth goes to infinity."""

__version__ = "0.1.0"
