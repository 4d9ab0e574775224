"""Continuous depth: parameter paths, the fields they define and the networks that integrate them.

A residual network is one step of a Runge-Kutta method per layer; the usual one is Euler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation

Parameters = tuple[Tensor, Tensor, Tensor]
Path = Callable[[float], Parameters]
Field = Callable[[float, Tensor], Tensor]

#: half-open stage times stop this share of a step before the next layer ...
_SHORT_OF_NEXT = 1e-7
#: ... and a time that lies this share of the horizon before a node is the node, rounded
_ROUNDING = 2e-15


@dataclass(frozen=True)
class Scheme:
    r"""An explicit Runge-Kutta method as a value: its tableau, its name and its order.

    .. math:: k_i = f\Bigl(t_l+c_i\tau,\; x^l+\tau\sum_{j<i}a_{ij}k_j\Bigr),\qquad
              x^{l+1} = x^l+\tau\sum_i b_ik_i .

    Source: chapter *A residual network is Euler's method*.

    Parameters
    ----------
    name : str
        What the literature calls it.
    order : int
        Guaranteed order for a smooth field.
    a : tuple of tuples of float
        Row i holds the weights of the stages before i.
    b, c : tuple of float
        Weights and stage times, one per stage.

    Raises
    ------
    ValueError
        If the tableau is not explicit, not consistent, or its parts do not fit together.

    Examples
    --------
    >>> HEUN.stages, HEUN.order, HEUN.b
    (2, 2, (0.5, 0.5))
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        _checks.positive_int("order", self.order)
        if not len(self.a) == len(self.b) == len(self.c) or not self.b:
            raise ValueError(
                f"a, b, c: expected one entry per stage, received {[len(part) for part in (self.a, self.b, self.c)]}"
            )
        for i, (row, time) in enumerate(zip(self.a, self.c, strict=True)):
            if len(row) != i:
                raise ValueError(f"a: expected {i} entries in row {i} of an explicit method, received {len(row)}")
            if not math.isclose(sum(row), time, abs_tol=1e-12):
                raise ValueError(f"c: expected the row sum {sum(row)!r} at stage {i}, received {time!r}")
        if not math.isclose(sum(self.b), 1.0, abs_tol=1e-12):
            raise ValueError(f"b: expected weights that add up to 1, received {self.b!r}")

    @property
    def stages(self) -> int:
        """How often the field is evaluated in one step."""
        return len(self.b)


EULER = Scheme("euler", 1, ((),), (1.0,), (0.0,))
MIDPOINT = Scheme("midpoint", 2, ((), (0.5,)), (0.0, 1.0), (0.0, 0.5))
HEUN = Scheme("heun", 2, ((), (1.0,)), (0.5, 0.5), (0.0, 1.0))
RK4 = Scheme("rk4", 4, ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.5, 0.5, 1.0))
RK38 = Scheme(
    "rk38",
    4,
    ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    (1 / 8, 3 / 8, 3 / 8, 1 / 8),
    (0.0, 1 / 3, 2 / 3, 1.0),
)
SCHEMES = {scheme.name: scheme for scheme in (EULER, MIDPOINT, HEUN, RK4, RK38)}


def _scheme(value: str | Scheme) -> Scheme:
    return value if isinstance(value, Scheme) else SCHEMES[_checks.choice("scheme", value, SCHEMES)]


def integrate(
    field: Field,
    x0: Tensor,
    *,
    depth: int,
    horizon: float = 1.0,
    scheme: str | Scheme = "euler",
    half_open: bool = False,
) -> Tensor:
    r"""Integrate :math:`x'=f(t,x)`, :math:`x(0)=x^0` on :math:`[0,T]` in equal steps.

    With ``scheme="euler"`` this is the residual network :math:`x^{l+1}=x^l+\tau f(t_l,x^l)`,
    :math:`\tau=T/L`.  Source: chapter *A residual network is Euler's method*.

    Parameters
    ----------
    field : callable ``(t, x) -> dx/dt``
        t is a float, x has the shape of x0, and so must the result.
    x0 : Tensor, any shape
        The initial state.
    depth : int
        Number of steps :math:`L`.
    horizon : float
        :math:`T>0`.
    scheme : str or Scheme
        ``"euler"``, ``"midpoint"``, ``"heun"``, ``"rk4"`` (the classical method), ``"rk38"`` (the 3/8
        rule) or a tableau of your own.
    half_open : bool
        Keep all stage times inside :math:`[t_l,t_{l+1})`.  Weights that are constant on these
        intervals need it: a stage at :math:`t_{l+1}` would read the next layer's weights.

    Returns
    -------
    Tensor, shape ``(depth + 1, *x0.shape)``
        The states at :math:`t_0,\dots,t_L`; differentiable in everything the field depends on.

    Raises
    ------
    ValueError
        If depth or horizon is not positive, the scheme is unknown, x0 is not finite, or the field
        returns a wrong shape or dtype, or a value that is not finite (the message says at which t).

    Examples
    --------
    >>> x = integrate(lambda t, x: -x, torch.ones(1, dtype=torch.float64), depth=64, scheme="rk4")
    >>> f"{x[-1].item():.7f}"
    '0.3678794'
    """
    steps = _checks.positive_int("depth", depth)
    tau = _checks.positive_float("horizon", horizon) / steps
    method = _scheme(scheme)
    x = _checks.finite("x0", _checks.tensor("x0", x0))
    states = [x]
    for layer in range(steps):
        start, end = layer * tau, (layer + 1) * tau
        last = end - _SHORT_OF_NEXT * tau if half_open else end
        stages: list[Tensor] = []
        for row, c in zip(method.a, method.c, strict=True):
            time = min(start + c * tau, last)
            inner = x
            for weight, stage in zip(row, stages, strict=True):
                if weight:
                    inner = inner + (tau * weight) * stage
            stages.append(_slope(field, time, inner))
        for weight, stage in zip(method.b, stages, strict=True):
            if weight:
                x = x + (tau * weight) * stage
        states.append(x)
    return torch.stack(states)


def _slope(field: Field, time: float, x: Tensor) -> Tensor:
    slope = field(time, x)
    if not isinstance(slope, Tensor) or slope.shape != x.shape or slope.dtype != x.dtype:
        got = f"{tuple(slope.shape)} of {slope.dtype}" if isinstance(slope, Tensor) else type(slope).__name__
        raise ValueError(f"field: expected shape {tuple(x.shape)} of {x.dtype} at t = {time:g}, received {got}")
    if not bool(torch.isfinite(slope).all()):
        raise ValueError(
            f"field: expected finite values, received nan or inf at t = {time:g}; "
            "the state may have blown up: try a larger depth or a smaller field"
        )
    return slope


def perceptron_field(path: Path, activation: str | Activation = "tanh") -> Field:
    r"""Return the field :math:`f(t,x)=V(t)\,\sigma(W(t)x+b(t))` of a parameter path.

    Source: the limit :math:`x'=f(x,\theta(t))` of chapter *A residual network is Euler's method*.

    Parameters
    ----------
    path : callable ``t -> (V, W, b)``
        Shapes ``(n, m)``, ``(m, n)``, ``(m,)``.
    activation : str or Activation

    Returns
    -------
    callable ``(t, x) -> Tensor``
        For x of shape ``(..., n)``.

    Raises
    ------
    ValueError
        If the activation is unknown; and, when the field is called, if the path returns something
        that is not a triple of matching shapes (the message says at which t).

    Examples
    --------
    >>> rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    >>> field = perceptron_field(lambda t: (rotation, torch.eye(2), torch.zeros(2)), "identity")
    >>> field(0.0, torch.tensor([1.0, 0.0]))
    tensor([0., 1.])
    """
    sigma = named_activation(activation)

    def field(t: float, x: Tensor) -> Tensor:
        V, W, b = read_path(path, t)
        if x.shape[-1] != W.shape[1]:
            raise ValueError(f"x: expected last dimension {W.shape[1]}, received shape {tuple(x.shape)}")
        return sigma(x @ W.mT + b) @ V.mT

    return field


def read_path(path: Path, t: float) -> Parameters:
    """Return ``(V, W, b) = path(t)`` after checking that shapes, dtypes and values fit together.

    Source: the parameter triple of the notation table.

    Raises
    ------
    ValueError
        If the path is not a triple of shapes ``(n, m)``, ``(m, n)``, ``(m,)`` of one dtype, or not finite.

    Examples
    --------
    >>> read_path(lambda t: (torch.ones(2, 3), torch.ones(3, 2), torch.ones(2)), 0.5)
    Traceback (most recent call last):
    ...
    ValueError: path(0.5)[2], the bias b: expected shape (3), received (2,)
    """
    triple = path(t)
    if not isinstance(triple, tuple | list) or len(triple) != 3:
        raise ValueError(f"path({t:g}): expected a triple (V, W, b), received {type(triple).__name__}")
    V = _checks.shape(f"path({t:g})[0], the outer weight V", triple[0], ("n", "m"))
    W = _checks.shape(f"path({t:g})[1], the inner weight W", triple[1], (V.shape[1], V.shape[0]))
    b = _checks.shape(f"path({t:g})[2], the bias b", triple[2], (V.shape[1],))
    for name, value in (("W", W), ("b", b)):
        _checks.same_kind(f"path({t:g}), {name}", value, "V", V)
    for name, value in (("V", V), ("W", W), ("b", b)):
        _checks.finite(f"path({t:g}), {name}", value)
    return V, W, b


def interval(t: float, pieces: int, horizon: float = 1.0) -> int:
    r"""Return the k with :math:`t\in[kT/M,(k+1)T/M)`; the last interval is closed.

    A time that equals a node up to rounding belongs to the interval on its right.
    Source: chapter *Is a trained ResNet a discretization?*

    Raises
    ------
    ValueError
        If t lies outside of the horizon, or pieces or horizon is not positive.

    Examples
    --------
    >>> [interval(t, 4) for t in (0.0, 0.25, 0.3 - 0.05, 0.49, 1.0)]
    [0, 1, 1, 1, 3]
    """
    number = _checks.positive_int("pieces", pieces)
    position = t * number / _checks.positive_float("horizon", horizon)
    slack = _ROUNDING * number
    if not -slack <= position <= number + slack:
        raise ValueError(f"t: expected a time in [0, {horizon:g}], received {t!r}")
    return max(0, min(int(math.floor(position + slack)), number - 1))


def frozen(path: Path, depth: int, *, at: str = "left", horizon: float = 1.0) -> Path:
    r"""Return the path that a network of that depth stores instead of the path itself.

    ``"left"`` holds :math:`\theta(t_l)` and ``"middle"`` holds :math:`\theta(t_l+\tau/2)` on
    :math:`[t_l,t_{l+1})`; ``"linear"`` interpolates between :math:`\theta(t_l)` and
    :math:`\theta(t_{l+1})`.  Integrate the first two with ``half_open=True``.
    Source: chapter *A residual network is Euler's method*, the theorem on tied weights.

    Raises
    ------
    ValueError
        If depth or horizon is not positive, or ``at`` is not one of the three words.

    Examples
    --------
    >>> step = frozen(lambda t: (torch.tensor([[t]]), torch.eye(1), torch.zeros(1)), 4, at="left")
    >>> step(0.3)[0].item()
    0.25
    """
    steps = _checks.positive_int("depth", depth)
    tau = _checks.positive_float("horizon", horizon) / steps
    _checks.choice("at", at, ("left", "middle", "linear"))

    def held(t: float) -> Parameters:
        layer = interval(t, steps, steps * tau)
        if at != "linear":
            return read_path(path, (layer + (0.5 if at == "middle" else 0.0)) * tau)
        share = t / tau - layer
        ends = zip(read_path(path, layer * tau), read_path(path, (layer + 1) * tau), strict=True)
        V, W, b = (torch.lerp(left, right, share) for left, right in ends)
        return V, W, b

    return held
