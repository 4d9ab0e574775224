r"""Certificates: from the complexity of a class to a bound of the generalization gap, with all that it rests on.

.. math:: \mathcal L(f)-\mathcal L_S(f)\le2\Lambda B_{out}\bar R
          +3B_\ell\sqrt{\frac{\log(2/\delta)}{2S}}

for all networks of the class at once, with probability :math:`1-\delta`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from dnlbook import _checks
from dnlbook.bounds import RecursionBound, learned_thresholds_bound
from dnlbook.budgets import Budget, BudgetedNet, row_norms
from dnlbook.complexities import Complexity, exp, log_sum, probability
from dnlbook.rademacher import RademacherEstimate

KINDS = ("data", "apriori", "paper")
#: exponents of the grid of norms start here
_LOWEST = -40
#: the grid lies this share above the powers of 2^(1/4), so that a norm that equals a power is not rounded up
_MARGIN = 1e-6


@dataclass(frozen=True)
class LossSpec:
    r"""What a certificate needs to know of a loss: its Lipschitz constant and the length of its range.

    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    lipschitz : float
        :math:`\Lambda` in the Euclidean norm of the outputs, at least 0.
    range : float
        :math:`B_\ell`, the length of an interval that holds all values; finite.
    outputs : int
        How many outputs the loss reads.
    name : str

    Raises
    ------
    ValueError, TypeError
        If the loss is unbounded, or an argument is out of range.

    Examples
    --------
    >>> LossSpec.ramp(0.5).lipschitz
    2.0
    """

    lipschitz: float
    range: float
    outputs: int = 1
    name: str = "loss"

    def __post_init__(self) -> None:
        _checks.nonnegative_float("lipschitz", self.lipschitz)
        if self.range == math.inf:
            raise ValueError(
                "range: expected a bounded loss, received an infinite range; certify LossSpec.ramp, "
                "which lies above the 0-1 loss, and train with the unbounded one"
            )
        _checks.positive_float("range", self.range)
        _checks.positive_int("outputs", self.outputs)

    @classmethod
    def ramp(cls, margin: float = 1.0, *, outputs: int = 1) -> LossSpec:
        r"""Return the ramp loss :math:`\min(1,\max(0,1-yf/\gamma))`, which lies above the 0-1 loss.

        With several outputs the margin is :math:`f_y-\max_{k\ne y}f_k`, and :math:`\Lambda=\sqrt2/\gamma`.

        Raises
        ------
        ValueError, TypeError
            If the margin is not above 0.

        Examples
        --------
        >>> round(LossSpec.ramp(1.0, outputs=3).lipschitz, 4)
        1.4142
        """
        scale = 1.0 if _checks.positive_int("outputs", outputs) == 1 else math.sqrt(2.0)
        return cls(scale / _checks.positive_float("margin", margin), 1.0, outputs, "ramp")

    @classmethod
    def linear(cls, largest_output: float) -> LossSpec:
        r"""Return the loss :math:`\frac12(1-yf/M_f)` with :math:`M_f\ge\sup|f|`, of range 1.

        Raises
        ------
        ValueError, TypeError
            If the largest output is not above 0.

        Examples
        --------
        >>> LossSpec.linear(2.0).lipschitz
        0.25
        """
        return cls(0.5 / _checks.positive_float("largest_output", largest_output), 1.0, 1, "linear")


@dataclass(frozen=True)
class Certificate:
    r"""A bound of the generalization gap, term by term, and what it rests on.

    Source: chapter *Certificates on real data hold, and say little*.

    Attributes
    ----------
    terms : dict of str to float
        ``complexity`` (without the next two), ``structural`` (at most 0), ``mc_error``, ``confidence``.
    total : float
        Their sum, infinite where it overflows.
    log10 : float
        Its decimal logarithm, which does not overflow.
    delta : float
        The statement fails with at most this probability.
    assumptions : tuple of str
        What has to hold.
    rigorous : bool
        Whether the number is a proved bound under the assumptions.
    reasons : tuple of str
        Why it is not; empty if it is.
    union_weight : float
        The share of delta that is left after the union over norms; 1 without one.
    budget : Budget or None
        The budget that the union selected.
    """

    terms: dict[str, float]
    total: float
    log10: float
    delta: float
    assumptions: tuple[str, ...]
    rigorous: bool
    reasons: tuple[str, ...]
    union_weight: float = 1.0
    budget: Budget | None = None

    def __str__(self) -> str:
        status = "rigorous" if self.rigorous else "not rigorous: " + "; ".join(self.reasons)
        lines = [f"{name:<12}{value:12.5g}" for name, value in self.terms.items()]
        return "\n".join([*lines, f"{'total':<12}{self.total:12.5g}", status])


def confidence(loss_range: float, samples: int, delta: float, *, kind: str = "data", two_sided: bool = False) -> float:
    r"""Return the confidence term of a certificate.

    .. math:: \text{apriori: }B_\ell\sqrt{\tfrac{\log(1/\delta)}{2S}},\qquad
              \text{data: }3B_\ell\sqrt{\tfrac{\log(2/\delta)}{2S}},\qquad
              \text{paper: }4B_\ell\sqrt{\tfrac{2\log(4/\delta)}S}.

    A two-sided statement has :math:`\delta/2` in place of :math:`\delta`; the third form is the one in the
    theorem of arXiv 2602.20921 and covers both sides as it is.
    Source: McDiarmid's inequality; chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    loss_range : float
        :math:`B_\ell`.
    samples : int
    delta : float
        In (0, 1).
    kind : {"data", "apriori", "paper"}
    two_sided : bool

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or the kind is unknown.

    Examples
    --------
    >>> round(confidence(1.0, 200, 0.05, kind="apriori"), 5)
    0.08654
    """
    _checks.choice("kind", kind, KINDS)
    count, width = _checks.positive_int("samples", samples), _checks.positive_float("loss_range", loss_range)
    share = probability("delta", delta) / (2 if two_sided and kind != "paper" else 1)
    if kind == "apriori":
        return width * math.sqrt(math.log(1 / share) / (2 * count))
    if kind == "data":
        return 3 * width * math.sqrt(math.log(2 / share) / (2 * count))
    return 4 * width * math.sqrt(2 * math.log(4 / share) / count)


def certificate(
    complexity: Complexity | RademacherEstimate,
    loss: LossSpec,
    *,
    delta: float = 0.05,
    kind: str = "data",
    two_sided: bool = False,
) -> Certificate:
    r"""Bound the generalization gap of every network of the class, with probability :math:`1-\delta`,

    .. math:: \mathcal L(f)-\mathcal L_S(f)\le2\Lambda B_{out}\bar R+\text{confidence},

    with :math:`2\sqrt2\,n_{out}\Lambda` in place of :math:`2\Lambda` for several outputs.
    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    complexity : Complexity or RademacherEstimate
        What ``bound.evaluate(data, depth)`` returned.  An estimate by ascent gives a number that is not rigorous.
    loss : LossSpec
    delta : float
        In (0, 1); the error term of a Monte Carlo expectation takes its share out of it.
    kind : {"data", "apriori", "paper"}
        ``"data"``: the complexity was computed from the sample.  ``"apriori"``: it holds for all samples of a
        :class:`Support`.  ``"paper"``: the sample again, with the confidence constant of arXiv 2602.20921.
    two_sided : bool
        Bound the absolute value of the gap.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError, TypeError
        If delta is outside (0, 1) or used up by Monte Carlo, the kind is unknown, or an a-priori certificate
        is asked for a complexity that was computed from the sample.

    Examples
    --------
    >>> import torch
    >>> bound = RecursionBound(Budget(), "tanh").evaluate(torch.ones(10_000, 1), 8)
    >>> result = certificate(bound, LossSpec.ramp())
    >>> result.rigorous, round(result.total, 3), sorted(result.terms)
    (True, 0.101, ['complexity', 'confidence'])
    """
    _checks.choice("kind", kind, KINDS)
    whole = probability("delta", delta)
    if isinstance(complexity, RademacherEstimate):
        complexity = _of_estimate(complexity)
    if not isinstance(complexity, Complexity):
        raise TypeError(f"complexity: expected a Complexity, received {type(complexity).__name__}")
    if not isinstance(loss, LossSpec):
        raise TypeError(f"loss: expected a LossSpec, received {type(loss).__name__}")
    if kind == "apriori" and not complexity.data_free:
        raise ValueError("kind: expected 'data' for a complexity of a sample; 'apriori' needs one of a Support")
    left = whole - complexity.failure
    if left <= 0:
        raise ValueError(f"delta: expected more than the {complexity.failure:g} of mc_delta, received {delta!r}")
    outer = 2 * loss.lipschitz * (1.0 if loss.outputs == 1 else math.sqrt(2) * loss.outputs) * complexity.readout
    sure = confidence(loss.range, complexity.samples, left, kind=kind, two_sided=two_sided)
    log_outer = math.log(outer) if outer > 0 else -math.inf
    log_total = log_sum(log_outer + complexity.log_value, math.log(sure))
    extra = {name: outer * complexity.terms.get(name, 0.0) for name in ("structural", "mc_error")}
    main = exp(log_outer + complexity.log_value)
    terms = {"complexity": main - sum(extra.values()) if math.isfinite(main) else main}
    terms |= {name: value for name, value in extra.items() if value != 0}
    sides = "absolute value of the gap" if two_sided else "expected loss minus mean loss of the sample"
    return Certificate(
        terms={**terms, "confidence": sure},
        total=exp(log_total),
        log10=log_total / math.log(10),
        delta=whole,
        assumptions=(*complexity.assumptions, f"{loss.name} of range {loss.range:g}", sides),
        rigorous=not complexity.doubts,
        reasons=complexity.doubts,
    )


def _of_estimate(estimate: RademacherEstimate) -> Complexity:
    doubts = ["the complexity is a mean over sign vectors without its error term"] if estimate.se > 0 else []
    if estimate.kind == "lower":
        doubts.append("the complexity is reached by ascent: it lies below the supremum")
    doubts.append("the readout is taken to be bounded by 1")
    value = math.log(estimate.mean) if estimate.mean > 0 else -math.inf
    return Complexity(value, {"ascent": estimate.mean}, estimate.samples, doubts=tuple(doubts))


def grid_level(norm: float) -> tuple[int, float]:
    r"""Return the exponent and the value of the grid point above a norm, for the union over norms.

    .. math:: j=\min\{j\ge-40:\ \nu\le(1+10^{-6})\,2^{j/4}\} .

    The margin is fixed before the data; it keeps a norm that equals a power, up to rounding, on its level.
    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    norm : float
        :math:`\nu`, at least 0.

    Raises
    ------
    ValueError, TypeError
        If the norm is negative or not finite.

    Examples
    --------
    >>> grid_level(1.0)[0], grid_level(1.0 + 1e-12)[0], grid_level(1.01)[0]
    (0, 0, 1)
    """
    size = _checks.nonnegative_float("norm", norm)
    j = _LOWEST if size == 0 else max(_LOWEST, math.floor(4 * math.log2(size)) - 1)
    while (1 + _MARGIN) * 2.0 ** (j / 4) < size:
        j += 1
    return j, (1 + _MARGIN) * 2.0 ** (j / 4)


def posterior_certificate(
    net: BudgetedNet,
    data: Tensor,
    loss: LossSpec | None = None,
    *,
    delta: float = 0.05,
    two_sided: bool = False,
    mode: str = "discrete",
) -> Certificate:
    r"""Certify a network by the norms that it turned out to have, for a union over a grid of norms.

    Each of the six norms is rounded up to :math:`2^{j_i/4}`, :math:`j_i\ge-40`, and :math:`\delta` is replaced by

    .. math:: \delta\prod_{i=1}^6\frac{2/3}{(|j_i|+1)(|j_i|+2)},\qquad
              \sum_{j\in\mathbb Z}\frac1{(|j|+1)(|j|+2)}=\frac32 .

    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    net : BudgetedNet
        One network, not a stack; its horizon, depth, width and activation are fixed before the data.
    data : Tensor, shape ``(S, n_d)``
        The sample it was trained on.
    loss : LossSpec, optional
        The ramp loss with margin 1 unless given.
    delta : float
    two_sided : bool
    mode : {"discrete", "gronwall"}
        Of the :class:`RecursionBound`.

    Returns
    -------
    Certificate
        With ``budget`` and ``union_weight``.

    Raises
    ------
    ValueError, TypeError
        If the network is a stack or not of the class, delta is outside (0, 1), or the mode is not one of a network.

    Examples
    --------
    >>> import torch
    >>> result = posterior_certificate(BudgetedNet(3, 4, 8, Budget()), torch.ones(50, 3))
    >>> result.rigorous, result.budget.BV < 1.01, result.union_weight < 1e-6
    (True, True, True)
    """
    norms = row_norms(net)
    if net.V.ndim != 3:
        raise ValueError(f"net: expected one network, received a stack of {net.V.shape[0]}")
    _checks.choice("mode", mode, ("discrete", "gronwall"))
    chosen = LossSpec.ramp(outputs=net.W_out.shape[0]) if loss is None else loss
    whole, weight, rounded = probability("delta", delta), 1.0, {}
    for name, norm in norms.items():
        j, rounded[name] = grid_level(norm)
        weight *= (2 / 3) / ((abs(j) + 1) * (abs(j) + 2))
    budget = Budget(**rounded, T=net.budget.T)
    if net.learned is None:
        bound = RecursionBound(budget, net.activation, mode=mode)
    else:
        bound = learned_thresholds_bound(budget, net.learned, mode=mode)
    result = certificate(bound.evaluate(data, net.depth), chosen, delta=whole * weight, two_sided=two_sided)
    paid = f"union over the norms: delta times {weight:.3g}"
    return replace(result, delta=whole, union_weight=weight, budget=budget, assumptions=(*result.assumptions, paid))
