"""Generalization gaps that are measured: of trained networks with intervals, and in the worst case over a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor, nn

from dnlbook import _checks
from dnlbook.bounds import RecursionBound
from dnlbook.complexities import Support, largest_states, probability
from dnlbook.rademacher import empirical_rademacher

LOSSES = ("ramp", "zero_one", "logistic")


def loss_values(outputs: Tensor, labels: Tensor, loss: str = "ramp", *, margin: float = 1.0) -> Tensor:
    r"""Return the loss of each datum, with the margin z of its label.

    .. math:: &\text{ramp: }\min(1,\max(0,1-z/\gamma)),\qquad\text{zero-one: }1[z\le0],\\
              &\text{logistic: }\log(1+e^{-2z/\gamma})\ \text{or}\ \log\sum_ke^{f_k/\gamma}-f_y/\gamma .

    One output: labels 0 and 1, :math:`z=(2y-1)f`.  Several: :math:`z=f_y-\max_{k\ne y}f_k`, and the logistic
    loss is the cross entropy.  Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    outputs : Tensor, shape ``(..., S, outputs)``
    labels : Tensor, shape ``(..., S)``, int64
    loss : {"ramp", "zero_one", "logistic"}
    margin : float
        :math:`\gamma`, above 0.

    Returns
    -------
    Tensor, shape ``(..., S)``

    Raises
    ------
    ValueError, TypeError
        If the loss is unknown, the margin is not above 0, the sample is empty, or labels do not fit.

    Examples
    --------
    >>> loss_values(torch.tensor([[0.5], [0.5]]), torch.tensor([1, 0]))
    tensor([0.5000, 1.0000])
    """
    _checks.choice("loss", loss, LOSSES)
    gamma = _checks.positive_float("margin", margin)
    values = _checks.tensor("outputs", outputs)
    if values.ndim < 2 or values.numel() == 0:
        raise ValueError(f"outputs: expected shape (..., S, outputs) with S >= 1, received {tuple(values.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected an int64 tensor, received {kind}")
    if labels.shape[-1:] != values.shape[-2:-1] or labels.ndim > values.ndim - 1:
        raise ValueError(f"labels: expected shape {tuple(values.shape[:-1])}, received {tuple(labels.shape)}")
    classes = max(values.shape[-1], 2)
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels: expected values in 0 .. {classes - 1}, received {labels.min()} .. {labels.max()}")
    labels = labels.expand(values.shape[:-1])
    if values.shape[-1] == 1:
        z = values[..., 0] * (2 * labels - 1)
        if loss == "logistic":
            return nn.functional.softplus(-2 * z / gamma)
    else:
        own = values.gather(-1, labels.unsqueeze(-1))[..., 0]
        if loss == "logistic":
            return torch.logsumexp(values / gamma, -1) - own / gamma
        hidden = nn.functional.one_hot(labels, values.shape[-1]).to(torch.bool)
        z = own - values.masked_fill(hidden, -math.inf).amax(-1)
    return (1 - z / gamma).clamp(0, 1) if loss == "ramp" else (z <= 0).to(values.dtype)


@dataclass(frozen=True)
class Gap:
    r"""A measured gap :math:`\mathcal L(f)-\mathcal L_S(f)` with an interval.

    Source: chapter *Certificates on real data hold, and say little*.

    Attributes
    ----------
    mean, low, high : float
        The mean over the networks and the ends of its interval.
    train, test : float
        Mean losses of the sample and of the test set.
    values : Tensor, shape ``(copies,)``
        The gap of each network.
    level : float
        Confidence level of the interval.
    """

    mean: float
    low: float
    high: float
    train: float
    test: float
    values: Tensor
    level: float


@overload
def mean_interval(values: Tensor, *, level: float = 0.95, axis: None = None) -> tuple[float, float, float]: ...


@overload
def mean_interval(values: Tensor, *, level: float = 0.95, axis: int) -> tuple[Tensor, Tensor, Tensor]: ...


def mean_interval(
    values: Tensor, *, level: float = 0.95, axis: int | None = None
) -> tuple[float, float, float] | tuple[Tensor, Tensor, Tensor]:
    r"""Return the mean of independent values and the ends of Student's t interval.

    .. math:: \bar v\pm t_{N-1}\Bigl(\frac{1+\text{level}}2\Bigr)\,\frac{s}{\sqrt N},\qquad
              s^2=\frac1{N-1}\sum_i(v_i-\bar v)^2 .

    Paired comparisons pass the differences; for a geometric mean take the exponentials of the interval of the
    logarithms.  Source: classical.

    Parameters
    ----------
    values : Tensor, shape ``(N,)``, or any shape with an axis
        At least two along the axis.
    level : float
        In (0, 1).
    axis : int, optional
        Many means at once: the axis that holds the independent values.  Each interval has the level by itself.

    Returns
    -------
    mean, low, high : float, or Tensor of the shape of the values without the axis

    Raises
    ------
    ValueError, TypeError
        If there are fewer than two values, one of them is not finite, the level is outside (0, 1), or the
        values have no such axis.

    Examples
    --------
    >>> [round(number, 3) for number in mean_interval(torch.tensor([0.0, 1.0, 2.0]))]
    [1.0, -1.484, 3.484]
    >>> mean_interval(torch.tensor([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]]), axis=1)[2]
    tensor([3.4841, 3.0000])
    """
    from scipy.stats import t

    if axis is None:
        sample, place = _checks.shape("values", values, ("N",)), 0
    else:
        sample, place = _checks.tensor("values", values), axis
        if not isinstance(axis, int):
            raise TypeError(f"axis: expected an int or None, received {type(axis).__name__}")
        if not -sample.ndim <= place < sample.ndim:
            raise ValueError(f"axis: expected an axis of values {tuple(sample.shape)}, received {axis!r}")
    count = _checks.finite("values", sample).shape[place]
    if count < 2:
        raise ValueError(f"values: expected at least 2 for an interval, received {count}")
    quantile = float(t.ppf(0.5 + probability("level", level) / 2, count - 1))
    mean = sample.mean(place)
    half = quantile * sample.std(place) / math.sqrt(count)
    if axis is None:
        return float(mean), float(mean) - float(half), float(mean) + float(half)
    return mean, mean - half, mean + half


@torch.no_grad()
def generalization_gap(
    net: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    losses: Sequence[str] = LOSSES,
    margin: float = 1.0,
    level: float = 0.95,
) -> dict[str, Gap]:
    r"""Measure the mean loss of the test set minus that of the sample, with an interval.

    For a stack of at least two networks it is Student's t interval over the networks, which estimates the mean
    gap of the training procedure.  For one network it is the normal interval of the mean over the test set,
    for the gap of this network.  Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    net : Module
        A :class:`BudgetedNet`, one network or a stack.
    train, test : (Tensor, Tensor)
        Data ``(S, n_d)`` or ``(copies, S, n_d)`` and int64 labels ``(S,)`` or ``(copies, S)``.
    losses : sequence of {"ramp", "zero_one", "logistic"}
    margin, level : float

    Returns
    -------
    dict of str to Gap

    Raises
    ------
    ValueError, TypeError
        If a loss is unknown, a sample is empty or does not fit, or a number is out of range.

    Examples
    --------
    >>> from dnlbook.budgets import Budget, BudgetedNet
    >>> net = BudgetedNet(2, 3, 4, Budget(), copies=5)
    >>> sample = torch.eye(2), torch.tensor([0, 1])
    >>> generalization_gap(net, sample, sample)["ramp"].mean
    0.0
    """
    probability("level", level)
    measured = {}
    outputs = [(net(data), labels) for data, labels in (train, test)]
    for loss in losses:
        fitted, fresh = (loss_values(values, labels, loss, margin=margin) for values, labels in outputs)
        gaps = (fresh.mean(-1) - fitted.mean(-1)).reshape(-1).to(torch.float64)
        if len(gaps) > 1:
            mean, low, high = mean_interval(gaps, level=level)
        else:
            from scipy.stats import norm

            mean = float(gaps[0])
            half = math.inf
            if fresh.shape[-1] > 1:
                half = float(norm.ppf(0.5 + level / 2)) * float(fresh.std()) / math.sqrt(fresh.shape[-1])
            low, high = mean - half, mean + half
        measured[loss] = Gap(mean, low, high, float(fitted.mean()), float(fresh.mean()), gaps, level)
    return measured


@dataclass(frozen=True)
class WorstCaseGap:
    r"""The largest gap over a class for random labels, from below, beside the complexity term of its bound.

    Source: chapter *Certificates on real data hold, and say little*.

    Attributes
    ----------
    mean, se : float
        Of :math:`\sup_\theta(\mathcal L-\mathcal L_S)` over random labels.
    complexity_term : float
        :math:`2\Lambda B_{out}\bar R` with :math:`\Lambda=1/(2M_f)`.
    ratio : float
        mean / complexity_term; at most 1/2 up to sampling errors.
    largest_output : float
        :math:`M_f`.
    kind : str
        ``"lower"``: the suprema are reached by ascent.
    """

    mean: float
    se: float
    complexity_term: float
    ratio: float
    largest_output: float
    kind: str = "lower"


def worst_case_gap(
    data: Tensor,
    depth: int,
    bound: RecursionBound,
    *,
    draws: int = 32,
    width: int = 6,
    restarts: int = 4,
    steps: int = 30,
    seed: int = 0,
) -> WorstCaseGap:
    r"""Measure the largest gap of the class for labels that are independent of the data.

    For :math:`\ell=\frac12(1-yf/M_f)`, :math:`M_f=B_{out}\max_sX^L_s`, and uniform labels

    .. math:: \mathbb E_y\sup_\theta(\mathcal L-\mathcal L_S)=\frac{B_{out}}{2M_f}\,\hat{\mathfrak R}_S(\mathcal F^L),

    half of the complexity term of the certificate: the labels are the signs.
    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    data : Tensor, shape ``(S, n_d)``
    depth : int
    bound : RecursionBound
        Gives the budget, the activation and the complexity term.
    draws, width, restarts, steps, seed : int
        How many draws of the labels, and the ascent of :func:`empirical_rademacher`.

    Raises
    ------
    ValueError, TypeError
        If the sample is empty, a size is not positive, or every network of the class vanishes on the sample.

    Examples
    --------
    >>> from dnlbook.budgets import Budget
    >>> result = worst_case_gap(torch.eye(4), 2, RecursionBound(Budget(), linear="mc"))
    >>> 0.45 < result.ratio < 0.51
    True
    """
    if isinstance(data, Support):
        raise TypeError("data: expected a sample, received a Support")
    if not isinstance(bound, RecursionBound):
        raise TypeError(f"bound: expected a RecursionBound, received {type(bound).__name__}")
    budget = bound.budget
    largest = budget.Bout * float(largest_states(data, depth, budget, bound.activation).max())
    if largest == 0:
        raise ValueError("data: expected a class that does not vanish on the sample, received one with sup |f| = 0")
    estimate = empirical_rademacher(
        data,
        depth,
        budget,
        bound.activation,
        width=width,
        n_signs=draws,
        restarts=restarts,
        steps=steps,
        seed=seed,
    )
    scale = budget.Bout / (2 * largest)
    term = 2 * scale * bound.complexity(data, depth)
    return WorstCaseGap(scale * estimate.mean, scale * estimate.se, term, scale * estimate.mean / term, largest)
