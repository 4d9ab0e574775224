r"""The structural term: what the dead zone of an activation saves, as a bound and, in one dimension, exactly.

.. math:: C^l_S=\frac1{\alpha+\beta}\Bigl(\kappa(B_Wr_l+B_bm_S)
          -\mathbb E\sup_{h\in\mathcal H^l}\Bigl|\sum_s\varepsilon_s\sigma(h_s)\Bigr|\Bigr)\ge0 .
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.bounds import RecursionBound
from dnlbook.budgets import Budget
from dnlbook.complexities import Complexity, Support, checked_depth, log
from dnlbook.rademacher import mean_abs_sums, sample_of, signs_or_default

_BLOCK = 4_000_000
#: sign vectors times candidates that are handled at once: small enough for the cache
_SMALL_BLOCK = 200_000
#: values that differ by less are equal
_TIE = 1e-12


@dataclass(frozen=True)
class StructuralComplexity(Complexity):
    r"""A bound that uses the dead zone, with what each layer saves.

    Source: chapter *The structural term saves a factor, not a rate*.

    Attributes
    ----------
    saving : Tensor, shape ``(L,)``
        :math:`\kappa(B_W\bar r_l+B_bm_S)-\min_j\{\cdot\}\ge0`, divided by S.
    alive : Tensor, shape ``(L,)``
        How many samples have a worst-case pre-activation outside of the dead zone.
    constants : Tensor, shape ``(L,)``
        :math:`C^{l,hyb}_S=S\cdot\text{saving}_l/a_\psi` with :math:`a_\psi=\alpha+\beta`; NaN without dead zone.
    largest_state : float
        :math:`\max_sX_s^L`.
    """

    saving: Tensor = field(default_factory=lambda: torch.zeros(0))
    alive: Tensor = field(default_factory=lambda: torch.zeros(0))
    constants: Tensor = field(default_factory=lambda: torch.zeros(0))
    largest_state: float = math.nan


class StructuralBound(RecursionBound):
    r"""The hybrid recursion that sees the dead zone :math:`[-\beta,\alpha]`, with :math:`a=\min(\alpha,\beta)`,

    .. math:: \bar r_{l+1}(k)=\bar r_l(k)+\tau B_V\min_{0\le j\le k}\Bigl\{\kappa\bigl(B_W\bar r_l(j)+B_bm_j\bigr)
              +\sum_{j<s\le k}L_\sigma(\rho_s^l-a)_+\Bigr\},

    for the samples in decreasing order of :math:`\|d^s\|_\infty`, with the worst-case pre-activation
    :math:`\rho_s^l=B_WX_s^l+B_b` and the worst-case state
    :math:`X^{l+1}_s=X_s^l+\tau B_VL_\sigma(\rho_s^l-a)_+`, :math:`X^0_s=B_0\|d^s\|_\infty+B_{b0}`.
    It never exceeds :class:`RecursionBound`, and it gains little unless the dead zone is comparable with
    the pre-activations.  Source: chapter *The structural term saves a factor, not a rate*.

    Parameters
    ----------
    budget, activation, linear, n_signs, seed, mc_delta, kappa
        As for :class:`RecursionBound`; the error term of Monte Carlo holds for all prefixes at once.

    Raises
    ------
    ValueError, TypeError
        As for :class:`RecursionBound`.

    Examples
    --------
    >>> data = torch.linspace(-1, 1, 9).unsqueeze(1)
    >>> bound = StructuralBound(Budget(), "soft_threshold(1.0)").evaluate(data, 4)
    >>> bound.alive.tolist(), round(bound.value / RecursionBound(Budget(BV=0.0)).complexity(data, 4), 12)
    ([0, 0, 0, 0], 1.0)
    """

    def __init__(
        self,
        budget: Budget,
        activation: str | Activation = "identity",
        *,
        linear: str = "massart",
        n_signs: int = 4000,
        seed: int = 0,
        mc_delta: float | None = None,
        kappa: float | None = None,
    ) -> None:
        super().__init__(budget, activation, linear=linear, n_signs=n_signs, seed=seed, mc_delta=mc_delta, kappa=kappa)

    def _prefixes(self, data: Tensor | Support) -> tuple[Tensor, Tensor]:
        """The sizes of the data in decreasing order, and the linear term of every prefix, from k = 0 on."""
        if isinstance(data, Support):
            k = torch.arange(data.samples + 1, dtype=torch.float64)
            size = torch.full((data.samples,), data.radius, dtype=torch.float64)
            return size, math.sqrt(2 * math.log(2 * data.features)) * data.radius * k.sqrt()
        sample = sample_of(data)
        size, order = sample.abs().amax(1).sort(descending=True, stable=True)
        ordered = sample[order]
        if self.linear == "massart":
            squares = ordered.square().cumsum(0).amax(1)
            lin = math.sqrt(2 * math.log(2 * sample.shape[1])) * squares.sqrt()
        else:
            signs = self._signs(len(sample))[:, order]
            lin = torch.zeros(len(sample), dtype=torch.float64)
            for block in torch.split(signs, max(1, _BLOCK // sample.numel())):
                lin += (block.unsqueeze(2) * ordered).cumsum(1).abs().amax(2).sum(0) / len(signs)
            if self.mc_delta is not None:
                # S prefixes share the probability of failure
                scale = math.sqrt(2 * math.log(len(sample) / self.mc_delta) / self.n_signs)
                lin += scale * size.square().cumsum(0).sqrt()
        return size, torch.cat([lin.new_zeros(1), lin])

    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> StructuralComplexity:
        """Return the bound for a depth, with what each layer saves."""
        L, budget, kappa = checked_depth(depth), self.budget, self.kappa
        size, lin = self._prefixes(data)
        count, tau, lip = len(size), budget.T / L, self.activation.lipschitz
        alpha, beta = self.activation.thresholds
        m = mean_abs_sums(count)
        r = budget.B0 * lin + budget.Bb0 * m
        plain = float(r[-1])
        state = budget.B0 * size + budget.Bb0
        saving, alive = [], []
        for _ in range(L):
            excess = lip * (budget.BW * state + budget.Bb - min(alpha, beta)).relu()
            trivial = torch.cat([excess.new_zeros(1), excess.cumsum(0)])
            contracted = kappa * (budget.BW * r + budget.Bb * m)
            # the split j = k is the plain recursion, also in rounded numbers
            best = torch.minimum((contracted - trivial).cummin(0).values + trivial, contracted)
            saving.append(float(contracted[-1] - best[-1]) / count)
            alive.append(int((excess > 0).sum()))
            plain += tau * kappa * budget.BV * (budget.BW * plain + budget.Bb * float(m[-1]))
            r = r + tau * budget.BV * best
            state = state + tau * budget.BV * excess
        value = float(r[-1])
        if not math.isfinite(value + plain):
            raise ValueError(f"budget: expected a growth whose exponential is a number, received {budget}")
        dead = alpha + beta
        saved = torch.tensor(saving, dtype=torch.float64)
        return StructuralComplexity(
            log(value / count),
            {"recursion": plain / count, "structural": min(value - plain, 0.0) / count},
            count,
            budget.Bout,
            self._assumptions(),
            self._doubts(),
            self.mc_delta or 0.0,
            isinstance(data, Support),
            saving=saved,
            alive=torch.tensor(alive),
            constants=saved * count / dead if 0 < dead < math.inf else torch.full_like(saved, math.nan),
            largest_state=float(state.max()),
        )


def structural_constant_1d(
    x: Tensor, alpha: float, bound: float = 1.0, *, n_signs: int = 2000, seed: int = 0, signs: Tensor | None = None
) -> dict[str, float]:
    r"""Return the structural constant of the class :math:`h_s=tx_s`, :math:`|t|\le B`, and its lower forms.

    With the soft threshold :math:`\sigma`, which is zero on :math:`[-\alpha,\alpha]`,

    .. math:: C^{exact}=\frac1{2\alpha}\Bigl(B\,\mathbb E\Bigl|\sum_s\varepsilon_sx_s\Bigr|
              -\mathbb E\max_{|t|\le B}\Bigl|\sum_s\varepsilon_s\sigma(tx_s)\Bigr|\Bigr).

    The maximum is that of a piecewise linear function of t with kinks at :math:`\alpha/|x_s|`.
    The lower forms are, with :math:`\hat h` and :math:`\delta_k` of the chapter,

    .. math:: C^{tel}&=\frac1{4\alpha}\sum_k\mathbb E\delta_k,\\
              C^{corr}&=\frac1{2\alpha}\mathbb E\sum_s\varepsilon_s\min(\max(\hat h_s,-\alpha),\alpha),\\
              C^{ray}&=\frac1{2\alpha}\int_0^B\Bigl(\mathbb E\Bigl|\sum_s\varepsilon_sx_s\Bigr|
              -\mathbb E\Bigl|\sum_{u|x_s|>\alpha}\varepsilon_sx_s\Bigr|\Bigr)\,du .

    Source: chapter *The structural term saves a factor, not a rate*.

    Parameters
    ----------
    x : Tensor, shape ``(S,)``
    alpha : float
        Threshold, above 0.
    bound : float
        :math:`B`, above 0.
    n_signs, seed : int
        Random sign vectors if S is above 12; below, the expectations run over all :math:`2^S`.
    signs : Tensor, shape ``(N, S)``, optional
        Use these sign vectors.

    Returns
    -------
    dict of str to float
        ``exact``; ``tel``, which depends on how ties between maximizers are broken; ``corr``, the positive
        part; ``ray``; and ``cap``, the upper bound in the theorem of arXiv 2602.20921, the smaller one of
        :math:`\sqrt S(1+2B)/(4\alpha)` and S.

    Raises
    ------
    ValueError, TypeError
        If x is empty or not a vector, a number is not above 0, or the signs do not fit.

    Examples
    --------
    >>> constants = structural_constant_1d(torch.ones(4), alpha=0.5)
    >>> constants["exact"], constants["ray"], constants["cap"]
    (0.75, 0.75, 3.0)
    """
    points = sample_of(_checks.shape("x", x, ("S",)).unsqueeze(1))[:, 0]
    a, B = _checks.positive_float("alpha", alpha), _checks.positive_float("bound", bound)
    vectors, _ = signs_or_default(signs, len(points), n_signs, seed)
    t = _candidates(points, a, B)
    sums = torch.zeros(4, dtype=torch.float64)
    for block in torch.split(vectors, max(1, _SMALL_BLOCK // t.numel())):
        partial, values = _correlations(block, points, t, a)
        side, best = _first_maximizer(values)
        sums[0] += (B * partial[:, -1].abs() - values.abs().amax((1, 2))).sum()
        sums[1] += _telescoped(block, points, t, a, values)
        clipped = side.unsqueeze(1) * (t.flatten()[best].unsqueeze(1) * points).clamp(-a, a)
        sums[2] += (block * clipped).sum()
        sums[3] += _ray(partial, points, a, B)
    exact, tel, corr, ray = (sums / (2 * a * len(vectors))).tolist()
    cap = min(math.sqrt(len(points)) * (1 + 2 * B) / (4 * a), float(len(points)))
    return {"exact": exact, "tel": tel, "corr": max(corr, 0.0), "ray": ray, "cap": cap}


def _candidates(points: Tensor, alpha: float, bound: float) -> Tensor:
    """The kinks below the bound, each once, and the bound, in rows of equal length that the bound fills up."""
    kinks = [kink for kink in dict.fromkeys((alpha / points.abs()).tolist()) if kink < bound]
    width = math.isqrt(len(kinks)) + 1
    rows = len(kinks) // width + 1
    return points.new_tensor(kinks + [bound] * (rows * width - len(kinks))).view(rows, width)


def _correlations(signs: Tensor, points: Tensor, t: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The sums over the j largest samples for j = 0 .. S, and from them the correlation at every candidate."""
    size, order = points.abs().sort(descending=True)
    first = signs.new_zeros(len(signs), 1)
    partial = torch.cat([first, (signs * points)[:, order].cumsum(1)], 1)
    branches = torch.cat([first, (signs * points.sign())[:, order].cumsum(1)], 1)
    # only the samples whose kink lies below t are out of the dead zone
    alive = torch.searchsorted(alpha / size, t)
    return partial, t * partial[:, alive] - alpha * branches[:, alive]


def _first_maximizer(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and place of the first entry of largest size; ties are ties up to rounding.

    The entries come in rows: first the row is found by its largest size, then the place within this row.
    """
    size = values.abs()
    tops = size.amax(2)
    level = tops.amax(1, keepdim=True) - _TIE
    row = (tops >= level).to(torch.uint8).argmax(1)
    each = torch.arange(len(values), device=values.device)
    column = (size[each, row] >= level).to(torch.uint8).argmax(1)
    negative = values[each, row, column] < -_TIE
    return torch.where(negative, -1.0, 1.0).to(values.dtype), row * values.shape[2] + column


def _telescoped(signs: Tensor, points: Tensor, t: Tensor, alpha: float, values: Tensor) -> Tensor:
    """Half of the sum of delta_k over k and the sign vectors; the values are overwritten.

    At the step k they hold the sum in which the samples before k are lines and the others are shrunk.
    """
    inside = signs.new_zeros(len(signs))
    for k, x in enumerate(points):
        line, sign = t * x, signs[:, k].view(-1, 1, 1)
        clipped = line.clamp(-alpha, alpha)
        flipped = torch.addcmul(values, sign, line - clipped, value=-2)
        (side, at), (other, back) = _first_maximizer(values), _first_maximizer(flipped)
        # the difference of a line minus that of the shrunk line is the part inside of the dead zone
        dead = clipped.flatten()
        inside += (side * dead[at] - other * dead[back]).abs()
        values.addcmul_(sign, clipped)
    return inside.sum() / 2


def _ray(partial: Tensor, points: Tensor, alpha: float, bound: float) -> Tensor:
    """The integral of |sum| - |sum over the samples that are alive at u|, summed over the sign vectors."""
    # j samples are alive for u between the thresholds alpha / |x| of the sample j and of the next one
    ends = (alpha / points.abs().sort(descending=True).values).clamp(max=bound)
    ends = torch.cat([ends.new_zeros(1), ends, ends.new_tensor([bound])])
    size = partial.abs()
    return ((size[:, -1:] - size) * ends.diff()).sum()
