r"""The structural term: what the dead zone of an activation saves, as a bound and, in one dimension, exactly.

.. math:: C^l_S=\frac1{\alpha+\beta}\Bigl(\kappa(B_Wr_l+B_bm_S)
          -\mathbb E\sup_{h\in\mathcal H^l}\Bigl|\sum_s\varepsilon_s\sigma(h_s)\Bigr|\Bigr)\ge0 .
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dnlbook.activations import Activation
from dnlbook.bounds import RecursionBound
from dnlbook.budgets import Budget
from dnlbook.complexities import Complexity, Support, checked_depth, log
from dnlbook.rademacher import mean_abs_sums, random_signs, sample_of

_BLOCK = 4_000_000


@dataclass(frozen=True)
class StructuralComplexity(Complexity):
    r"""A bound that uses the dead zone, with what each layer saves.

    Source: chapter *The structural term*.

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
    It never exceeds :class:`RecursionBound`, and equals it unless the dead zone is comparable with
    the pre-activations.  Source: chapter *The structural term*.

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
            signs = random_signs(self.n_signs, len(sample), seed=self.seed)[:, order]
            lin = torch.zeros(len(sample), dtype=torch.float64)
            for block in torch.split(signs, max(1, _BLOCK // sample.numel())):
                lin += (block.unsqueeze(2) * ordered).cumsum(1).abs().amax(2).sum(0) / self.n_signs
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
            best = (contracted - trivial).cummin(0).values + trivial
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
            {"recursion": plain / count, "structural": (value - plain) / count},
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
