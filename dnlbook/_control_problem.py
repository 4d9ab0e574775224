"""Learning problems to which the maximum principle applies: no derivative of the control in the cost.

The last row is a control of its own with its own cost: an integral over the triangle does not see it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook._learning import hamiltonian
from dnlbook._supervised import Supervised, split_control
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.costates import costate
from dnlbook.dense import Triple, pair_count
from dnlbook.networks import DenseNonLocal

_SWEEPS = 200

Minimizer = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def _pairs(depth: int) -> tuple[Tensor, Tensor]:
    """Target l and source k of all pairs k < l, ordered by source."""
    k, l = torch.triu_indices(depth + 1, depth + 1, 1)
    return l, k


@dataclass(frozen=True, eq=False)
class PointwiseHamiltonian:
    r"""The Hamiltonians of all pairs of layers along the path of one control,

    .. math:: H^{l,k}(\theta)=\sum_ip_i^l\cdot f(x_i^k,\theta)+\tfrac\alpha2|\theta|^2,\qquad
              H_T^k(\theta)=\sum_ig_i\cdot f(x_i^k,\theta)+\tfrac{\alpha_T}2|\theta|^2,

    and, with :math:`\rho>0`, the augmentation by :math:`\frac\rho2(|\delta f|^2+|\delta K^\top p|^2)` or by
    :math:`\frac\rho2|\theta-\bar\theta|^2`.  A call takes controls ``(P, p)`` and returns ``(P,)`` values.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Attributes
    ----------
    x, p : Tensor, shape ``(P, S, n)``
        State of the source and costate of the target of each pair; g for targets in the last row.
    alpha : Tensor, shape ``(P,)``
    old : Tensor, shape ``(P, p)``
        The control whose path this is.
    rho : float
    augmentation : {"extended", "proximal"}

    Examples
    --------
    >>> problem = FeatureControl(torch.ones(1, 1), torch.zeros(1, 1), 1.0, features=(torch.eye(1), torch.zeros(1)))
    >>> H = problem.hamiltonian(torch.zeros(3, 1))
    >>> H(torch.ones(3, 1)) - H(torch.zeros(3, 1))
    tensor([0.5000, 1.2616, 1.2616])
    """

    problem: ControlProblem
    x: Tensor
    p: Tensor
    alpha: Tensor
    old: Tensor
    rho: float = 0.0
    augmentation: str = "extended"

    def __call__(self, theta: Tensor) -> Tensor:
        V, W, b = self.problem.split(theta)
        value = hamiltonian(self.x, self.p, (V, W, b), activation=self.problem.activation)
        value = value + 0.5 * self.alpha * theta.square().sum(1)
        return value if self.rho == 0 else value + 0.5 * self.rho * self.distance(theta)

    def distance(self, theta: Tensor) -> Tensor:
        r"""Return what the augmentation charges for leaving the old control, without the factor, ``(P,)``.

        That is :math:`|\delta f|^2+|\delta K^\top p|^2`, where sums over samples are means and p is scaled
        accordingly, or :math:`|\theta-\bar\theta|^2`.
        """
        if self.augmentation == "proximal":
            return (theta - self.old).square().sum(1)
        samples = self.x.shape[1]
        parts = zip(self._field(theta), self._field(self.old), strict=True)
        feature, costate = ((new - old).square().sum((1, 2)) for new, old in parts)
        return feature / samples + samples * costate

    def _field(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """f(x, theta) and the transposed Jacobian of f in x, applied to p; both ``(P, S, n)``."""
        V, W, b = self.problem.split(theta)
        sigma: Activation = named_activation(self.problem.activation)
        z = self.x @ W.mT + b.unsqueeze(-2)
        h = sigma(z)
        return h @ V.mT, ((self.p @ V) * sigma.slope(z, h)) @ W

    def augmented(self, rho: float, augmentation: str) -> PointwiseHamiltonian:
        """Return the same Hamiltonians with an augmentation."""
        return PointwiseHamiltonian(self.problem, self.x, self.p, self.alpha, self.old, rho, augmentation)


@dataclass(frozen=True, eq=False)
class ControlProblem(Supervised, ABC):
    r"""A learning problem without derivatives of the control, whose last row is a control of its own,

    .. math:: J(\theta)=\frac1S\sum_{i=1}^S\tfrac12|Qx_i^L-y_i|^2
              +\tau^2\sum_{k<l<L}\tfrac\alpha2|\theta^{l,k}|^2+\tau\sum_{k<L}\tfrac{\alpha_T}2|\theta^{L,k}|^2 .

    Use :class:`FeatureControl` or :class:`PerceptronControl`.  A control is a tensor ``(P, p)`` with the pairs
    k < l in the order of :func:`~dnlbook.dense.pair_index`.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    x0 : Tensor, shape ``(S, n)``
        The inputs, after the lift.  Sets dtype and device.
    target : Tensor, shape ``(S, r)``
        :math:`y_i`.
    alpha : float
        The weight of the running cost, at least 0.
    readout : Tensor, shape ``(r, n)``, optional
        Q, the identity unless given.
    activation : str or Activation
    horizon : float
        T > 0.
    terminal_alpha : float, optional
        :math:`\alpha_T`, equal to alpha unless given.

    Raises
    ------
    ValueError, TypeError
        If there are no data, shapes or dtypes do not fit, an entry is not finite, or a weight is negative.

    Examples
    --------
    >>> issubclass(FeatureControl, ControlProblem) and issubclass(PerceptronControl, ControlProblem)
    True
    """

    _: KW_ONLY
    terminal_alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(alpha=_checks.nonnegative_float("alpha", self.alpha))
        if self.terminal_alpha is not None:
            self._settle(terminal_alpha=_checks.nonnegative_float("terminal_alpha", self.terminal_alpha))

    @property
    def row_alpha(self) -> float:
        """The weight of the last row, alpha unless terminal_alpha is given."""
        return self.alpha if self.terminal_alpha is None else self.terminal_alpha

    @property
    @abstractmethod
    def width_of_control(self) -> int:
        """How many numbers a pair holds."""

    @abstractmethod
    def split(self, theta: Tensor) -> Triple:
        """Return V, W, b of controls ``(..., p)``, with the leading axes of the control or none."""

    @abstractmethod
    def minimize(self, H: PointwiseHamiltonian) -> Tensor:
        """Return the control that minimizes the (augmented) Hamiltonian of every pair, ``(P, p)``."""

    def gap(self, H: PointwiseHamiltonian) -> Tensor:
        r"""Return :math:`H(\bar\theta)-\min_\theta H(\theta)` of every pair, without augmentation, ``(P,)``.

        The maximum principle says that it vanishes.
        """
        plain = H.augmented(0.0, H.augmentation)
        return (plain(H.old) - plain(self.minimize(plain))).clamp(min=0)

    def depth_of(self, theta: Tensor) -> int:
        """Return the depth of the network of a control, after a check.

        Raises
        ------
        ValueError, TypeError
            If theta does not have L(L+1)/2 rows of p finite numbers for an L >= 1.
        """
        _checks.shape("theta", theta, ("pairs", self.width_of_control))
        _checks.finite("theta", _checks.same_kind("theta", theta, "x0", self.x0))
        depth = (math.isqrt(8 * len(theta) + 1) - 1) // 2
        if depth < 1 or pair_count(depth) != len(theta):
            raise ValueError(f"theta: expected L(L+1)/2 pairs for an L >= 1, received {len(theta)}")
        return depth

    def weights(self, depth: int) -> Tensor:
        r"""Return the weight of every pair in the cost, :math:`\tau` in the last row and :math:`\tau^2` else, ``(P,)``.

        Examples
        --------
        >>> FeatureControl(torch.ones(1, 1), torch.zeros(1, 1), 1.0,
        ...                features=(torch.eye(1), torch.zeros(1))).weights(2)
        tensor([0.2500, 0.5000, 0.5000])
        """
        tau = self.horizon / _checks.positive_int("depth", depth)
        last = _pairs(depth)[0] == depth
        return torch.where(last, tau, tau**2).to(self.x0)

    def network(self, theta: Tensor) -> DenseNonLocal:
        """Return the network that a control describes, as a copy.

        Raises
        ------
        ValueError, TypeError
            If theta is not a control of this problem.
        """
        return self._holding(self.depth_of(theta), self.split(theta))

    @torch.no_grad()
    def _look(self, theta: Tensor) -> tuple[float, PointwiseHamiltonian]:
        """The cost of a control and the Hamiltonians along its path."""
        net = self.network(theta)
        depth, tau = net.depth, net.step
        x = net.trajectory(self.x0)
        p = costate(net, self.x0, self.loss_gradient(x[-1]))
        p[:-1] /= tau
        l, k = _pairs(depth)
        alpha = torch.where(l == depth, self.row_alpha, self.alpha).to(theta)
        running = 0.5 * (self.weights(depth) * alpha * theta.square().sum(1)).sum()
        return float(self.loss(x[-1]) + running), PointwiseHamiltonian(self, x[k], p[l], alpha, theta)

    def value(self, theta: Tensor) -> float:
        """Return the cost J of a control.

        Raises
        ------
        ValueError, TypeError
            If theta is not a control of this problem, or the states of its network are not finite.
        """
        return self._look(theta)[0]

    def hamiltonian(self, theta: Tensor) -> PointwiseHamiltonian:
        """Return the Hamiltonians of all pairs along the path of a control.

        Raises
        ------
        ValueError, TypeError
            If theta is not a control of this problem, or the states of its network are not finite.
        """
        return self._look(theta)[1]


@dataclass(frozen=True, eq=False)
class FeatureControl(ControlProblem):
    r"""Fixed features, controlled outer weights: :math:`f(x,V)=V\sigma(Wx+b)` with given W and b.

    The Hamiltonian is a convex quadratic function of V, and its minimizer over all matrices or over a box is
    known in closed form.  Other parameters are those of :class:`ControlProblem`.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    features : (W, b) of shapes ``(m, n)``, ``(m,)``
    bound : float, optional
        Entries of V lie in [-bound, bound]; needed if a weight of the cost is 0.

    Raises
    ------
    ValueError, TypeError
        If a shape does not fit, bound is not above 0, or a weight is 0 and there is no bound.

    Examples
    --------
    >>> problem = FeatureControl(torch.ones(5, 2), torch.zeros(5, 2), 1.0, features=(torch.eye(2), torch.zeros(2)))
    >>> problem.width_of_control, f"{problem.value(torch.zeros(10, 4)):.4f}"
    (4, '1.0000')
    """

    _: KW_ONLY
    features: tuple[Tensor, Tensor]
    bound: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.features, tuple | list) or len(self.features) != 2:
            raise TypeError(f"features: expected a pair (W, b), received {type(self.features).__name__}")
        W, b = self.features
        _checks.shape("features, W", W, ("m", self.width))
        _checks.shape("features, b", b, (len(W),))
        for name, part in (("W", W), ("b", b)):
            _checks.finite(f"features, {name}", _checks.same_kind(f"features, {name}", part, "x0", self.x0))
        if self.bound is not None:
            self._settle(bound=_checks.positive_float("bound", self.bound))
        elif self.alpha == 0 or self.row_alpha == 0:
            raise ValueError(
                f"alpha, terminal_alpha: expected numbers above 0, received {self.alpha!r} and "
                f"{self.row_alpha!r}; without a cost a row needs a bound"
            )

    @property
    def width_of_control(self) -> int:
        return self.width * len(self.features[1])

    def split(self, theta: Tensor) -> Triple:
        W, b = self.features
        return theta.reshape(*theta.shape[:-1], self.width, len(b)), W, b

    def depth_of(self, theta: Tensor) -> int:
        depth = super().depth_of(theta)
        if self.bound is not None and float(theta.abs().max()) > self.bound:
            raise ValueError(
                f"theta: expected entries in [-{self.bound:g}, {self.bound:g}], "
                f"received one of size {float(theta.abs().max()):g}"
            )
        return depth

    def _linear(self, H: PointwiseHamiltonian) -> tuple[Tensor, Tensor, Tensor]:
        """Features h and slopes ``(P, S, m)``, and the linear part of H in V, ``(P, nm)``."""
        W, b = self.features
        sigma = named_activation(self.activation)
        z = H.x @ W.mT + b
        h = sigma(z)
        return h, sigma.slope(z, h), (H.p.mT @ h).flatten(1)

    def _clip(self, theta: Tensor) -> Tensor:
        return theta if self.bound is None else theta.clamp(-self.bound, self.bound)

    def minimize(self, H: PointwiseHamiltonian) -> Tensor:
        h, slope, linear = self._linear(H)
        if H.rho == 0 or H.augmentation == "proximal":
            curvature = (H.alpha + H.rho).unsqueeze(1)
            pull = H.rho * H.old - linear
            if self.bound is None:
                return pull / curvature
            flat = torch.where(pull == 0, H.old, self.bound * pull.sign())  # a linear Hamiltonian: bang-bang
            return torch.where(curvature > 0, self._clip(pull / curvature), flat)
        samples, W = H.x.shape[1], self.features[0]
        state = torch.einsum("psj,psk->pjk", h, h) / samples
        gram = slope.unsqueeze(-1) * (W @ W.mT) * slope.unsqueeze(-2)
        outer = torch.einsum("psa,psb,psjk->pajbk", H.p, H.p, gram) * samples
        eye = torch.eye(self.width).to(linear)
        size = self.width_of_control
        charge = H.rho * (torch.einsum("ab,pjk->pajbk", eye, state) + outer).reshape(-1, size, size)
        matrix = charge + torch.diag_embed(H.alpha.unsqueeze(1).expand(-1, size))
        pull = (charge @ H.old.unsqueeze(2)).squeeze(2) - linear
        if self.bound is None:
            best: Tensor = torch.linalg.solve(matrix, pull)
            return best
        return self._in_the_box(matrix, pull, H.old)

    def _in_the_box(self, matrix: Tensor, pull: Tensor, start: Tensor) -> Tensor:
        """Minimize the quadratic functions in the box, one coordinate after the other until nothing moves."""
        theta = start.clone()
        for _ in range(_SWEEPS):
            before = theta.clone()
            for i in range(theta.shape[1]):
                slope = (matrix[:, i] * theta).sum(1) - pull[:, i]
                curvature = matrix[:, i, i]
                target = theta[:, i] - slope / curvature.clamp(min=torch.finfo(theta.dtype).tiny)
                theta[:, i] = self._clip(torch.where(slope == 0, theta[:, i], target))
            if float((theta - before).abs().max()) <= 4 * torch.finfo(theta.dtype).eps * float(self.bound or 1.0):
                break
        return theta

    def gap(self, H: PointwiseHamiltonian) -> Tensor:
        linear = self._linear(H)[2]
        best = self.minimize(H.augmented(0.0, H.augmentation))
        step = H.old - best  # H is quadratic: no difference of nearly equal values
        return ((linear + H.alpha.unsqueeze(1) * best) * step).sum(1) + 0.5 * H.alpha * step.square().sum(1)


@dataclass(frozen=True, eq=False)
class PerceptronControl(ControlProblem):
    r"""All weights are controlled, :math:`f(x,\theta)=V\sigma(Wx+b)`, and you minimize the Hamiltonian.

    A row of a control holds V, W and b one after the other, row by row, :math:`p=nm+mn+m`.  Other parameters
    are those of :class:`ControlProblem`.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    hidden : int
        m.
    minimizer : callable ``(H, old) -> theta``
        H maps controls ``(P, p)`` to ``(P,)`` values and is differentiable; return a control whose values are
        at most those of old, for example by :func:`~dnlbook.successive_approximation.over` or
        :func:`~dnlbook.successive_approximation.descent`.

    Raises
    ------
    ValueError, TypeError
        As for :class:`ControlProblem`; also if hidden is not positive or minimizer is not callable.

    Examples
    --------
    >>> from dnlbook.successive_approximation import descent
    >>> problem = PerceptronControl(torch.ones(5, 2), torch.zeros(5, 2), 1.0, hidden=3, minimizer=descent(10))
    >>> problem.width_of_control, f"{problem.value(torch.zeros(10, 15)):.4f}"
    (15, '1.0000')
    """

    _: KW_ONLY
    hidden: int
    minimizer: Minimizer

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(hidden=_checks.positive_int("hidden", self.hidden))
        if not callable(self.minimizer):
            raise TypeError(f"minimizer: expected a function of (H, old), received {type(self.minimizer).__name__}")

    @property
    def width_of_control(self) -> int:
        return (2 * self.width + 1) * self.hidden

    def split(self, theta: Tensor) -> Triple:
        return split_control(theta, self.width, self.hidden)

    def minimize(self, H: PointwiseHamiltonian) -> Tensor:
        theta = self.minimizer(H, H.old.clone())
        _checks.same_kind("minimizer", _checks.shape("minimizer", theta, tuple(H.old.shape)), "theta", H.old)
        return theta.detach()
