"""What the learning problems share: data, readout, squared loss, and the network of given weights."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.dense import Triple
from dnlbook.networks import DenseNonLocal


def split_control(theta: Tensor, width: int, hidden: int) -> Triple:
    """Return V ``(..., n, m)``, W ``(..., m, n)`` and b ``(..., m)`` of controls ``(..., nm + mn + m)``."""
    V, W, b = torch.split(theta, [width * hidden, hidden * width, hidden], dim=-1)
    front = theta.shape[:-1]
    return V.reshape(*front, width, hidden), W.reshape(*front, hidden, width), b


@dataclass(frozen=True, eq=False)
class Supervised:
    """Inputs, targets and the loss of the final states; the subclasses say what the control costs."""

    x0: Tensor
    target: Tensor
    alpha: float
    _: KW_ONLY
    readout: Tensor | None = None
    activation: str | Activation = "tanh"
    horizon: float = 1.0

    def __post_init__(self) -> None:
        _checks.finite("x0", _checks.shape("x0", self.x0, ("S", "n")))
        if not self.x0.numel():
            raise ValueError(
                f"x0: expected at least one sample with one component, received shape {tuple(self.x0.shape)}"
            )
        samples, outputs = self.x0.shape
        if self.readout is not None:
            _checks.shape("readout", self.readout, ("r", self.width))
            _checks.finite("readout", _checks.same_kind("readout", self.readout, "x0", self.x0))
            outputs = len(self.readout)
        _checks.shape("target", self.target, (samples, outputs))
        _checks.finite("target", _checks.same_kind("target", self.target, "x0", self.x0))
        self._settle(
            activation=named_activation(self.activation), horizon=_checks.positive_float("horizon", self.horizon)
        )

    def _settle(self, **checked: object) -> None:
        """Replace fields by their checked values."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def width(self) -> int:
        """The width n of the states."""
        return self.x0.shape[1]

    def loss(self, x: Tensor) -> Tensor:
        r"""Return :math:`\Phi=\frac1S\sum_i\frac12|Qx_i-y_i|^2` of final states ``(S, n)``, a scalar.

        Raises
        ------
        ValueError
            If x does not have the shape of x0.
        """
        return 0.5 * self._miss(x).square().sum() / len(self.target)

    def loss_gradient(self, x: Tensor) -> Tensor:
        r"""Return the gradient of the loss in the final states, :math:`g_i=\frac1SQ^\top(Qx_i-y_i)`, ``(S, n)``.

        Raises
        ------
        ValueError
            If x does not have the shape of x0.
        """
        miss = self._miss(x) / len(self.target)
        return miss if self.readout is None else miss @ self.readout

    def _miss(self, x: Tensor) -> Tensor:
        _checks.same_kind("x", _checks.shape("x", x, tuple(self.x0.shape)), "x0", self.x0)
        return (x if self.readout is None else x @ self.readout.mT) - self.target

    def _holding(self, depth: int, parts: Triple) -> DenseNonLocal:
        """The network of that depth with a copy of packed weights, which may broadcast over the pairs."""
        b = parts[2]
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: leave no trace of them
            net = DenseNonLocal(
                self.width,
                depth,
                hidden=b.shape[-1],
                horizon=self.horizon,
                activation=self.activation,
                dtype=b.dtype,
            ).to(b.device)
        with torch.no_grad():
            for parameter, part in zip(net.parameters(), parts, strict=True):
                parameter.copy_(part.expand_as(parameter))
        return net
