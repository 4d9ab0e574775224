"""Side-by-side measurements of dnlbook and of what else a reader could use.

``make bench`` runs all groups in an environment of their own and writes ``benchmarks/results.json``, from
which the page on performance is made.  ``python -m benchmarks GROUP...`` runs some of them and only prints.
"""
