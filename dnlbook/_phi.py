"""An activation as the engines compute it: sigma(z) = outer * phi(inner * z) + offset, with phi in place.

tanh z = 2 s(2 z) - 1 with the logistic function s: the scales go into the products, the offset into a sum, and
s costs a fraction of tanh.  The absolute error stays at rounding level; the relative error of a feature that is
itself tiny does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnlbook.activations import Activation


@dataclass(frozen=True)
class Phi:
    """phi and its pull-back, both in place: ``pull_back_(cotangent, value)`` multiplies by phi'."""

    phi_: Callable[[Tensor], Any]
    pull_back_: Callable[[Tensor, Tensor], Any]
    inner: float = 1.0
    outer: float = 1.0
    offset: float = 0.0


def _logistic_pull_back_(cotangent: Tensor, value: Tensor) -> None:
    torch.ops.aten.sigmoid_backward.grad_input(cotangent, value, grad_input=cotangent)


_KNOWN = {
    "tanh": Phi(torch.Tensor.sigmoid_, _logistic_pull_back_, inner=2.0, outer=2.0, offset=-1.0),
    "relu": Phi(torch.Tensor.relu_, lambda g, h: g.mul_(h > 0)),
    "identity": Phi(lambda z: z, lambda g, h: g),
}


def phi_of(sigma: Activation) -> Phi:
    """Return the activation in that form; one without scales unless it is known."""
    # a shrinkage is invertible outside of its dead zone, so its value tells its slope
    return _KNOWN.get(sigma.name) or Phi(lambda z: z.copy_(sigma(z)), lambda g, h: g.mul_(h != 0))
