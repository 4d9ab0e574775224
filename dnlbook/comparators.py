r"""Bounds to compare with: products, covers, path norms and spectral norms, on the same class where there is one.

Some read the norms of one network; they are diagnostics and say so in ``doubts``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.budgets import Budget, BudgetedNet
from dnlbook.complexities import (
    Complexity,
    RademacherBound,
    Support,
    assembled,
    checked_depth,
    contraction_constant,
    exp,
    largest_states,
    log,
    log_sum,
    massart,
)
from dnlbook.rademacher import mean_abs_sum, sample_of

_TRAINED = "norms of the trained network without a union over norms"


def _one_network(net: BudgetedNet) -> BudgetedNet:
    if not isinstance(net, BudgetedNet):
        raise TypeError(f"net: expected a BudgetedNet, received {type(net).__name__}")
    if net.V.ndim != 3:
        raise ValueError(f"net: expected one network, received a stack of {net.V.shape[0]}")
    return net


def _count(data: Tensor | Support) -> int:
    return data.samples if isinstance(data, Support) else len(sample_of(data))


class NaiveBound(RademacherBound):
    r"""The product over the layers that ignores the step, :math:`g=(1+c)^L`; it needs :math:`T\le L`.

    It is the recursion with :math:`\tau=1`, hence a bound of the class and exponential in the depth.
    Source: classical; chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    budget, activation, kappa
        As for :class:`RecursionBound`.

    Raises
    ------
    ValueError
        On evaluation at a depth below the horizon, where the step exceeds 1.

    Examples
    --------
    >>> round(NaiveBound(Budget()).evaluate(torch.ones(100, 1), 64).log10, 2)
    18.34
    """

    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> Complexity:
        """Return the bound for a depth."""
        L = checked_depth(depth)
        if self.budget.T > L:
            raise ValueError(f"depth: expected at least the horizon {self.budget.T:g}, where T/L <= 1, received {L}")
        growth = L * math.log1p(self.budget.growth(self.kappa))
        return assembled(
            growth,
            self.budget,
            self.kappa,
            massart(data),
            0.0,
            _count(data),
            time=float(L),
            assumptions=(*self._assumptions(), "depth L, every step replaced by 1"),
            data_free=isinstance(data, Support),
        )


class ParameterCoverBound(RademacherBound):
    r"""Cover all parameters by cells of width :math:`\epsilon`,

    .. math:: \min_\epsilon\;\Lambda_\theta\epsilon
              +X\sqrt{\frac2S\Bigl(\sum_i\log\Bigl(1+\frac{2B_i}\epsilon\Bigr)+\log2\Bigr)},

    with one summand for each of the :math:`n(n_d+1)+L(2nm+m)` parameters, the root mean square X of the
    worst-case states :math:`X_s^L`, and

    .. math:: \Lambda_\theta&=e^{c_0T}\bigl[\|d\|_1+1+T\bigl(m\,L_\sigma(B_WX_T+B_b)+B_VL_\sigma(nX_T+1)\bigr)\bigr],\\
              c_0&=L_\sigma B_VB_W .

    Source: ours, after a classical argument; chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    budget, activation
        As for :class:`RecursionBound`.
    width : int
        :math:`n`.
    hidden : int, optional
        :math:`m`; the width unless given.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int.

    Examples
    --------
    >>> bound = ParameterCoverBound(Budget(), "tanh", width=4)
    >>> data = torch.ones(1000, 3)
    >>> bound.complexity(data, 4) < bound.complexity(data, 16) < bound.complexity(data, 64)
    True
    """

    def __init__(
        self, budget: Budget, activation: str | Activation = "identity", *, width: int, hidden: int | None = None
    ) -> None:
        super().__init__(budget, activation)
        self.width = _checks.positive_int("width", width)
        self.hidden = self.width if hidden is None else _checks.positive_int("hidden", hidden)

    def _sensitivity(self, data: Tensor | Support, largest: float) -> tuple[float, float]:
        """How far the state moves per unit of a parameter of the pre-layer, and of a layer."""
        if isinstance(data, Support):
            size = data.features * data.radius
        else:
            size = float(sample_of(data).abs().sum(1).max())
        budget, lip = self.budget, self.activation.lipschitz
        growth = exp(lip * budget.BV * budget.BW * budget.T)
        layer = self.hidden * (budget.BW * largest + budget.Bb) + budget.BV * (self.width * largest + 1)
        return growth * (size + 1), budget.T * growth * lip * layer

    def _entropy(self, cell: Tensor, features: int, depth: int) -> Tensor:
        """The logarithm of the number of cells."""
        budget, n, m = self.budget, self.width, self.hidden
        counts = ((n * features, budget.B0), (n, budget.Bb0))
        layers = ((n * m, budget.BV), (m * n, budget.BW), (m, budget.Bb))
        fixed = torch.stack([count * torch.log1p(2 * bound / cell) for count, bound in counts]).sum(0)
        return fixed + self._layer_factor(cell, depth, layers)

    def _layer_factor(self, cell: Tensor, depth: int, layers: tuple[tuple[int, float], ...]) -> Tensor:
        return depth * torch.stack([count * torch.log1p(2 * bound / cell) for count, bound in layers]).sum(0)

    #: how far apart two paths of one cell are, in units of the width of a cell
    _spread = 1.0

    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> Complexity:
        """Return the bound for a depth, with the best width of a cell on a grid."""
        L, count = checked_depth(depth), _count(data)
        features = data.features if isinstance(data, Support) else data.shape[1]
        states = largest_states(data, L, self.budget, self.activation)
        lift, layer = self._sensitivity(data, float(states.max()))
        cell = torch.logspace(-12, 4, 1601, dtype=torch.float64)
        finite = states.square().mean().sqrt() * torch.sqrt(
            2 * (self._entropy(cell, features, L) + math.log(2)) / count
        )
        move = (lift + self._spread * layer) * cell
        best = int((finite + move).argmin())
        terms = {"cells": float(finite[best]), "width": float(move[best])}
        return Complexity(
            log(sum(terms.values())),
            terms,
            count,
            self.budget.Bout,
            (*self._assumptions(), f"width {self.width}, hidden width {self.hidden}"),
            data_free=isinstance(data, Support),
        )


class LipschitzPathBound(ParameterCoverBound):
    r"""Cover paths of parameters that change slowly, :math:`|\theta^{l+1}-\theta^l|\le K\tau` in each entry,

    .. math:: &\min_\epsilon\;(\Lambda_0+2\Lambda_\theta)\epsilon+X\sqrt{\tfrac2S(E+\log N_0+\log2)},\\
              &E=\sum_i\Bigl[\log\Bigl(1+\frac{2B_i}\epsilon\Bigr)
              +\Bigl\lceil\frac{KT}\epsilon\Bigr\rceil\log3\Bigr],

    with one summand for each of the :math:`2nm+m` paths and the cells :math:`N_0` of the pre-layer.
    From one node :math:`i\epsilon/K` to the next a path stays in its cell or moves to a neighbour.
    Source: ours, after Marion (NeurIPS 2023); chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    budget, activation, width, hidden
        As for :class:`ParameterCoverBound`.
    path_lipschitz : float
        :math:`K`, at least 0.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int or path_lipschitz is negative.

    Examples
    --------
    >>> bound = LipschitzPathBound(Budget(), "tanh", width=4, path_lipschitz=1.0)
    >>> data = torch.ones(1000, 3)
    >>> round(bound.complexity(data, 4096) / bound.complexity(data, 1024), 2)
    1.0
    """

    _spread = 2.0

    def __init__(
        self,
        budget: Budget,
        activation: str | Activation = "identity",
        *,
        width: int,
        path_lipschitz: float,
        hidden: int | None = None,
    ) -> None:
        super().__init__(budget, activation, width=width, hidden=hidden)
        self.path_lipschitz = _checks.nonnegative_float("path_lipschitz", path_lipschitz)

    def _layer_factor(self, cell: Tensor, depth: int, layers: tuple[tuple[int, float], ...]) -> Tensor:
        moves = torch.ceil(self.path_lipschitz * self.budget.T / cell) * math.log(3)
        return torch.stack([count * (torch.log1p(2 * bound / cell) + moves) for count, bound in layers]).sum(0)

    def _assumptions(self) -> tuple[str, ...]:
        return (*super()._assumptions(), f"paths with Lipschitz constant {self.path_lipschitz:g} in each entry")


def path_norm(net: BudgetedNet, *, weight: float = 3.0) -> float:
    r"""Return the weighted path norm of a network, biases included as weights of a constant feature,

    .. math:: Q=\max_i\Bigl\|e_i^\top|W_{out}|\prod_{l=L-1}^0\bigl(I+w\tau|V^l||W^l|\bigr)|W_{in}|\Bigr\|_1 .

    Source: after E, Ma and Wang (2019); chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    net : BudgetedNet
        One network, not a stack.
    weight : float
        :math:`w`, above 0.

    Raises
    ------
    ValueError, TypeError
        If the network is a stack or not of the class, or weight is not above 0.

    Examples
    --------
    >>> net = BudgetedNet(2, 3, 4, Budget(BV=0.0, Bout=2.0, B0=3.0))
    >>> path_norm(net) <= 6 + 1e-5
    True
    """
    factor = _checks.positive_float("weight", weight) * _one_network(net).step
    with torch.no_grad():
        rows, constant = net.W_out.abs().to(torch.float64), torch.zeros(len(net.W_out), dtype=torch.float64)
        for V, W, b in zip(*(part.abs().to(torch.float64).flip(0) for part in (net.V, net.W, net.b)), strict=True):
            hidden = factor * rows @ V
            rows, constant = rows + hidden @ W, constant + hidden @ b
        paths = rows @ torch.cat([net.W_in.abs(), net.b_in.abs().unsqueeze(1)], 1).to(torch.float64)
        return float((paths.sum(1) + constant).max())


class PathNormBound:
    r"""The bound by the weighted path norm Q, for positively homogeneous activations,

    .. math:: \hat{\mathfrak R}_S\le\frac w{w-\kappa}\,Q\,\sqrt{\frac{2\log(2(n_d+1))}S}\;
              \max_j\Bigl(\frac1S\sum_s|d^s_j|^2\Bigr)^{1/2},

    with a constant feature among the :math:`d_j` for the biases.  With w = 3 the factor is 2 for
    :math:`\kappa=3/2`, and 3 for :math:`\kappa=2`.  The readout is included.
    Source: after E, Ma and Wang (2019), with the contraction constant of chapter
    *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    largest : float
        :math:`Q`, fixed before the data.
    activation : str or Activation
        ReLU, the identity or ``soft_threshold(0.0)``.
    weight : float
        :math:`w>\kappa`.
    kappa : float, optional
        Contraction constant; the one that is proved unless given.

    Raises
    ------
    ValueError, TypeError
        If the activation is not positively homogeneous, Q is negative, or weight is at most kappa.

    Examples
    --------
    >>> bound = PathNormBound(1.0)
    >>> bound.factor, PathNormBound(1.0, kappa=2.0).factor
    (2.0, 3.0)
    """

    def __init__(
        self,
        largest: float,
        activation: str | Activation = "relu",
        *,
        weight: float = 3.0,
        kappa: float | None = None,
    ) -> None:
        self.largest = _checks.nonnegative_float("largest", largest)
        self.activation, self.kappa = contraction_constant(activation, kappa)
        sigma = self.activation
        if sigma.bound < math.inf or any(0 < threshold < math.inf for threshold in sigma.thresholds):
            raise ValueError(f"activation: expected a positively homogeneous one, received {sigma.name!r}")
        self.weight = _checks.positive_float("weight", weight)
        if self.weight <= self.kappa:
            raise ValueError(f"weight: expected more than the contraction constant {self.kappa:g}, received {weight!r}")
        self._doubts: tuple[str, ...] = ()

    @classmethod
    def of(cls, net: BudgetedNet, *, weight: float = 3.0, kappa: float | None = None) -> PathNormBound:
        """Return the bound for the path norm that a network turned out to have, which is a diagnostic.

        Examples
        --------
        >>> PathNormBound.of(BudgetedNet(2, 3, 4, Budget(), activation="relu")).evaluate(torch.ones(9, 2)).doubts
        ('norms of the trained network without a union over norms',)
        """
        bound = cls(path_norm(net, weight=weight), net.activation, weight=weight, kappa=kappa)
        bound._doubts = (_TRAINED,)
        return bound

    @property
    def factor(self) -> float:
        r"""The factor :math:`w/(w-\kappa)` in front of the path norm."""
        return self.weight / (self.weight - self.kappa)

    def evaluate(self, data: Tensor | Support, depth: int | None = None) -> Complexity:
        """Return the bound; it does not depend on the depth."""
        if isinstance(data, Support):
            extended: Tensor | Support = Support(data.samples, data.features + 1, max(data.radius, 1.0))
        else:
            sample = sample_of(data)
            extended = torch.cat([sample, sample.new_ones(len(sample), 1)], 1)
        count = _count(data)
        value = self.factor * self.largest * massart(extended) / count
        assumptions = (
            "independent samples of one distribution",
            f"path norm with weight {self.weight:g} at most {self.largest:g}, fixed before the data",
            f"positively homogeneous activation {self.activation.name}",
        )
        free = isinstance(data, Support)
        return Complexity(log(value), {"paths": value}, count, 1.0, assumptions, self._doubts, data_free=free)


class LayerwiseBound:
    r"""The recursion with the norms of each layer, :math:`g=\prod_l(1+\tau\kappa\|V^l\|_\infty\|W^l\|_\infty)`.

    It would need a union over 2L norms and is a diagnostic.
    Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    net : BudgetedNet
        One network, not a stack.
    kappa : float, optional
        Contraction constant; the one that is proved for the activation unless given.

    Raises
    ------
    ValueError, TypeError
        If the network is a stack or not of the class, or kappa is too small.

    Examples
    --------
    >>> LayerwiseBound(BudgetedNet(2, 3, 4, Budget())).evaluate(torch.ones(9, 2)).doubts
    ('norms of each layer without a union over them',)
    """

    def __init__(self, net: BudgetedNet, *, kappa: float | None = None) -> None:
        self.net = _one_network(net)
        _, self.kappa = contraction_constant(net.activation, kappa)

    def evaluate(self, data: Tensor, depth: int | None = None) -> Complexity:
        """Return the diagnostic for a sample; the depth is that of the network."""
        net, sample = self.net, sample_of(data)
        count, m = len(sample), mean_abs_sum(len(sample))
        with torch.no_grad():
            size = {name: getattr(net, name).abs().to(torch.float64) for name in ("W_in", "V", "W", "W_out", "b")}
            v, w = (size[name].sum(2).amax(1).tolist() for name in ("V", "W"))
            biases = size["b"].amax(1).tolist()
            lift = float(size["W_in"].sum(1).max()) * massart(sample) + float(net.b_in.abs().max()) * m
            readout = float(size["W_out"].sum(1).max())
        value = log(lift / count)
        for V, W, b in zip(v, w, biases, strict=True):
            factor = net.step * self.kappa * V
            value = log_sum(value + math.log1p(factor * W), log(factor * b * m / count))
        doubts = ("norms of each layer without a union over them",)
        assumptions = (f"fixed activation {net.activation.name} with contraction constant {self.kappa:g}",)
        return Complexity(value, {"product": exp(value)}, count, readout, assumptions, doubts)


class SpectralBound:
    r"""The spectral complexity of Bartlett, Foster and Telgarsky (2017), without constants and logarithms,

    .. math:: \frac{\|X\|_F}S\,\prod_i\|A_i\|_2\Bigl(\sum_i
              \Bigl(\frac{\|A_i-M_i\|_{2,1}}{\|A_i\|_2}\Bigr)^{2/3}\Bigr)^{3/2},

    where :math:`\|\cdot\|_{2,1}` adds up the Euclidean norms of the rows.  With ``residual=False`` a layer is
    two maps of a plain network, :math:`A=(I;W)` and :math:`A=(I,\tau V)` with the references :math:`(I;0)` and
    :math:`(I,0)`; their norms :math:`\sqrt{1+\|W\|^2}` know nothing of the step.  With ``residual=True`` the
    cover is adapted to the residual layer,

    .. math:: &\frac{\|X\|_F}S\|W_{in}\|\|W_{out}\|\prod_l(1+\tau\|V^l\|\|W^l\|)\\
              &\quad\times\Bigl(\sum_l\frac{(\tau\|W^l\|_{2,1}\|V^l\|)^{2/3}+(\tau\|V^l\|_{2,1}\|W^l\|)^{2/3}}
              {(1+\tau\|V^l\|\|W^l\|)^{2/3}}\Bigr)^{3/2},

    which grows like :math:`\sqrt L`.  Pre-layer and readout are their own references, and biases do not enter.
    Both are diagnostics.  Source: chapter *At a fixed horizon, depth does not raise the bound*.

    Parameters
    ----------
    net : BudgetedNet
        One network, not a stack; the activations of the library have the Lipschitz constant 1.
    residual : bool

    Raises
    ------
    ValueError, TypeError
        If the network is a stack or not of the class.

    Examples
    --------
    >>> net = BudgetedNet(2, 3, 64, Budget())
    >>> plain, adapted = (SpectralBound(net, residual=kind).evaluate(torch.ones(9, 2)) for kind in (False, True))
    >>> plain.log10 > adapted.log10 + 5
    True
    """

    def __init__(self, net: BudgetedNet, *, residual: bool = False) -> None:
        self.net = _one_network(net)
        self.residual = residual

    def evaluate(self, data: Tensor, depth: int | None = None) -> Complexity:
        """Return the diagnostic for a sample; the depth is that of the network."""
        net, sample, tau = self.net, sample_of(data), self.net.step
        with torch.no_grad():
            V, W, W_in, W_out = (part.to(torch.float64) for part in (net.V, net.W, net.W_in, net.W_out))
            v, w = (torch.linalg.matrix_norm(part, 2) for part in (V, W))
            v_rows, w_rows = (torch.linalg.vector_norm(part, dim=2).sum(1) for part in (V, W))
            ends = float(torch.linalg.matrix_norm(W_in, 2).log() + torch.linalg.matrix_norm(W_out, 2).log())
            if self.residual:
                layer = 1 + tau * v * w
                shares = ((tau * w_rows * v) ** (2 / 3) + (tau * v_rows * w) ** (2 / 3)) / layer ** (2 / 3)
                product = layer.log().sum()
            else:
                up, down = (1 + w.square()).sqrt(), (1 + (tau * v).square()).sqrt()
                shares = (w_rows / up) ** (2 / 3) + (tau * v_rows / down) ** (2 / 3)
                product = (up.log() + down.log()).sum()
            value = ends + float(product) + 1.5 * log(float(shares.sum())) + log(float(sample.norm()) / len(sample))
        doubts = ("without the constants and logarithms of the theorem", _TRAINED)
        return Complexity(value, {"spectral": exp(value)}, len(sample), 1.0, (), doubts)
