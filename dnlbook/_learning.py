"""Learning as optimal control: the data, the control on the triangle and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook._supervised import Supervised, split_control
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.dense import Triple, dense_forward
from dnlbook.networks import DenseNonLocal
from dnlbook.triangle import TriangleMesh

PENALTIES = ("h1", "l2")


@dataclass(frozen=True, eq=False)
class LearningProblem(Supervised):
    r"""The learning problem of the dense non-local network and of its limit,

    .. math:: J(\theta)=\Phi(\theta)+\tfrac\alpha2\|\theta\|^2,\qquad
              \Phi(\theta)=\frac1S\sum_{i=1}^S\tfrac12|Q\,x_i(T)-y_i|^2 .

    The control :math:`\theta=(V,W,b)` is given by its values at the nodes of a
    :class:`~dnlbook.triangle.TriangleMesh`, a tensor of shape ``(N, p)`` with :math:`p=nm+mn+m`; each row
    holds V, W and b one after the other, row by row.  The depth of the network is read off from N.
    Source: chapters *Backpropagation is a Volterra equation in reverse* and
    *Optimal values converge with depth*.

    Parameters
    ----------
    x0 : Tensor, shape ``(S, n)``
        The inputs, after the lift.  Sets dtype and device.
    target : Tensor, shape ``(S, r)``
        :math:`y_i`.
    alpha : float
        The weight of the penalty, above 0: without a penalty minimizers need not exist.
    hidden : int
        m.
    readout : Tensor, shape ``(r, n)``, optional
        Q, the identity unless given.
    activation : str or Activation
    horizon : float
        T > 0.
    penalty : {"h1", "l2"}
        The norm, that of :math:`H^1(\Delta)` or of :math:`L^2(\Delta)`, with the reflected mass of the mesh.

    Raises
    ------
    ValueError, TypeError
        If there are no data, shapes or dtypes do not fit, an entry is not finite, or alpha is not above 0.

    Examples
    --------
    >>> problem = LearningProblem(torch.ones(5, 2), torch.zeros(5, 2), 0.01, hidden=3)
    >>> problem.width_of_control, problem.mesh(torch.zeros(10, 15)).depth
    (15, 3)
    """

    _: KW_ONLY
    hidden: int
    penalty: str = "h1"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._settle(
            alpha=_checks.positive_float("alpha", self.alpha),
            hidden=_checks.positive_int("hidden", self.hidden),
            penalty=_checks.choice("penalty", self.penalty, PENALTIES),
        )

    @property
    def width_of_control(self) -> int:
        """How many numbers a node of the control holds, p = nm + mn + m."""
        return (2 * self.width + 1) * self.hidden

    def mesh(self, theta: Tensor) -> TriangleMesh:
        """Return the mesh on which a control lives, after a check of its shape, dtype and entries.

        Raises
        ------
        ValueError, TypeError
            If theta does not have (L+1)(L+2)/2 rows of p finite numbers for an L >= 1.
        """
        _checks.shape("theta", theta, ("nodes", self.width_of_control))
        _checks.finite("theta", _checks.same_kind("theta", theta, "x0", self.x0))
        nodes = len(theta)
        depth = (math.isqrt(8 * nodes + 1) - 3) // 2
        if depth < 1 or (depth + 1) * (depth + 2) // 2 != nodes:
            raise ValueError(f"theta: expected (L+1)(L+2)/2 nodes for an L >= 1, received {nodes}")
        return TriangleMesh(depth, self.horizon)

    def split(self, theta: Tensor) -> Triple:
        """Return V ``(..., n, m)``, W ``(..., m, n)`` and b ``(..., m)`` of controls ``(..., p)``.

        Raises
        ------
        ValueError
            If the last axis does not have p entries.

        Examples
        --------
        >>> problem = LearningProblem(torch.ones(5, 2), torch.zeros(5, 2), 0.01, hidden=3)
        >>> [part.shape for part in problem.split(torch.zeros(10, 15))]
        [torch.Size([10, 2, 3]), torch.Size([10, 3, 2]), torch.Size([10, 3])]
        """
        array = _checks.tensor("theta", theta)
        if array.ndim == 0 or array.shape[-1] != self.width_of_control:
            raise ValueError(
                f"theta: expected shape (..., {self.width_of_control}), received {tuple(array.shape)}"
            )
        return split_control(array, self.width, self.hidden)

    def join(self, V: Tensor, W: Tensor, b: Tensor) -> Tensor:
        """Return the control ``(..., p)`` of V ``(..., n, m)``, W ``(..., m, n)`` and b ``(..., m)``.

        Raises
        ------
        ValueError
            If the shapes do not fit.

        Examples
        --------
        >>> problem = LearningProblem(torch.ones(5, 2), torch.zeros(5, 2), 0.01, hidden=3)
        >>> theta = torch.rand(10, 15)
        >>> torch.equal(problem.join(*problem.split(theta)), theta)
        True
        """
        front, n, m = tuple(_checks.tensor("b", b).shape[:-1]), self.width, self.hidden
        _checks.shape("V", V, (*front, n, m))
        _checks.shape("W", W, (*front, m, n))
        _checks.shape("b", b, (*front, m))
        return torch.cat([V.flatten(-2), W.flatten(-2), b], dim=-1)

    def network(self, theta: Tensor) -> DenseNonLocal:
        """Return the network whose pairs k < l hold the values of a control at these nodes, as a copy.

        Raises
        ------
        ValueError, TypeError
            If theta is not a control of this problem.

        Examples
        --------
        >>> problem = LearningProblem(torch.ones(5, 2), torch.zeros(5, 2), 0.01, hidden=3)
        >>> net = problem.network(torch.zeros(10, 15))
        >>> net.depth, net.V.shape
        (3, torch.Size([6, 2, 3]))
        """
        mesh = self.mesh(theta)
        return self._holding(mesh.depth, self.split(theta[mesh.pairs]))


def _checked_problem(problem: LearningProblem) -> LearningProblem:
    if not isinstance(problem, LearningProblem):
        raise TypeError(f"problem: expected a LearningProblem, received {type(problem).__name__}")
    return problem


def data_term(problem: LearningProblem, theta: Tensor) -> Tensor:
    r"""Return :math:`\Phi_L(\theta)`, the loss of the network that samples the control at its pairs k < l.

    The nodes on the diagonal do not enter.
    Source: chapter *Backpropagation is a Volterra equation in reverse*.

    Parameters
    ----------
    problem : LearningProblem
    theta : Tensor, shape ``(N, p)``

    Returns
    -------
    Tensor
        A scalar, differentiable once.

    Raises
    ------
    ValueError, TypeError
        If theta is not a control of this problem, or the states of the network are not finite.

    Examples
    --------
    >>> problem = LearningProblem(torch.ones(5, 2), torch.zeros(5, 2), 0.01, hidden=3)
    >>> data_term(problem, torch.zeros(10, 15))
    tensor(1.)
    """
    mesh = _checked_problem(problem).mesh(theta)
    sources = problem.split(theta[mesh.pairs])
    x = dense_forward(problem.x0, sources, step=mesh.step, activation=problem.activation)
    return problem.loss(x[-1])


def objective(problem: LearningProblem, theta: Tensor) -> Tensor:
    r"""Return :math:`J_L(\theta)=\Phi_L(\theta)+\frac\alpha2\|\theta\|^2`, data term and penalty.

    Source: chapter *Optimal values converge with depth*.

    Arguments, result and errors are those of :func:`data_term`.

    Examples
    --------
    The constant control 1 on the triangle of area 1/2 has the squared norm 15/2:

    >>> problem = LearningProblem(torch.zeros(1, 2), torch.zeros(1, 2), 0.2, hidden=3, activation="identity")
    >>> theta = torch.ones(10, 15, dtype=problem.x0.dtype)
    >>> value = objective(problem, theta) - data_term(problem, theta)
    >>> f"{value.item():.4f}"
    '0.7500'
    """
    fit, mesh = data_term(problem, theta), problem.mesh(theta)
    norm = mesh.h1_norm if problem.penalty == "h1" else mesh.l2_norm
    return fit + 0.5 * problem.alpha * norm(theta, "reflected").square()


Running = Callable[[Tensor, Tensor, Tensor], Tensor]


def hamiltonian(
    x: Tensor, p: Tensor, theta: Triple, *, activation: str | Activation = "tanh", running: Running | None = None
) -> Tensor:
    r"""Return the Hamiltonian of a Volterra equation at given states and costates,

    .. math:: H(x,p,\theta)=\sum_{i=1}^Sp_i\cdot f(x_i,\theta)+r(\theta),\qquad f(x,\theta)=V\sigma(Wx+b).

    One control serves all samples, hence the sum.  With the final cotangent g in place of p it is the
    Hamiltonian of the terminal row.
    Source: chapter *Optimal weights minimize a Hamiltonian at every pair of layers*.

    Parameters
    ----------
    x, p : Tensor, shape ``(..., S, n)``
        States :math:`x_i(s)` and costates :math:`p_i(t)`, sample by sample.
    theta : (V, W, b) of shapes ``(..., n, m)``, ``(..., m, n)``, ``(..., m)``
        The leading axes are broadcast against those of x and p.
    activation : str or Activation
    running : callable ``(V, W, b) -> Tensor``, optional
        The running cost r, of a shape that broadcasts against the leading axes; 0 unless given.

    Returns
    -------
    Tensor, shape ``(...)``

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit together.

    Examples
    --------
    >>> x, p = torch.ones(4, 2), torch.ones(4, 2)
    >>> theta = (torch.ones(2, 3), torch.ones(3, 2), torch.zeros(3))
    >>> hamiltonian(x, p, theta, activation="identity")
    tensor(48.)
    >>> hamiltonian(x, p, theta, activation="identity", running=lambda V, W, b: V.square().sum((-2, -1)))
    tensor(54.)
    """
    sigma = named_activation(activation)
    if not isinstance(theta, tuple | list) or len(theta) != 3:
        raise TypeError(f"theta: expected a triple (V, W, b), received {type(theta).__name__}")
    V, W, b = (_checks.tensor(name, part) for name, part in zip("VWb", theta, strict=True))
    for name, part, axes in (("x", x, 2), ("p", p, 2), ("V", V, 2), ("W", W, 2), ("b", b, 1)):
        if _checks.tensor(name, part).ndim < axes:
            raise ValueError(f"{name}: expected at least {axes} axes, received shape {tuple(part.shape)}")
        _checks.same_kind(name, part, "x", x)
    n, m = V.shape[-2:]
    for name, have, want in (
        ("x", x.shape[-1:], (n,)),
        ("p", p.shape[-2:], tuple(x.shape[-2:])),
        ("W", W.shape[-2:], (m, n)),
        ("b", b.shape[-1:], (m,)),
    ):
        if tuple(have) != want:
            raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, want))}), received {tuple(have)}")
    feature = sigma(x @ W.mT + b.unsqueeze(-2)) @ V.mT
    value = (p * feature).sum((-2, -1))
    return value if running is None else value + running(V, W, b)
