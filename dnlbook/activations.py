"""Activation functions together with the constants that the theory uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dnlbook import _checks

Pointwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _Facts:
    function: Pointwise
    slope: Callable[[Tensor, Tensor], Tensor]  # (z, sigma(z)) -> sigma'(z): the adjoint has both at hand
    lipschitz: float
    odd: bool
    kappa: float
    bound: float
    thresholds: tuple[float, float]


_TABLE = {
    "tanh": _Facts(torch.tanh, lambda z, h: 1 - h * h, 1.0, True, 1.0, 1.0, (0.0, 0.0)),
    "relu": _Facts(torch.relu, lambda z, h: (z > 0).to(z.dtype), 1.0, False, 1.5, math.inf, (0.0, math.inf)),
    "identity": _Facts(lambda z: z, lambda z, h: torch.ones_like(z), 1.0, True, 1.0, math.inf, (0.0, 0.0)),
}


def _shrinkage(upper: float, lower: float) -> _Facts:
    return _Facts(
        function=lambda z: torch.relu(z - upper) - torch.relu(-z - lower),
        slope=lambda z, h: ((z > upper) | (z < -lower)).to(z.dtype),
        lipschitz=1.0,
        odd=upper == lower,
        kappa=1.0 if upper == lower else 2.0,
        bound=math.inf,
        thresholds=(upper, lower),
    )


@lru_cache(maxsize=256)
def _facts(name: str) -> _Facts:
    """What is known of the activation of that name; the name of a shrinkage contains its thresholds."""
    if not (name.startswith("soft_threshold(") and name.endswith(")")):
        return _TABLE[_checks.choice("name", name, _TABLE)]
    try:
        thresholds = [float(part) for part in name[len("soft_threshold(") : -1].split(",")]
        alpha, beta = thresholds if len(thresholds) == 2 else (*thresholds, *thresholds)
    except ValueError:
        raise ValueError(
            f"name: expected soft_threshold(alpha) or soft_threshold(alpha, beta), received {name!r}"
        ) from None
    return _shrinkage(_checks.nonnegative_float("alpha", alpha), _checks.nonnegative_float("beta", beta))


@dataclass(frozen=True)
class Activation:
    r"""A pointwise activation :math:`\sigma` and what the theory needs to know about it.

    Source: chapters *A residual network is Euler's method* (``lipschitz``, ``bound``) and, for
    ``kappa``, the contraction inequality of the part on generalization.

    Parameters
    ----------
    name : str
        ``"tanh"``, ``"relu"``, ``"identity"``, ``"soft_threshold(0.5)"`` or ``"soft_threshold(0.5, 1.0)"``.

    Attributes
    ----------
    lipschitz : float
        The smallest :math:`L_\sigma` with :math:`|\sigma(z)-\sigma(z')|\le L_\sigma|z-z'|`.
    odd : bool
        Whether :math:`\sigma(-z)=-\sigma(z)`.
    kappa : float
        Contraction constant of Rademacher averages with absolute values: :math:`L_\sigma` for an odd
        activation, 3/2 for ReLU, 2 for a shrinkage with two different thresholds.
    bound : float
        :math:`\sup_z|\sigma(z)|`, infinite where there is none.
    thresholds : (float, float)
        :math:`(\alpha,\beta)` such that :math:`\sigma` vanishes exactly on the dead zone
        :math:`[-\beta,\alpha]`; :math:`(0,\infty)` for ReLU.

    Raises
    ------
    ValueError
        If the name is not known.

    Examples
    --------
    >>> import torch
    >>> sigma = Activation("relu")
    >>> sigma(torch.tensor([-1.0, 2.0])), sigma.derivative(torch.tensor([-1.0, 2.0])), sigma.kappa
    (tensor([0., 2.]), tensor([0., 1.]), 1.5)
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            _checks.choice("name", self.name, _TABLE)
        _facts(self.name)

    @property
    def _known(self) -> _Facts:
        return _facts(self.name)

    def __call__(self, z: Tensor) -> Tensor:
        return self._known.function(z)

    def derivative(self, z: Tensor) -> Tensor:
        r"""Return :math:`\sigma'(z)`, with the value 0 where :math:`\sigma` has a kink.

        Examples
        --------
        >>> tanh.derivative(torch.zeros(1))
        tensor([1.])
        """
        return self._known.slope(z, self._known.function(z))

    def slope(self, z: Tensor, value: Tensor) -> Tensor:
        r"""Return :math:`\sigma'(z)` when :math:`\sigma(z)` is at hand, without computing it again.

        Examples
        --------
        >>> tanh.slope(torch.zeros(1), torch.zeros(1))
        tensor([1.])
        """
        return self._known.slope(z, value)

    @property
    def lipschitz(self) -> float:
        """The smallest Lipschitz constant of the activation."""
        return self._known.lipschitz

    @property
    def odd(self) -> bool:
        """Whether the activation is an odd function."""
        return self._known.odd

    @property
    def kappa(self) -> float:
        """The contraction constant of Rademacher averages with absolute values."""
        return self._known.kappa

    @property
    def bound(self) -> float:
        """The supremum of the absolute value of the activation."""
        return self._known.bound

    @property
    def thresholds(self) -> tuple[float, float]:
        """The ends of the dead zone, as distances from 0: above it and below it."""
        return self._known.thresholds


def soft_threshold(alpha: float, beta: float | None = None) -> Activation:
    r"""Return the shrinkage :math:`\psi(z)=\max(z-\alpha,0)-\max(-z-\beta,0)`.

    It vanishes on the dead zone :math:`[-\beta,\alpha]`.  Source: the activation class of
    arXiv 2602.20921 with :math:`\varphi_1=\varphi_2=\mathrm{ReLU}`.

    Parameters
    ----------
    alpha, beta : float
        Thresholds, at least 0; beta = alpha unless given, and then the function is odd.

    Raises
    ------
    ValueError
        If a threshold is negative or not finite.

    Examples
    --------
    >>> soft_threshold(0.5)(torch.tensor([-2.0, 0.3, 1.0]))
    tensor([-1.5000,  0.0000,  0.5000])
    >>> soft_threshold(0.5).kappa, soft_threshold(0.5, 1.0).kappa
    (1.0, 2.0)
    """
    upper = _checks.nonnegative_float("alpha", alpha)
    lower = upper if beta is None else _checks.nonnegative_float("beta", beta)
    return Activation(f"soft_threshold({upper!r})" if upper == lower else f"soft_threshold({upper!r}, {lower!r})")


def activation(name: str | Activation) -> Activation:
    """Return the activation of that name; an :class:`Activation` is returned as it is.

    Source: the notation table of the book.  Names are ``"tanh"``, ``"relu"``, ``"identity"``,
    ``"soft_threshold(0.5)"`` and ``"soft_threshold(0.5, 1.0)"``.

    Raises
    ------
    ValueError
        If the name is not known.

    Examples
    --------
    >>> activation("soft_threshold(0.5, 1.0)").odd
    False
    """
    return name if isinstance(name, Activation) else Activation(name)


tanh, relu, identity = Activation("tanh"), Activation("relu"), Activation("identity")
