r"""What an upper bound of a Rademacher complexity is made of: its value in logarithms, its terms, its hypotheses.

Bounds are evaluated on a sample, or on all that is known of the data before they are seen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.budgets import Budget
from dnlbook.rademacher import mean_abs_sum, sample_of

_EXPONENT_LIMIT = 700.0


@dataclass(frozen=True)
class Support:
    r"""All that an a-priori bound may know of the data: :math:`|d_j|\le\text{radius}` for every datum.

    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    samples, features : int
        :math:`S` and :math:`n_d`, at least 1.
    radius : float
        Bound of every entry of every datum, at least 0; known without looking at the sample.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int or the radius is negative.

    Examples
    --------
    >>> Support(100, 5, 1.0).samples
    100
    """

    samples: int
    features: int
    radius: float

    def __post_init__(self) -> None:
        _checks.positive_int("samples", self.samples)
        _checks.positive_int("features", self.features)
        _checks.nonnegative_float("radius", self.radius)


@dataclass(frozen=True)
class Complexity:
    r"""An upper bound of :math:`\hat{\mathfrak R}_S` with its parts and what it rests on.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Attributes
    ----------
    log_value : float
        Natural logarithm of the bound; products that overflow stay finite here.
    terms : dict of str to float
        Its summands, infinite where they overflow.
    samples : int
        :math:`S`.
    readout : float
        What a certificate multiplies it by: :math:`B_{out}`, or 1 where the readout is included.
    assumptions : tuple of str
        What has to hold.
    doubts : tuple of str
        Why the number is not a proved bound; empty if it is one.
    failure : float
        Probability with which a random error term fails.
    data_free : bool
        Whether it holds for every sample of the support.
    """

    log_value: float
    terms: dict[str, float]
    samples: int
    readout: float = 1.0
    assumptions: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    failure: float = 0.0
    data_free: bool = False

    @property
    def value(self) -> float:
        """The bound; infinite where it overflows."""
        return exp(self.log_value)

    @property
    def log10(self) -> float:
        """The decimal logarithm of the bound."""
        return self.log_value / math.log(10)


def probability(name: str, value: float) -> float:
    """Return value as a float in (0, 1), or raise."""
    number = _checks.finite_float(name, value)
    if not 0 < number < 1:
        raise ValueError(f"{name}: expected a probability in (0, 1), received {value!r}")
    return number


def exp(exponent: float) -> float:
    """Return the exponential, infinite where it overflows."""
    return math.exp(exponent) if exponent < _EXPONENT_LIMIT else math.inf


def log(value: float) -> float:
    """Return the logarithm, minus infinity at 0."""
    return math.log(value) if value > 0 else -math.inf


def log_sum(*logs: float) -> float:
    """Return the logarithm of the sum of numbers that are given by their logarithms."""
    largest = max(logs)
    return largest if math.isinf(largest) else largest + math.log(sum(math.exp(part - largest) for part in logs))


def contraction_constant(activation: str | Activation, kappa: float | None) -> tuple[Activation, float]:
    r"""Return the activation and the :math:`\kappa` to use, or raise if the one asked for is too small.

    Source: chapter *Rademacher complexity through layers follows Euler's method*, contraction with absolute values.

    Raises
    ------
    ValueError
        If kappa is below the constant that is proved for the activation.

    Examples
    --------
    >>> contraction_constant("relu", None)[1]
    1.5
    """
    sigma = named_activation(activation)
    if kappa is None:
        return sigma, sigma.kappa
    asked = _checks.positive_float("kappa", kappa)
    if asked < sigma.kappa:
        why = "" if sigma.odd else ", which is not odd"
        raise ValueError(f"kappa: expected at least {sigma.kappa:g} for {sigma.name}{why}; received {kappa!r}")
    return sigma, asked


def massart(data: Tensor | Support) -> float:
    r"""Return :math:`\sqrt{2\log(2n_d)}\max_j\bigl(\sum_s|d_j^s|^2\bigr)^{1/2}
    \ge\mathbb E\max_j\bigl|\sum_s\varepsilon_sd^s_j\bigr|`.

    Source: Massart's finite class lemma.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``, or Support

    Raises
    ------
    ValueError, TypeError
        If the sample is empty or not a finite tensor.

    Examples
    --------
    >>> import torch
    >>> round(massart(torch.ones(9, 1)), 4)
    3.5322
    """
    if isinstance(data, Support):
        return math.sqrt(2 * math.log(2 * data.features) * data.samples) * data.radius
    sample = sample_of(data)
    return math.sqrt(2 * math.log(2 * sample.shape[1])) * float(sample.square().sum(0).max().sqrt())


class RademacherBound(ABC):
    """What the bounds have in common: a budget, and an evaluation on a sample or on a support.

    Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    budget : Budget
    activation : str or Activation
    kappa : float, optional
        Contraction constant; the one that is proved for the activation unless given, and never less.

    Raises
    ------
    ValueError, TypeError
        If kappa is too small for the activation, or an argument is out of range.
    """

    def __init__(
        self, budget: Budget, activation: str | Activation = "identity", *, kappa: float | None = None
    ) -> None:
        if not isinstance(budget, Budget):
            raise TypeError(f"budget: expected a Budget, received {type(budget).__name__}")
        self.budget = budget
        self.activation, self.kappa = contraction_constant(activation, kappa)

    @abstractmethod
    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> Complexity:
        """Return the bound for a sample, shape ``(S, n_d)``, or for all samples of a support."""

    def complexity(self, data: Tensor | Support, depth: int | None = None) -> float:
        """Return the value of the bound alone."""
        return self.evaluate(data, depth).value

    def terms(self, data: Tensor | Support, depth: int | None = None) -> dict[str, float]:
        """Return the summands of the bound."""
        return self.evaluate(data, depth).terms

    def _assumptions(self) -> tuple[str, ...]:
        return (
            "independent samples of one distribution",
            f"row budgets {self.budget}, fixed before the data",
            f"fixed activation {self.activation.name} with contraction constant {self.kappa:g}",
        )


def checked_depth(depth: int | None) -> int:
    """Return a depth, or raise when there is none."""
    if depth is None:
        raise ValueError("depth: expected an int of at least 1 for a bound of a network, received None")
    return _checks.positive_int("depth", depth)


def assembled(
    log_growth: float,
    budget: Budget,
    kappa: float,
    lin: float,
    error: float,
    count: int,
    *,
    time: float | None = None,
    assumptions: tuple[str, ...],
    doubts: tuple[str, ...] = (),
    failure: float = 0.0,
    data_free: bool = False,
) -> Complexity:
    r"""Put the bound together from :math:`\log g` and the linear term, in logarithms.

    Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Examples
    --------
    >>> assembled(2000.0, Budget(), 1.0, 1.0, 0.0, 1, assumptions=()).log_value
    2000.0
    """
    m, c = mean_abs_sum(count), budget.growth(kappa)
    horizon = budget.T if time is None else time
    # log of (g - 1) / c = log g + log(1 - 1 / g) - log c, which tends to T as c -> 0
    log_sum_of_powers = log_growth + log(-math.expm1(-log_growth)) - log(c) if c > 0 else log(horizon)
    logs = {
        "lift": log_growth + log(budget.B0 * lin / count),
        "lift_bias": log_growth + log(budget.Bb0 * m / count),
        "layer_bias": log_sum_of_powers + log(kappa * budget.BV * budget.Bb * m / count),
        "mc_error": log_growth + log(budget.B0 * error / count),
    }
    return Complexity(
        log_sum(*logs.values()),
        {name: exp(value) for name, value in logs.items()},
        count,
        budget.Bout,
        assumptions,
        doubts,
        failure,
        data_free,
    )


def largest_states(
    data: Tensor | Support, depth: int, budget: Budget, activation: str | Activation = "identity"
) -> Tensor:
    r"""Return :math:`X_s^L\ge|x^L(d^s)|_\infty` for each datum and every network of the class.

    .. math:: X^{l+1}_s&=X^l_s+\tau B_VL_\sigma(B_WX^l_s+B_b-\min(\alpha,\beta))_+,\\
              X^0_s&=B_0\|d^s\|_\infty+B_{b0} .

    Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``, or Support
    depth : int
    budget : Budget
    activation : str or Activation

    Returns
    -------
    Tensor, shape ``(S,)``, or ``(1,)`` for a support, where all data are alike

    Raises
    ------
    ValueError, TypeError
        If the sample is empty, the depth is not positive, or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> largest_states(torch.ones(1, 2), 2, Budget())
    tensor([2.2500], dtype=torch.float64)
    """
    sigma, L = named_activation(activation), checked_depth(depth)
    if isinstance(data, Support):
        size = torch.tensor([data.radius], dtype=torch.float64)
    else:
        size = sample_of(data).abs().amax(1)
    state = budget.B0 * size + budget.Bb0
    for _ in range(L):
        excess = (budget.BW * state + budget.Bb - min(sigma.thresholds)).relu()
        state = state + budget.T / L * budget.BV * sigma.lipschitz * excess
    return state
