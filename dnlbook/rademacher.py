r"""Rademacher complexity of the class of a budget: exact for linear layers, from below by ascent for others.

.. math:: r_l=\mathbb E_\varepsilon\sup_\theta\max_i\Bigl|\sum_s\varepsilon_sx^l_i(d^s)\Bigr|,\qquad
          \hat{\mathfrak R}_S(\mathcal F^L)=r_L/S .
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.budgets import Budget, project_rows

#: up to this many samples the expectation over the signs is a sum over all of them
ENUMERATED = 12
#: the coefficient of the control variate is fitted to at least this many sign vectors
_FITTED = 8
#: how many numbers a block of sign vectors may hold
_BLOCK = 4_000_000
#: the binomial coefficients of longer sums come from Stirling's series
_EXACT_BINOMIALS = 1000


def sample_of(data: Tensor) -> Tensor:
    """Return data as a float64 sample of shape ``(S, n_d)`` without graph, or raise.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Examples
    --------
    >>> sample_of(torch.ones(2, 3, dtype=torch.float32)).dtype
    torch.float64
    """
    sample = _checks.finite("data", _checks.shape("data", data, ("S", "n_d")))
    if sample.numel() == 0:
        raise ValueError(f"data: expected a sample of at least one datum and one feature, received {tuple(data.shape)}")
    return sample.detach().to(torch.float64)


def mean_abs_sum(count: int) -> float:
    r"""Return :math:`m_k=\mathbb E|\varepsilon_1+\dots+\varepsilon_k|`, exactly.

    .. math:: m_{2j}=m_{2j-1}=2j\binom{2j}j2^{-2j}\le\sqrt{2j} .

    Source: classical; chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    count : int
        :math:`k`, at least 0.

    Raises
    ------
    ValueError, TypeError
        If count is not an int of at least 0.

    Examples
    --------
    >>> [round(mean_abs_sum(k), 12) for k in range(5)]
    [0.0, 1.0, 1.0, 1.5, 1.5]
    """
    k = 0 if isinstance(count, int) and count == 0 else _checks.positive_int("count", count)
    j = (k + 1) // 2
    if j <= _EXACT_BINOMIALS:
        return 2 * j * math.comb(2 * j, j) / (1 << 2 * j)
    # Stirling's series of 2 Gamma(j + 1/2) / (sqrt(pi) Gamma(j)); the next term is below 1e-3 j^-4
    series = 1 - 1 / (8 * j) + 1 / (128 * j**2) + 5 / (1024 * j**3)
    return 2 * math.sqrt(j / math.pi) * series


def mean_abs_sums(count: int) -> Tensor:
    r"""Return :math:`(m_0,\dots,m_k)`, shape ``(k + 1,)``; see :func:`mean_abs_sum`.

    Examples
    --------
    >>> mean_abs_sums(3).tolist()
    [0.0, 1.0, 1.0, 1.5]
    """
    k = 0 if isinstance(count, int) and count == 0 else _checks.positive_int("count", count)
    j = torch.arange(k // 2 + k % 2, dtype=torch.float64)
    # m_{2j+2} / m_{2j} = (2j + 1) / (2j), m_2 = 1
    odd = torch.cat([torch.ones(1, dtype=torch.float64), 1 + 1 / (2 * j[1:])]).cumprod(0)
    return torch.cat([torch.zeros(1, dtype=torch.float64), odd.repeat_interleave(2)])[: k + 1]


def all_signs(count: int) -> Tensor:
    r"""Return all sign vectors of a length, shape ``(2^S, S)``, float64.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    count : int
        :math:`S`, between 1 and 20.

    Raises
    ------
    ValueError, TypeError
        If count is not an int between 1 and 20.

    Examples
    --------
    >>> all_signs(2).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """
    if _checks.positive_int("count", count) > 20:
        raise ValueError(f"count: expected at most 20 signs to enumerate, received {count!r}")
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * count).reshape(-1, count)


def random_signs(vectors: int, count: int, *, seed: int = 0) -> Tensor:
    r"""Return independent Rademacher vectors, shape ``(N, S)``, float64.

    Comparisons should use the same vectors: their difference then has a small variance.
    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    vectors, count : int
        :math:`N` and :math:`S`, at least 1.
    seed : int

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int.

    Examples
    --------
    >>> random_signs(3, 4).abs().sum()
    tensor(12., dtype=torch.float64)
    """
    shape = (_checks.positive_int("vectors", vectors), _checks.positive_int("count", count))
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, shape, generator=generator).to(torch.float64) - 1.0


def checked_signs(signs: Tensor, count: int) -> Tensor:
    """Return sign vectors for a sample of that size as float64, or raise.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Examples
    --------
    >>> checked_signs(torch.ones(1, 2), 2).dtype
    torch.float64
    """
    vectors = _checks.shape("signs", signs, ("N", count))
    if len(vectors) == 0 or bool((vectors.abs() != 1).any()):
        raise ValueError(f"signs: expected at least one vector of entries -1 and 1, received {signs!r}")
    return vectors.detach().to(torch.float64)


def _default_signs(count: int, vectors: int, seed: int) -> tuple[Tensor, bool]:
    """All sign vectors of a small sample, random ones of a large sample; and whether they are all."""
    exhaustive = count <= ENUMERATED
    return (all_signs(count) if exhaustive else random_signs(vectors, count, seed=seed)), exhaustive


@dataclass(frozen=True)
class RademacherEstimate:
    r"""An estimate of :math:`\hat{\mathfrak R}_S` from sign vectors.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Attributes
    ----------
    mean : float
        The estimate, divided by S.
    se : float
        Standard error of the mean over the sign vectors; 0 if all :math:`2^S` were used.
    per_sign : Tensor, shape ``(N,)``
        The value of each sign vector, divided by S.
    kind : {"exact", "lower"}
        ``"exact"``: each entry of ``per_sign`` is the supremum itself.  ``"lower"``: it is a value that
        was reached, so that it may refute a bound and never proves one.
    raw_mean : float
        The mean without the control variate.
    samples : int
        :math:`S`.
    """

    mean: float
    se: float
    per_sign: Tensor
    kind: str
    raw_mean: float
    samples: int


def _mean(values: Tensor, exhaustive: bool) -> tuple[float, float]:
    if exhaustive:
        return float(values.mean()), 0.0
    return float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.inf


def linear_suprema(data: Tensor, depth: int, budget: Budget, signs: Tensor) -> Tensor:
    r"""Return, for each sign vector, the supremum over the class with :math:`\sigma=\mathrm{id}`, divided by S.

    .. math:: &\frac1S\Bigl[(1+\tau c)^L\Bigl(B_0\max_j\Bigl|\sum_s\varepsilon_sd^s_j\Bigr|+B_{b0}|\Sigma|\Bigr)
              +\frac{(1+\tau c)^L-1}cB_VB_b|\Sigma|\Bigr],\\
              &c=B_VB_W,\quad\Sigma=\sum_s\varepsilon_s .

    Source: chapter *Rademacher complexity through layers follows Euler's method*, sharpness of the recursion.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``
    depth : int
    budget : Budget
    signs : Tensor, shape ``(N, S)``

    Returns
    -------
    Tensor, shape ``(N,)``

    Raises
    ------
    ValueError, TypeError
        If the sample is empty, the depth is not positive, or the signs do not fit.

    Examples
    --------
    >>> linear_suprema(torch.ones(2, 1), 1, Budget(), torch.ones(1, 2))
    tensor([2.], dtype=torch.float64)
    """
    sample = sample_of(data)
    L, vectors = _checks.positive_int("depth", depth), checked_signs(signs, len(sample))
    c = budget.growth(1.0)
    log_growth = L * math.log1p(budget.T / L * c)
    # (e^g - 1) / c tends to T as c -> 0
    bias_factor = budget.BV * budget.Bb * (math.expm1(log_growth) / c if c > 0 else budget.T)
    growth = math.exp(log_growth)
    values = []
    for block in torch.split(vectors, max(1, _BLOCK // len(sample))):
        total = block.sum(1).abs()
        largest = (block @ sample).abs().amax(1)
        values.append(growth * (budget.B0 * largest + budget.Bb0 * total) + bias_factor * total)
    return torch.cat(values) / len(sample)


def exact_rademacher_linear(
    data: Tensor, depth: int, budget: Budget, *, n_signs: int = 20_000, seed: int = 0, signs: Tensor | None = None
) -> RademacherEstimate:
    r"""Return :math:`\hat{\mathfrak R}_S(\mathcal F^L)` of the class with linear layers, :math:`\sigma=\mathrm{id}`.

    The supremum is exact for each sign vector (:func:`linear_suprema`).  Up to 12 samples the mean runs over
    all :math:`2^S` sign vectors and is exact too; beyond, it is a mean over random ones with its standard error.
    Source: chapter *Rademacher complexity through layers follows Euler's method*, sharpness of the recursion.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``
    depth : int
    budget : Budget
    n_signs, seed : int
        How many random sign vectors a large sample gets.
    signs : Tensor, shape ``(N, S)``, optional
        Use these sign vectors; all :math:`2^S` of them are recognized by their number.

    Returns
    -------
    RademacherEstimate
        Of kind ``"exact"``.

    Raises
    ------
    ValueError, TypeError
        If the sample is empty, a size is not positive, or the signs do not fit.

    Examples
    --------
    >>> exact_rademacher_linear(torch.ones(2, 1), 4, Budget(BV=0.0)).mean
    0.5
    """
    sample = sample_of(data)
    vectors, exhaustive = signs_or_default(signs, len(sample), n_signs, seed)
    values = linear_suprema(sample, depth, budget, vectors)
    mean, se = _mean(values, exhaustive)
    return RademacherEstimate(mean, se, values, "exact", mean, len(sample))


def signs_or_default(signs: Tensor | None, count: int, n_signs: int, seed: int) -> tuple[Tensor, bool]:
    """Return the sign vectors to use, and whether they are all there are.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Examples
    --------
    >>> signs_or_default(None, 3, 100, 0)[0].shape
    torch.Size([8, 3])
    """
    if signs is None:
        return _default_signs(count, _checks.positive_int("n_signs", n_signs), seed)
    vectors = checked_signs(signs, count)
    every = len(vectors) == 2**count and len(torch.unique(vectors, dim=0)) == len(vectors)
    return vectors, every


def _regression(values: Tensor, control: Tensor) -> float:
    """The coefficient of the control variate that leaves the smallest variance; 1 from a few values."""
    deviation = control - control.mean()
    variance = float(deviation @ deviation)
    if len(values) < _FITTED or variance == 0:
        return 1.0
    return float(deviation @ (values - values.mean())) / variance


class _Ascent:
    """Frank-Wolfe ascent of sum_s eps_s x^L_1(d^s) over the class, for a batch of sign vectors at once."""

    def __init__(
        self, sample: Tensor, depth: int, budget: Budget, sigma: Activation, width: int, restarts: int, seed: int
    ) -> None:
        self.sample, self.depth, self.budget, self.sigma = sample, depth, budget, sigma
        self.width, self.restarts = width, restarts
        self.generator = torch.Generator().manual_seed(seed)
        self.radius = {"W_in": budget.B0, "V": budget.BV, "W": budget.BW}
        self.clamp = {"b_in": budget.Bb0, "b": budget.Bb}

    def start(self, signs: Tensor, warm: bool) -> dict[str, Tensor]:
        """Random points of the class; with warm, the first restart is the maximizer of the linear class."""
        count, n, L = len(signs) * self.restarts, self.width, self.depth
        shapes = {"W_in": (n, self.sample.shape[1]), "V": (L, n, n), "W": (L, n, n), "b_in": (n,), "b": (L, n)}
        values = {
            name: torch.randn(count, *shape, generator=self.generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        for name, bound in self.radius.items():
            values[name] = project_rows(values[name] * bound, bound)
        for name, bound in self.clamp.items():
            values[name] = (values[name] * bound).clamp_(-bound, bound)
        if warm:
            first = torch.arange(0, count, self.restarts)
            for value in values.values():
                value[first] = 0.0
            correlation = signs @ self.sample
            best = correlation.abs().argmax(1)
            rows = torch.arange(len(signs))
            side = torch.where(signs.sum(1) >= 0, 1.0, -1.0).to(torch.float64)
            values["W_in"][first, 0, best] = self.budget.B0 * correlation[rows, best].sign()
            values["b_in"][first, 0] = self.budget.Bb0 * side
            values["V"][first, :, 0, 0] = self.budget.BV
            values["W"][first, :, 0, 0] = self.budget.BW
            values["b"][first, :, 0] = (self.budget.Bb * side).unsqueeze(1)
        return values

    def objective(self, signs: Tensor, values: dict[str, Tensor]) -> Tensor:
        """sum_s eps_s x^L_1(d^s) for each element of the batch."""
        x = self.sample @ values["W_in"].mT + values["b_in"].unsqueeze(1)
        layers = zip(*(values[name].unbind(1) for name in ("V", "W", "b")), strict=True)
        step = self.budget.T / self.depth
        for V, W, b in layers:
            x = torch.baddbmm(x, self.sigma(torch.baddbmm(b.unsqueeze(1), x, W.mT)), V.mT, alpha=step)
        correlation: Tensor = torch.linalg.vecdot(signs, x[..., 0])
        return correlation

    def vertex(self, name: str, gradient: Tensor) -> Tensor:
        """The point of the class where the linear function with this gradient is largest."""
        if name in self.clamp:
            return gradient.sign() * self.clamp[name]
        at = gradient.abs().argmax(-1, keepdim=True)
        corner = gradient.gather(-1, at).sign() * self.radius[name]
        return torch.zeros_like(gradient).scatter_(-1, at, corner)

    def run(self, signs: Tensor, steps: int, warm: bool) -> Tensor:
        """The best value of each sign vector over restarts and iterates."""
        values = self.start(signs, warm)
        repeated = signs.repeat_interleave(self.restarts, 0)
        best = torch.full((len(repeated),), -math.inf, dtype=torch.float64)
        for k in range(steps + 1):
            for value in values.values():
                value.requires_grad_(k < steps)
            with torch.set_grad_enabled(k < steps):
                reached = self.objective(repeated, values)
            best = torch.maximum(best, reached.detach())
            if k == steps:
                break
            gradients = torch.autograd.grad(reached.sum(), list(values.values()))
            share = 2.0 / (k + 2.0) if k else 0.5
            values = {
                name: torch.lerp(value.detach(), self.vertex(name, gradient), share)
                for (name, value), gradient in zip(values.items(), gradients, strict=True)
            }
        return best.view(len(signs), self.restarts).amax(1)


def empirical_rademacher(
    data: Tensor,
    depth: int,
    budget: Budget,
    activation: str | Activation = "identity",
    *,
    width: int = 6,
    n_signs: int = 32,
    restarts: int = 4,
    steps: int = 30,
    seed: int = 0,
    signs: Tensor | None = None,
    control_variate: bool = True,
    warm_start: bool = True,
    n_reference: int = 20_000,
) -> RademacherEstimate:
    r"""Estimate :math:`\hat{\mathfrak R}_S(\mathcal F^L)` from below by Frank-Wolfe ascent.

    For each sign vector :math:`\varepsilon` the sum :math:`\sum_s\varepsilon_sx^L_1(d^s)` is increased over the
    class by

    .. math:: \theta\leftarrow\theta+\gamma_k(\hat\theta-\theta),\qquad
              \hat\theta\in\arg\max_{\theta'}\langle\nabla,\theta'\rangle,\qquad
              \gamma_0=\tfrac12,\ \gamma_k=\tfrac2{k+2},

    all sign vectors and restarts at once; the best iterate counts.  The problem is not concave: the values are
    reached, hence lower estimates of the suprema.  The control variate is the exact supremum of the linear class
    for the same signs, whose mean is known from many more: the mean is moved along the regression line, which
    removes most of the noise of few sign vectors.
    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``
    depth : int
    budget : Budget
    activation : str or Activation
    width : int
        :math:`n=m`, at least 1; the class with n = 1 is smaller.
    n_signs, restarts, steps, seed : int
        Sign vectors, starting points of each, steps of each.
    signs : Tensor, shape ``(N, S)``, optional
        Use these sign vectors.
    control_variate : bool
    warm_start : bool
        Start the first restart at the maximizer of the linear class.
    n_reference : int
        Sign vectors for the mean of the control variate.

    Returns
    -------
    RademacherEstimate
        Of kind ``"lower"``.

    Raises
    ------
    ValueError, TypeError
        If the sample is empty, a size is not positive, or the signs do not fit.

    Examples
    --------
    >>> estimate = empirical_rademacher(torch.eye(3), 2, Budget(), width=2, signs=all_signs(3))
    >>> estimate.kind, abs(estimate.mean - exact_rademacher_linear(torch.eye(3), 2, Budget()).mean) < 1e-3
    ('lower', True)
    """
    sample, L = sample_of(data), _checks.positive_int("depth", depth)
    n, restarts, steps = (
        _checks.positive_int(name, value)
        for name, value in (("width", width), ("restarts", restarts), ("steps", steps))
    )
    if signs is None:
        vectors, every = random_signs(n_signs, len(sample), seed=seed), False
    else:
        vectors, every = signs_or_default(signs, len(sample), n_signs, seed)
    ascent = _Ascent(sample, L, budget, named_activation(activation), n, restarts, seed)
    block = max(1, _BLOCK // (restarts * (len(sample) * n * (L + 1) + 2 * L * n * n)))
    reached = torch.cat([ascent.run(part, steps, warm_start) for part in torch.split(vectors, block)]) / len(sample)
    raw, se = _mean(reached, every)
    mean = raw
    if control_variate and not every:
        linear = linear_suprema(sample, L, budget, vectors)
        share = _regression(reached, linear)
        difference, spread = _mean(reached - share * linear, False)
        reference = exact_rademacher_linear(sample, L, budget, n_signs=n_reference, seed=seed + 1)
        mean, se = difference + share * reference.mean, math.hypot(spread, share * reference.se)
    return RademacherEstimate(mean, se, reached, "lower", raw, len(sample))
