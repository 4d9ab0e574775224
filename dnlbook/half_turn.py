"""The designed example of the landing page: carry every point to its opposite, through depth L.

Nothing here is trained.  The two limits are chosen so that both end exactly in -x^0, and what a finite
network misses is the error of its depth.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from dnlbook import _checks
from dnlbook.flows import integrate

#: weight of the memory at lag zero
A = 1.5


def points(count: int = 12) -> Tensor:
    """Return points on a comma: the radius grows along the arc, so that the paths of a flow stay apart.

    Source: chapter *One picture, four depths*.

    Returns
    -------
    Tensor, shape ``(count, 2)``, float64

    Raises
    ------
    ValueError
        If count is not a positive int.

    Examples
    --------
    >>> points(3).norm(dim=1).tolist()
    [0.45, 0.775, 1.1]
    """
    share = torch.linspace(0, 1, _checks.positive_int("count", count), dtype=torch.float64)
    angle, radius = math.pi * (0.06 + 0.80 * share), 0.45 + 0.65 * share
    return radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)


def residual_paths(x0: Tensor, depth: int) -> Tensor:
    r"""Return the states of the residual network :math:`x^{l+1}=x^l+\tau\pi Jx^l`, shape ``(L + 1, B, 2)``.

    Its limit :math:`x'=\pi Jx` turns clockwise by half a turn.  Source: chapter *One picture, four depths*.

    Raises
    ------
    ValueError
        If x0 is not a batch of points of the plane, or depth is not a positive int.

    Examples
    --------
    >>> residual_paths(points(), 64).shape
    torch.Size([65, 12, 2])
    """
    turn = math.pi * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=x0.dtype)
    return integrate(lambda t, x: x @ turn, _checks.shape("x0", x0, ("B", 2)), depth=depth)


def memory(t: Tensor, s: Tensor) -> Tensor:
    r"""Return the kernel :math:`\kappa(t,s)=a+b\,(t-s)^2` of the dense limit.

    Source: chapter *One picture, four depths*.

    Examples
    --------
    >>> memory(torch.tensor(1.0), torch.tensor(1.0)).item()
    1.5
    """
    return A + gain() * (t - s) ** 2


def dense_paths(x0: Tensor, depth: int) -> Tensor:
    r"""Return the states of the dense network :math:`x^l=x^0-\tau\sum_{k<l}\kappa(t_l,s_k)\,x^k`.

    Shape ``(L + 1, B, 2)``.  Source: chapter *One picture, four depths*.

    Raises
    ------
    ValueError
        If x0 is not a batch of points of the plane, or depth is not a positive int.

    Examples
    --------
    >>> dense_paths(points(), 64).shape
    torch.Size([65, 12, 2])
    """
    steps = _checks.positive_int("depth", depth)
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    factors = torch.ones(1, dtype=torch.float64)
    for step in range(1, steps + 1):
        weights = memory(times[step], times[:step]) / steps
        factors = torch.cat([factors, (1 - weights @ factors).unsqueeze(0)])
    return factors.to(x0.dtype).view(-1, 1, 1) * _checks.shape("x0", x0, ("B", 2))


def limit_factor(t: Tensor, b: float | None = None) -> Tensor:
    r"""Return :math:`\varphi(t)` in :math:`x(t)=\varphi(t)\,x^0`, the solution of the dense limit.

    With r the roots of :math:`p^3+ap^2+2b`, the Laplace transform of the equation gives
    :math:`\varphi(t)=\sum_r\frac{r}{3r+2a}e^{rt}`.  Source: chapter *One picture, four depths*.

    Examples
    --------
    >>> round(limit_factor(torch.tensor(1.0)).item(), 9)
    -1.0
    """
    roots = np.roots([1.0, A, 0.0, 2 * (gain() if b is None else b)])
    modes = torch.as_tensor(roots), torch.as_tensor(roots / (3 * roots + 2 * A))
    total: Tensor = (modes[1] * torch.exp(modes[0] * t.double().unsqueeze(-1))).sum(-1).real
    return total


@functools.cache
def gain() -> float:
    """Return the b of the kernel for which the dense limit ends exactly in the opposite points.

    Source: chapter *One picture, four depths*.

    Examples
    --------
    >>> round(gain(), 6)
    8.65965
    """
    return float(brentq(lambda b: float(limit_factor(torch.tensor(1.0), b)) + 1, 5, 12, xtol=1e-14))


def miss(path: Tensor) -> float:
    r"""Return :math:`\lVert x^L+x^0\rVert/\lVert x^0\rVert`, the relative distance from the opposite points.

    Source: chapter *One picture, four depths*.

    Examples
    --------
    >>> miss(torch.stack([points(), -points()]))
    0.0
    """
    return float((path[-1] + path[0]).norm() / path[0].norm())
