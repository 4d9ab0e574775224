"""Networks as modules: plain, residual, densely connected by concatenation, and dense non-local."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.concatenation import DenseNet
from dnlbook.dense import dense_forward, pair_count, pair_index
from dnlbook.flows import Parameters, Path, read_path
from dnlbook.residual import residual_forward, residual_map

__all__ = ["DenseNet", "DenseNonLocal", "PlainNet", "ResNet"]

SCALINGS = ("euler", "sqrt", "none")


def _initial(count: int, n: int, m: int, dtype: torch.dtype | None) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """V ~ N(0, 1/m), W ~ N(0, 1/n), b = 0: the size of a layer's output does not depend on n and m."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype: expected a floating-point dtype, received {dtype}")
    V = torch.randn(count, n, m, dtype=dtype) / math.sqrt(m)
    W = torch.randn(count, m, n, dtype=dtype) / math.sqrt(n)
    return nn.Parameter(V), nn.Parameter(W), nn.Parameter(torch.zeros(count, m, dtype=dtype))


class _Stack(nn.Module):
    """Stacked parameters: V (L, n, m), W (L, m, n), b (L, m)."""

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        hidden: int | None = None,
        activation: str | Activation = "tanh",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.width = _checks.positive_int("width", width)
        depth = _checks.positive_int("depth", depth)
        self.hidden = self.width if hidden is None else _checks.positive_int("hidden", hidden)
        self.activation = named_activation(activation)
        self.V, self.W, self.b = _initial(depth, self.width, self.hidden, dtype)

    @property
    def depth(self) -> int:
        """How many layers of parameters the network stores."""
        return len(self.V)

    def layer(self, k: int) -> Parameters:
        """Return the parameters ``(V, W, b)`` of layer k, shapes ``(n, m)``, ``(m, n)``, ``(m,)``.

        Raises
        ------
        IndexError
            If k is not in 0 .. depth - 1.

        Examples
        --------
        >>> [part.shape for part in ResNet(2, 4, hidden=3).layer(0)]
        [torch.Size([2, 3]), torch.Size([3, 2]), torch.Size([3])]
        """
        if not 0 <= k < self.depth:
            raise IndexError(f"k: expected a layer in 0 .. {self.depth - 1}, received {k!r}")
        return self.V[k], self.W[k], self.b[k]

    def _adopt(self, V: Tensor, W: Tensor, b: Tensor) -> None:
        """Take over these values as parameters of their own."""
        for name, value in (("V", V), ("W", W), ("b", b)):
            setattr(self, name, nn.Parameter(value.detach().clone()))

    def extra_repr(self) -> str:
        sizes = f"width={self.width}, depth={self.depth}, hidden={self.hidden}"
        return f"{sizes}, activation={self.activation.name!r}"


class PlainNet(_Stack):
    r"""A network without shortcuts, :math:`x^{l+1}=V^l\sigma(W^lx^l+b^l)`.

    It has the parameters of a :class:`ResNet` of the same size and no deep-layer limit.
    Source: chapter *A residual network is Euler's method*.

    Parameters
    ----------
    width, depth : int
        :math:`n` and :math:`L`, at least 1.
    hidden : int, optional
        :math:`m`; the width unless given.
    activation : str or Activation
    dtype : torch.dtype, optional
        Torch's default unless given.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int, the activation is unknown, or x0 does not fit.

    Examples
    --------
    >>> net = PlainNet(2, 8, hidden=3)
    >>> net(torch.zeros(5, 2)).shape, net.trajectory(torch.zeros(5, 2)).shape
    (torch.Size([5, 2]), torch.Size([9, 5, 2]))
    """

    def forward(self, x0: Tensor) -> Tensor:
        """Return the output :math:`x^L`, shape ``(..., n)``."""
        return self.trajectory(x0)[-1]

    def trajectory(self, x0: Tensor) -> Tensor:
        """Return all states, shape ``(L + 1, ..., n)``."""
        states = [_checks.state("x0", x0, self.width, "the parameters", self.V)]
        for V, W, b in zip(self.V, self.W, self.b, strict=True):
            states.append(self.activation(states[-1] @ W.mT + b) @ V.mT)
        return torch.stack(states)


class ResNet(_Stack):
    r"""The residual network :math:`x^{l+1}=x^l+h\,V^l\sigma(W^lx^l+b^l)`.

    With ``scaling="euler"`` the step is :math:`h=\tau=T/L` and the network is Euler's method for
    :math:`x'=V(t)\sigma(W(t)x+b(t))`; with ``"sqrt"`` it is :math:`\sqrt{T/L}`, the scaling of a
    stochastic differential equation; with ``"none"`` it is 1.
    Source: chapter *A residual network is Euler's method*.

    Parameters
    ----------
    width, depth : int
        :math:`n` and :math:`L`, at least 1.
    hidden : int, optional
        :math:`m`; the width unless given.
    horizon : float
        :math:`T>0`.
    scaling : {"euler", "sqrt", "none"}
    activation : str or Activation
    dtype : torch.dtype, optional
        Torch's default unless given.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or unknown, or x0 does not fit in shape, dtype or device.

    Examples
    --------
    >>> net = ResNet(2, 8, hidden=3)
    >>> net.step, net(torch.zeros(5, 2)).shape, net.trajectory(torch.zeros(5, 2)).shape
    (0.125, torch.Size([5, 2]), torch.Size([9, 5, 2]))
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        hidden: int | None = None,
        horizon: float = 1.0,
        scaling: str = "euler",
        activation: str | Activation = "tanh",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(width, depth, hidden=hidden, activation=activation, dtype=dtype)
        self.horizon = _checks.positive_float("horizon", horizon)
        self.scaling = _checks.choice("scaling", scaling, SCALINGS)

    @property
    def step(self) -> float:
        """The factor in front of a layer: T/L, its square root, or 1."""
        tau = self.horizon / self.depth
        return {"euler": tau, "sqrt": math.sqrt(tau), "none": 1.0}[self.scaling]

    def forward(self, x0: Tensor) -> Tensor:
        """Return the output :math:`x^L`, shape ``(..., n)``."""
        return residual_map(
            _checks.state("x0", x0, self.width, "the parameters", self.V),
            self.V,
            self.W,
            self.b,
            step=self.step,
            activation=self.activation,
        )

    def trajectory(self, x0: Tensor) -> Tensor:
        """Return all states, shape ``(L + 1, ..., n)``."""
        return residual_forward(
            _checks.state("x0", x0, self.width, "the parameters", self.V),
            self.V,
            self.W,
            self.b,
            step=self.step,
            activation=self.activation,
        )

    @classmethod
    def from_path(
        cls, path: Path, *, depth: int, horizon: float = 1.0, activation: str | Activation = "tanh"
    ) -> ResNet:
        r"""Sample a parameter path: layer l holds :math:`\theta(t_l)`, :math:`t_l=lT/L`.

        Raises
        ------
        ValueError
            If the path does not return a finite triple of fitting shapes (the message says at which t).

        Examples
        --------
        >>> net = ResNet.from_path(lambda t: (torch.tensor([[t]]), torch.eye(1), torch.zeros(1)), depth=4)
        >>> net.V[:, 0, 0].tolist()
        [0.0, 0.25, 0.5, 0.75]
        """
        steps = _checks.positive_int("depth", depth)
        tau = _checks.positive_float("horizon", horizon) / steps
        V, W, b = (torch.stack(parts) for parts in zip(*(read_path(path, k * tau) for k in range(steps)), strict=True))
        net = cls(V.shape[1], steps, hidden=V.shape[2], horizon=horizon, activation=activation, dtype=V.dtype)
        net._adopt(V, W, b)
        return net

    def refine(self, factor: int, interpolation: str = "constant") -> ResNet:
        r"""Return a network that is ``factor`` times deeper and follows the same parameter path.

        ``"constant"`` repeats each layer; ``"linear"`` interpolates between :math:`\theta^l` and
        :math:`\theta^{l+1}` and holds the last layer constant.  The horizon stays, the step shrinks.

        Raises
        ------
        ValueError
            If factor is not a positive int or the interpolation is unknown.

        Examples
        --------
        >>> ResNet(2, 4).refine(4).depth
        16
        """
        factor = _checks.positive_int("factor", factor)
        _checks.choice("interpolation", interpolation, ("constant", "linear"))
        net = ResNet(
            self.width,
            self.depth * factor,
            hidden=self.hidden,
            horizon=self.horizon,
            scaling=self.scaling,
            activation=self.activation,
            dtype=self.V.dtype,
        )

        def finer(values: Tensor) -> Tensor:
            repeated = values.repeat_interleave(factor, 0)
            if interpolation == "constant":
                return repeated
            following = torch.cat([values[1:], values[-1:]]).repeat_interleave(factor, 0)
            share = (torch.arange(factor, dtype=values.dtype, device=values.device) / factor).repeat(len(values))
            return torch.lerp(repeated, following, share.view(-1, *(1,) * (values.ndim - 1)))

        net._adopt(finer(self.V), finer(self.W), finer(self.b))
        return net

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, horizon={self.horizon:g}, scaling={self.scaling!r}"


class DenseNonLocal(nn.Module):
    r"""The dense non-local network with perceptron features,

    .. math:: x^l=x^0+\tau\sum_{k<l}V^{l,k}\sigma(W^{l,k}x^k+b^{l,k}),\qquad\tau=T/L ,

    whose deep-layer limit is the Volterra equation :math:`x(t)=x^0+\int_0^tf(x(s),\theta(t,s))\,ds`.
    Source: chapter *The deep-layer limit is a Volterra equation*; the framework of arXiv 2510.02049.

    Parameters
    ----------
    width, depth : int
        :math:`n` and :math:`L`, at least 1.
    hidden : int, optional
        :math:`m`; the width unless given.
    horizon : float
        :math:`T>0`.
    activation : str or Activation
    dtype : torch.dtype, optional
        Torch's default unless given.

    Attributes
    ----------
    V, W, b : Parameter
        Shapes ``(P, n, m)``, ``(P, m, n)``, ``(P, m)`` with :math:`P=L(L+1)/2` pairs ordered by source.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or unknown, or x0 does not fit in shape, dtype or device.

    Examples
    --------
    >>> net = DenseNonLocal(2, 8, hidden=3)
    >>> net(torch.zeros(5, 2)).shape, net.trajectory(torch.zeros(5, 2)).shape, net.V.shape
    (torch.Size([5, 2]), torch.Size([9, 5, 2]), torch.Size([36, 2, 3]))
    """

    def __init__(
        self,
        width: int,
        depth: int,
        *,
        hidden: int | None = None,
        horizon: float = 1.0,
        activation: str | Activation = "tanh",
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.width = _checks.positive_int("width", width)
        self.depth = _checks.positive_int("depth", depth)
        self.hidden = self.width if hidden is None else _checks.positive_int("hidden", hidden)
        self.horizon = _checks.positive_float("horizon", horizon)
        self.activation = named_activation(activation)
        self.V, self.W, self.b = _initial(pair_count(self.depth), self.width, self.hidden, dtype)

    @property
    def step(self) -> float:
        """The step T/L in front of the sum."""
        return self.horizon / self.depth

    def pair(self, l: int, k: int) -> Parameters:
        """Return the parameters ``(V, W, b)`` of target l and source k.

        Raises
        ------
        IndexError
            If not 0 <= k < l <= L.

        Examples
        --------
        >>> [part.shape for part in DenseNonLocal(2, 4, hidden=3).pair(3, 1)]
        [torch.Size([2, 3]), torch.Size([3, 2]), torch.Size([3])]
        """
        at = pair_index(l, k, self.depth)
        return self.V[at], self.W[at], self.b[at]

    def forward(self, x0: Tensor) -> Tensor:
        """Return the output :math:`x^L`, shape ``(..., n)``."""
        return self.trajectory(x0)[-1]

    def trajectory(self, x0: Tensor) -> Tensor:
        """Return all states, shape ``(L + 1, ..., n)``."""
        _checks.state("x0", x0, self.width, "the parameters", self.V)
        return dense_forward(x0, (self.V, self.W, self.b), step=self.step, activation=self.activation)

    @classmethod
    def _filled(
        cls, pair: Callable[[int, int], Parameters], depth: int, horizon: float, activation: str | Activation
    ) -> DenseNonLocal:
        order = [(l, k) for k in range(depth) for l in range(k + 1, depth + 1)]
        V, W, b = (torch.stack(parts).detach() for parts in zip(*(pair(l, k) for l, k in order), strict=True))
        net = cls(V.shape[1], depth, hidden=V.shape[2], horizon=horizon, activation=activation, dtype=V.dtype)
        for name, value in (("V", V), ("W", W), ("b", b)):
            setattr(net, name, nn.Parameter(value.clone()))
        return net

    @classmethod
    def from_path(
        cls,
        path: Callable[[float, float], Parameters],
        *,
        depth: int,
        horizon: float = 1.0,
        activation: str | Activation = "tanh",
    ) -> DenseNonLocal:
        r"""Sample a kernel on the triangle: pair (l, k) holds :math:`\theta(t_l,s_k)`.

        Raises
        ------
        ValueError
            If the kernel does not return a finite triple of fitting shapes.

        Examples
        --------
        >>> net = DenseNonLocal.from_path(
        ...     lambda t, s: (torch.tensor([[t - s]]), torch.eye(1), torch.zeros(1)), depth=2)
        >>> net.V[:, 0, 0].tolist()
        [0.5, 1.0, 0.5]
        """
        steps = _checks.positive_int("depth", depth)
        tau = _checks.positive_float("horizon", horizon) / steps
        return cls._filled(lambda l, k: read_path(lambda t: path(t, k * tau), l * tau), steps, horizon, activation)

    @classmethod
    def from_resnet(cls, net: ResNet) -> DenseNonLocal:
        r"""Return the dense network with :math:`\theta^{l,k}=\theta^k`, which has the same states.

        Raises
        ------
        ValueError
            If the residual network is not scaled by T/L.

        Examples
        --------
        >>> net, x = ResNet(2, 4), torch.ones(1, 2)
        >>> torch.allclose(net.trajectory(x), DenseNonLocal.from_resnet(net).trajectory(x), atol=1e-6)
        True
        """
        if net.scaling != "euler":
            raise ValueError(f"net: expected scaling 'euler', received {net.scaling!r}")
        return cls._filled(lambda l, k: net.layer(k), net.depth, net.horizon, net.activation)

    @classmethod
    def from_densenet(cls, net: DenseNet) -> DenseNonLocal:
        r"""Return the dense non-local network of width :math:`n_0+g` that equals a concatenating one.

        Started at :math:`x^0=(x,0)` its states are :math:`x^l=(x,z_l)`; T = 1 and
        :math:`V^{l,k}=A^{l,k}/\tau` in the rows of :math:`z`, W = I, b = 0.
        Source: chapter *Concatenation is a sum*.

        Examples
        --------
        >>> net, x = DenseNet(3, 4, growth=2), torch.ones(1, 3)
        >>> states = DenseNonLocal.from_densenet(net).trajectory(nn.functional.pad(x, (0, 2)))
        >>> torch.allclose(torch.cat([x, *states[1:, :, 3:]], 1), net(x), atol=1e-6)
        True
        """
        n0, g = net.width, net.growth
        eye, zero = torch.eye(n0 + g).to(net.A[0]), torch.zeros(n0 + g).to(net.A[0])

        def pair(l: int, k: int) -> Parameters:
            V = torch.zeros_like(eye)
            V[n0:, slice(0, n0) if k == 0 else slice(n0, None)] = net.block(l, k) * net.depth
            return V, eye, zero

        return cls._filled(pair, net.depth, 1.0, net.activation)

    def extra_repr(self) -> str:
        sizes = f"width={self.width}, depth={self.depth}, hidden={self.hidden}"
        return f"{sizes}, activation={self.activation.name!r}, horizon={self.horizon:g}"
