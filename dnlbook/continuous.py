"""Residual networks whose parameters are functions of continuous depth."""

from __future__ import annotations

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.flows import Parameters, Scheme, integrate, interval
from dnlbook.networks import ResNet, _Stack


class ContinuousNet(_Stack):
    r"""The flow map of :math:`x'=V(t)\sigma(W(t)x+b(t))`, :math:`\theta(t)=\sum_k\theta_k\varphi_k(t)`.

    The basis is piecewise constant on M equal intervals (M pieces), or piecewise linear on their
    M + 1 nodes.  A *manifestation* is the network that a scheme makes of it at a depth.
    Several paths may be stacked along an axis after the first of each parameter, with b as ``(M, K, 1, m)``:
    the formulas broadcast over it, and states of shape ``(K, B, n)`` belong to K independent networks.
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
            _checks.state("x0", x0, self.width, "the parameters", self.V),
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
