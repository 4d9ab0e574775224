# make book   the book in _build/html           make test    every check
# make bench  the measurements of the page on performance, up to 15 minutes
# ONLY=residual/euler restricts notebooks and check to one or several chapters, and ONLY=convolution restricts
# bench to one or several groups, which are then printed and not stored.

PYTHON ?= python3
ONLY ?=
PORT ?= 8000
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed
PIP = $(@D)/bin/python -m pip --disable-pip-version-check
CHAPTERS := $(patsubst notebooks/%,%,$(basename $(ONLY)))

export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= $(OMP_NUM_THREADS)
export OPENBLAS_NUM_THREADS ?= $(OMP_NUM_THREADS)

.DEFAULT_GOAL := book
.PHONY: book test bench check notebooks lab serve clean

book: $(STAMP)
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book is built: open $(CURDIR)/_build/html/index.html, or run make serve."

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-fail-under=95

bench: $(BENCH_STAMP)
	$(BENCH)/bin/python -m benchmarks $(ONLY)

check: $(STAMP)
ifeq ($(strip $(ONLY)),)
	$(BIN)/python -m pytest -n $(WORKERS) notebooks tests/notebooks/test_book.py
else
	$(BIN)/python -m pytest $(CHAPTERS:%=notebooks/%.ipynb) tests/notebooks/test_book.py -k "not every_source"
endif

notebooks: $(STAMP)
	$(BIN)/python book/execute.py $(CHAPTERS)

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks

serve: book
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean:
	rm -rf _build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './$(VENV)*/*' -prune -exec rm -rf {} +

$(STAMP): LOCK := requirements.lock
$(BENCH_STAMP): LOCK := benchmarks/requirements.lock
$(STAMP): requirements.lock
$(BENCH_STAMP): benchmarks/requirements.lock
$(STAMP) $(BENCH_STAMP): pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'make PYTHON=… needs Python 3.11 or newer')"
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(PIP) install --quiet "$$(grep '^torch==' $(LOCK))"
	$(PIP) install --quiet -r $(LOCK)
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	$(PIP) check
	$(@D)/bin/python -c "import matplotlib.font_manager"
	touch $@
