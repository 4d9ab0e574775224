r"""The layer recursion as an upper bound of the Rademacher complexity of a class of flows, and its depth limit.

.. math:: r_{l+1}\le(1+\tau c)\,r_l+\tau\kappa B_VB_bm_S,\qquad c=\kappa B_VB_W,\qquad\tau=T/L .
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation, soft_threshold
from dnlbook.budgets import Budget
from dnlbook.complexities import Complexity, RademacherBound, Support, assembled, checked_depth, massart, probability
from dnlbook.rademacher import all_signs, random_signs, sample_of

MODES = ("discrete", "gronwall", "continuous")
LINEAR = ("massart", "mc", "exact")


class RecursionBound(RademacherBound):
    r"""The layer recursion, its Grönwall envelope and its continuous form,

    .. math:: &\hat{\mathfrak R}_S(\mathcal F^L)\le\frac1S\Bigl[g\,(B_0\,\ell+B_{b0}m_S)
              +\frac{g-1}cB_b\kappa B_Vm_S\Bigr],\\
              &g=\Bigl(1+\frac{cT}L\Bigr)^L\ \text{or}\ e^{cT},

    with :math:`c=\kappa B_VB_W` and :math:`\ell\ge\mathbb E\max_j|\sum_s\varepsilon_sd^s_j|` by Massart's lemma
    or by Monte Carlo.  For :math:`\sigma=\mathrm{id}`, ``mode="discrete"`` and ``linear="exact"`` it is an equality.
    Source: chapters *Rademacher complexity through layers follows Euler's method* and
    *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    budget : Budget
    activation : str or Activation
    mode : {"discrete", "gronwall", "continuous"}
        ``"discrete"``: depth L.  ``"gronwall"``: every depth at once.  ``"continuous"``: parameters in
        :math:`C([0,T])\cap H^1`; the number is that of Grönwall.
    linear : {"massart", "mc", "exact"}
        Massart's lemma, a mean over random sign vectors, or the mean over all :math:`2^S` of them, S up to 20.
    n_signs, seed : int
        Sign vectors of the Monte Carlo mean.
    mc_delta : float, optional
        Adds McDiarmid's error :math:`(\sum_s\|d^s\|_\infty^2)^{1/2}\sqrt{2\log(1/\delta')/N}` to the mean, which
        fails with probability :math:`\delta'`.  Without it the bound is not rigorous.
    kappa : float, optional

    Raises
    ------
    ValueError, TypeError
        If a name is unknown, kappa is too small for the activation, mc_delta is outside (0, 1), or a
        linear term other than Massart's is asked for a support.

    Examples
    --------
    >>> bound = RecursionBound(Budget(), "tanh", mode="gronwall")
    >>> round(bound.complexity(torch.ones(100, 1)), 4)
    0.3201
    >>> RecursionBound(Budget(), "relu", kappa=1.0)
    Traceback (most recent call last):
    ...
    ValueError: kappa: expected at least 1.5 for relu, which is not odd; received 1.0
    """

    def __init__(
        self,
        budget: Budget,
        activation: str | Activation = "identity",
        *,
        mode: str = "discrete",
        linear: str = "massart",
        n_signs: int = 4000,
        seed: int = 0,
        mc_delta: float | None = None,
        kappa: float | None = None,
    ) -> None:
        super().__init__(budget, activation, kappa=kappa)
        self.mode = _checks.choice("mode", mode, MODES)
        self.linear = _checks.choice("linear", linear, LINEAR)
        self.n_signs, self.seed = _checks.positive_int("n_signs", n_signs), seed
        self.mc_delta = None if mc_delta is None else probability("mc_delta", mc_delta)
        if mc_delta is not None and linear != "mc":
            raise ValueError(f"mc_delta: expected None with linear={linear!r}, which has no random error")

    def log_growth(self, depth: int | None) -> float:
        r"""Return :math:`\log g`: :math:`L\log(1+cT/L)`, or :math:`cT`.

        Examples
        --------
        >>> round(RecursionBound(Budget()).log_growth(1), 4)
        0.6931
        """
        c = self.budget.growth(self.kappa)
        if self.mode == "discrete":
            L = checked_depth(depth)
            return L * math.log1p(self.budget.T * c / L)
        return self.budget.T * c

    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> Complexity:
        """Return the bound; depth is needed for the mode ``"discrete"`` only."""
        lin, error, count = self._linear(data)
        return assembled(
            self.log_growth(depth),
            self.budget,
            self.kappa,
            lin,
            error,
            count,
            assumptions=self._assumptions(),
            doubts=self._doubts(),
            failure=self.mc_delta or 0.0,
            data_free=isinstance(data, Support),
        )

    def _assumptions(self) -> tuple[str, ...]:
        where = {
            "discrete": "depth L with step T/L",
            "gronwall": "any depth L with step T/L",
            "continuous": "parameter paths in C([0, T]) and H1",
        }
        return (*super()._assumptions(), where[self.mode])

    def _doubts(self) -> tuple[str, ...]:
        if self.linear == "mc" and self.mc_delta is None:
            return ("a Monte Carlo expectation enters without its error term",)
        return ()

    def _linear(self, data: Tensor | Support) -> tuple[float, float, int]:
        """The linear term, its random error and S."""
        if self.linear == "massart":
            return massart(data), 0.0, data.samples if isinstance(data, Support) else len(data)
        sample = self._sample(data)
        signs, error = self._signs(len(sample)), 0.0
        if self.mc_delta is not None:
            spread = float(sample.abs().amax(1).square().sum().sqrt())
            error = spread * math.sqrt(2 * math.log(1 / self.mc_delta) / self.n_signs)
        return float((signs @ sample).abs().amax(1).mean()), error, len(sample)

    def _signs(self, count: int) -> Tensor:
        return all_signs(count) if self.linear == "exact" else random_signs(self.n_signs, count, seed=self.seed)

    def _sample(self, data: Tensor | Support) -> Tensor:
        if isinstance(data, Support):
            raise ValueError(f"data: expected a sample for linear={self.linear!r}, received a Support")
        return sample_of(data)


def learned_thresholds_bound(budget: Budget, learned: tuple[float, float], *, mode: str = "discrete") -> RecursionBound:
    r"""Return the bound of the class whose thresholds :math:`\alpha,\beta\in[\alpha_-,\alpha_+]` are learned too,

    .. math:: \kappa=2,\qquad B_b\to B_b+\tfrac12(\alpha_+-\alpha_-) .

    A theorem for a fixed activation does not cover learned thresholds, and learning them costs in the bound:
    each of the two branches :math:`(h-\alpha)_+` and :math:`(-h-\beta)_+` contracts to a pre-activation with a
    threshold, where the range adds :math:`\mathbb E\sup_\alpha\alpha\sum_s\varepsilon_s=\frac12(\alpha_+-\alpha_-)m_S`.
    Source: chapter *The structural term saves a factor, not a rate*.

    Parameters
    ----------
    budget : Budget
    learned : (float, float)
        The range :math:`[\alpha_-,\alpha_+]`, fixed before the data.
    mode : {"discrete", "gronwall", "continuous"}

    Raises
    ------
    ValueError, TypeError
        If the range is not an interval of numbers of at least 0, or the mode is unknown.

    Examples
    --------
    >>> learned_thresholds_bound(Budget(), (0.0, 2.0)).kappa
    2.0
    """
    low, high = (_checks.nonnegative_float("learned", end) for end in learned)
    if low > high:
        raise ValueError(f"learned: expected an interval, received {learned!r}")
    wider = replace(budget, Bb=budget.Bb + (high - low) / 2)
    return _LearnedThresholds(wider, soft_threshold(low), mode=mode, kappa=2.0)


class _LearnedThresholds(RecursionBound):
    def _assumptions(self) -> tuple[str, ...]:
        first, _, _, *rest = super()._assumptions()
        budgets = f"row budgets {self.budget}, where Bb counts half the range of the thresholds, fixed before the data"
        return (first, budgets, "soft thresholds that are learned within a range fixed before the data", *rest)


@dataclass(frozen=True)
class DepthTable:
    r"""A bound at several depths beside its limit.

    Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Attributes
    ----------
    depths : Tensor, shape ``(k,)``
    values : Tensor, shape ``(k,)``
        The bounds :math:`R_L`.
    limit : float
        :math:`R_\infty`, the bound of the continuous class.
    rate : float
        Slope of :math:`\log(R_\infty-R_L)` against :math:`\log L`; NaN where the differences vanish.
    """

    depths: Tensor
    values: Tensor
    limit: float
    rate: float

    @property
    def differences(self) -> Tensor:
        """What is missing at each depth."""
        return self.limit - self.values


def depth_limit(bound: RecursionBound, data: Tensor | Support, depths: Sequence[int]) -> DepthTable:
    r"""Evaluate a recursion bound at several depths and in the limit, and fit the rate.

    .. math:: e^{cT}-\Bigl(1+\frac{cT}L\Bigr)^L\approx e^{cT}\frac{(cT)^2}{2L} .

    Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    bound : RecursionBound
        Of the mode ``"discrete"``; a structural bound has no closed form of its limit.
    data : Tensor, shape ``(S, n_d)``, or Support
    depths : sequence of int
        At least two different depths.

    Raises
    ------
    ValueError, TypeError
        If the bound is structural or not discrete, or there are fewer than two depths.

    Examples
    --------
    >>> table = depth_limit(RecursionBound(Budget(), "tanh"), torch.eye(4), [64, 128, 256])
    >>> round(table.rate, 2)
    -0.99
    """
    if type(bound) not in (RecursionBound, _LearnedThresholds):
        raise TypeError(f"bound: expected a RecursionBound, received {type(bound).__name__}")
    if bound.mode != "discrete":
        raise ValueError(f"bound: expected the mode 'discrete', received {bound.mode!r}")
    steps = [_checks.positive_int("depths", depth) for depth in depths]
    if len(set(steps)) < 2:
        raise ValueError(f"depths: expected at least two different depths, received {depths!r}")
    lin, error, count = bound._linear(data)
    horizon_growth = bound.budget.T * bound.budget.growth(bound.kappa)

    def value(log_growth: float) -> float:
        return assembled(log_growth, bound.budget, bound.kappa, lin, error, count, assumptions=()).value

    limit = value(horizon_growth)
    values = torch.tensor([value(bound.log_growth(depth)) for depth in steps], dtype=torch.float64)
    L, missing = torch.tensor(steps), limit - values
    rate = math.nan
    if bool((missing > 0).all()):
        x, y = L.to(torch.float64).log(), missing.log()
        x, y = x - x.mean(), y - y.mean()
        rate = float((x @ y) / (x @ x))
    return DepthTable(L, values, limit, rate)
