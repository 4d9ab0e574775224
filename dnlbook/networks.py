"""Networks as modules: plain, residual, and residual with parameters that depend on continuous depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.flows import Parameters, Path, Scheme, integrate, interval, read_path
from dnlbook.residual import residual_forward, residual_map

SCALINGS = ("euler", "sqrt", "none")


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
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype: expected a floating-point dtype, received {dtype}")
        n, m = self.width, self.hidden
        self.V = nn.Parameter(torch.randn(depth, n, m, dtype=dtype) / math.sqrt(m))
        self.W = nn.Parameter(torch.randn(depth, m, n, dtype=dtype) / math.sqrt(n))
        self.b = nn.Parameter(torch.zeros(depth, m, dtype=dtype))

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

    def _check_input(self, x0: Tensor) -> Tensor:
        _checks.tensor("x0", x0)
        if x0.ndim == 0 or x0.shape[-1] != self.width:
            raise ValueError(
                f"x0: expected shape (..., {self.width}) for a net of that width, received {tuple(x0.shape)}"
            )
        _checks.same_kind("x0", x0, "the parameters", self.V)
        return _checks.finite("x0", x0)

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
        states = [self._check_input(x0)]
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
        return residual_map(self._check_input(x0), self.V, self.W, self.b, step=self.step, activation=self.activation)

    def trajectory(self, x0: Tensor) -> Tensor:
        """Return all states, shape ``(L + 1, ..., n)``."""
        return residual_forward(
            self._check_input(x0), self.V, self.W, self.b, step=self.step, activation=self.activation
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


class ContinuousNet(_Stack):
    r"""The flow map of :math:`x'=V(t)\sigma(W(t)x+b(t))`, :math:`\theta(t)=\sum_k\theta_k\varphi_k(t)`.

    The basis is piecewise constant on M equal intervals (M pieces), or piecewise linear on their
    M + 1 nodes.  A *manifestation* is the network that a scheme makes of it at a depth.
    Source: chapter *Is a trained ResNet a discretization?*, after the continuous-in-depth networks of
    arXiv 2008.02389.

    Parameters
    ----------
    width, pieces : int
        :math:`n` and :math:`M`, at least 1.
    hidden : int, optional
        :math:`m`; the width unless given.
    basis : {"constant", "linear"}
    horizon : float
        :math:`T>0`.
    activation : str or Activation
    dtype : torch.dtype, optional
        Torch's default unless given.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or unknown, or x0 does not fit in shape, dtype or device.

    Examples
    --------
    >>> net = ContinuousNet(2, 4, hidden=3)
    >>> net(torch.zeros(5, 2), depth=8, scheme="rk4").shape, net.refine().pieces
    (torch.Size([5, 2]), 8)
    """

    def __init__(
        self,
        width: int,
        pieces: int,
        *,
        hidden: int | None = None,
        basis: str = "constant",
        horizon: float = 1.0,
        activation: str | Activation = "tanh",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.pieces = _checks.positive_int("pieces", pieces)
        self.basis = _checks.choice("basis", basis, ("constant", "linear"))
        self.horizon = _checks.positive_float("horizon", horizon)
        coefficients = self.pieces + (self.basis == "linear")
        super().__init__(width, coefficients, hidden=hidden, activation=activation, dtype=dtype)

    def path(self, t: float) -> Parameters:
        r"""Return :math:`\theta(t)=(V,W,b)`; at a jump, the value on the right.

        Raises
        ------
        ValueError
            If t lies outside of the horizon.

        Examples
        --------
        >>> net = ContinuousNet(1, 2)
        >>> bool(net.path(0.5)[0] == net.V[1])
        True
        """
        piece = interval(t, self.pieces, self.horizon)
        if self.basis == "constant":
            return self.V[piece], self.W[piece], self.b[piece]
        share = t * self.pieces / self.horizon - piece
        V, W, b = (torch.lerp(part[piece], part[piece + 1], share) for part in (self.V, self.W, self.b))
        return V, W, b

    def field(self, t: float, x: Tensor) -> Tensor:
        r"""Return :math:`f(x,\theta(t))`, of the shape of x."""
        V, W, b = self.path(t)
        return self.activation(x @ W.mT + b) @ V.mT

    def trajectory(self, x0: Tensor, *, depth: int | None = None, scheme: str | Scheme = "rk4") -> Tensor:
        """Return all states of the manifestation ``(scheme, depth)``, shape ``(depth + 1, ..., n)``.

        depth is the number of pieces unless given.
        """
        return integrate(
            self.field,
            self._check_input(x0),
            depth=self.pieces if depth is None else depth,
            horizon=self.horizon,
            scheme=scheme,
            half_open=self.basis == "constant",
        )

    def forward(self, x0: Tensor, *, depth: int | None = None, scheme: str | Scheme = "rk4") -> Tensor:
        """Return the last state of :meth:`trajectory`, shape ``(..., n)``."""
        return self.trajectory(x0, depth=depth, scheme=scheme)[-1]

    def _like(self, pieces: int, V: Tensor, W: Tensor, b: Tensor) -> ContinuousNet:
        net = ContinuousNet(
            self.width,
            pieces,
            hidden=self.hidden,
            basis=self.basis,
            horizon=self.horizon,
            activation=self.activation,
            dtype=V.dtype,
        )
        net._adopt(V, W, b)
        return net

    def refine(self, factor: int = 2) -> ContinuousNet:
        """Return the same path on ``factor`` times as many pieces: the prolongation.

        Raises
        ------
        ValueError
            If factor is not a positive int.

        Examples
        --------
        >>> net = ContinuousNet(2, 3, basis="linear")
        >>> torch.allclose(net.refine(2).path(0.3)[1], net.path(0.3)[1])
        True
        """
        factor = _checks.positive_int("factor", factor)
        count = self.pieces * factor

        def finer(values: Tensor) -> Tensor:
            if self.basis == "constant":
                return values.repeat_interleave(factor, 0)
            position = torch.arange(count + 1, device=values.device)
            piece = (position // factor).clamp(max=self.pieces - 1)
            share = ((position - piece * factor).to(values.dtype) / factor).view(-1, *(1,) * (values.ndim - 1))
            return torch.lerp(values[piece], values[piece + 1], share)

        return self._like(count, finer(self.V), finer(self.W), finer(self.b))

    def coarsen(self, factor: int = 2) -> ContinuousNet:
        """Return a network on ``factor`` times fewer pieces: means of pieces, or every factor-th node.

        Raises
        ------
        ValueError
            If factor does not divide the number of pieces.

        Examples
        --------
        >>> ContinuousNet(2, 8).coarsen(4).pieces
        2
        """
        factor = _checks.positive_int("factor", factor)
        if self.pieces % factor:
            raise ValueError(f"factor: expected a divisor of the {self.pieces} pieces, received {factor}")

        def coarser(values: Tensor) -> Tensor:
            if self.basis == "linear":
                return values[::factor]
            return values.reshape(-1, factor, *values.shape[1:]).mean(1)

        return self._like(self.pieces // factor, coarser(self.V), coarser(self.W), coarser(self.b))

    @classmethod
    def from_resnet(cls, net: ResNet) -> ContinuousNet:
        """Return the piecewise constant path whose Euler manifestation at the same depth is the network.

        Raises
        ------
        ValueError
            If the network is not scaled by T/L.

        Examples
        --------
        >>> net, x = ResNet(2, 4), torch.ones(1, 2)
        >>> torch.allclose(net(x), ContinuousNet.from_resnet(net)(x, scheme="euler"))
        True
        """
        if net.scaling != "euler":
            raise ValueError(f"net: expected scaling 'euler', received {net.scaling!r}")
        flow = cls(
            net.width,
            net.depth,
            hidden=net.hidden,
            horizon=net.horizon,
            activation=net.activation,
            dtype=net.V.dtype,
        )
        flow._adopt(net.V, net.W, net.b)
        return flow

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pieces={self.pieces}, basis={self.basis!r}, horizon={self.horizon:g}"
