"""The rules by which a network sums its memory, as tables of weights.

A rule is data: row l holds the weights of the sources 0 .. l when the network computes its state l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnlbook import _checks

#: the names of the rules, from the architecture people know to the one of highest order
RULES = ("rectangle", "trapezoid", "gregory")

#: the end corrections of Gregory's rule of order four, from the end inwards
_GREGORY_END = (3 / 8, 7 / 6, 23 / 24)
#: below six nodes the end corrections overlap: trapezoid, Simpson, 3/8 rule, Simpson twice
_GREGORY_START = (
    (0.0,),
    (1 / 2, 1 / 2),
    (1 / 3, 4 / 3, 1 / 3),
    (3 / 8, 9 / 8, 9 / 8, 3 / 8),
    (1 / 3, 4 / 3, 2 / 3, 4 / 3, 1 / 3),
)


def quadrature_weights(
    rule: str,
    depth: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Return the weights :math:`w_{lk}` of a rule, in units of the step :math:`\tau`.

    .. math:: \int_0^{t_l}g(s)\,ds\;\approx\;\tau\sum_{k=0}^{l}w_{lk}\,g(t_k),\qquad t_k=k\tau .

    The rectangle rule is the explicit one of the dense non-local network.
    The other two are implicit: they use :math:`g(t_l)` with the weight :math:`w_{ll}`.
    Gregory's rule has the weights 3/8, 7/6, 23/24, 1, ..., 1, 23/24, 7/6, 3/8 from row 5 on; rows 1 to 4
    are the trapezoid rule, Simpson's rule, the 3/8 rule and Simpson's rule on two pairs of intervals.
    Its error is of order four at a fixed time, and of order three at :math:`t_1`.
    Source: chapter *The deep-layer limit is a Volterra equation*.

    Parameters
    ----------
    rule : str
        ``"rectangle"``, ``"trapezoid"`` or ``"gregory"``.
    depth : int
        Number of steps :math:`L`.
    dtype, device
        As for :func:`torch.zeros`.

    Returns
    -------
    Tensor, shape ``(depth + 1, depth + 1)``
        Lower triangular; row 0 is zero and row l adds up to l.

    Raises
    ------
    ValueError
        If the rule is unknown or depth is below 1.

    Examples
    --------
    >>> quadrature_weights("trapezoid", 3)
    tensor([[0.0000, 0.0000, 0.0000, 0.0000],
            [0.5000, 0.5000, 0.0000, 0.0000],
            [0.5000, 1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 1.0000, 0.5000]])
    """
    _checks.choice("rule", rule, RULES)
    steps = torch.ones(_checks.positive_int("depth", depth), dtype=dtype, device=device)
    weights = steps.new_zeros(len(steps) + 1, len(steps) + 1)
    for l in range(1, len(weights)):
        weights[l, : l + 1] = row_weights(rule, steps, l)
    return weights


def row_weights(rule: str, steps: Tensor, l: int) -> Tensor:
    r"""Return row l of a rule on a grid with the given steps, in units of time, shape ``(l + 1,)``.

    Equation and source are those of :func:`quadrature_weights`; the steps need not be equal for
    ``"rectangle"`` and ``"trapezoid"``.  The caller has checked rule, steps and l.

    Examples
    --------
    >>> row_weights("trapezoid", torch.tensor([1.0, 3.0, 2.0]), 2)
    tensor([0.5000, 2.0000, 1.5000])
    """
    row = torch.zeros(l + 1, dtype=steps.dtype, device=steps.device)
    if rule == "gregory":
        if l < len(_GREGORY_START):
            row += torch.tensor(_GREGORY_START[l], dtype=steps.dtype, device=steps.device)
        else:
            ends = torch.tensor(_GREGORY_END, dtype=steps.dtype, device=steps.device)
            row.fill_(1.0)
            row[:3], row[-3:] = ends, ends.flip(0)
        return row.mul_(steps[0])
    left = 1.0 if rule == "rectangle" else 0.5
    row[:-1].add_(steps[:l], alpha=left)
    row[1:].add_(steps[:l], alpha=1 - left)
    return row
