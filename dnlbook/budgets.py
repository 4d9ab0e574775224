r"""Budgets: the class of networks whose generalization is bounded, as numbers, a projection and a module.

.. math:: x^0=W_{in}d+b_{in},\qquad x^{l+1}=x^l+\tau V^l\sigma(W^lx^l+b^l),\qquad f=W_{out}x^L,\qquad\tau=T/L .

A budget bounds the rows of each matrix in the norm :math:`\ell^1` and each entry of a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.residual import residual_forward

#: the parameters of a BudgetedNet, each with the budget that bounds it
MATRICES = {"W_in": "B0", "V": "BV", "W": "BW", "W_out": "Bout"}
BIASES = {"b_in": "Bb0", "b": "Bb"}


@dataclass(frozen=True)
class Budget:
    r"""What a class of residual networks may spend; it is fixed before the data are seen.

    .. math:: &\|W_{in}\|_\infty\le B_0,\quad|b_{in}|_\infty\le B_{b0},\quad\|V^l\|_\infty\le B_V,\\
              &\|W^l\|_\infty\le B_W,\quad|b^l|_\infty\le B_b,\quad\|W_{out}\|_\infty\le B_{out},

    with :math:`\|A\|_\infty=\max_i\sum_j|A_{ij}|`.
    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    B0, Bb0, BV, BW, Bb, Bout : float
        The bounds of pre-layer, layers and readout, at least 0.
    T : float
        Horizon, at least 0; the step of a layer is T/L.

    Raises
    ------
    ValueError, TypeError
        If an entry is negative, not finite or not a number.

    Examples
    --------
    >>> Budget(BV=2.0, BW=0.5, T=3.0).growth(kappa=1.0)
    1.0
    """

    B0: float = 1.0
    Bb0: float = 0.0
    BV: float = 1.0
    BW: float = 1.0
    Bb: float = 0.0
    Bout: float = 1.0
    T: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _checks.nonnegative_float(field.name, getattr(self, field.name)))

    def growth(self, kappa: float) -> float:
        r"""Return :math:`c=\kappa B_VB_W`: a layer multiplies the complexity by at most :math:`1+\tau c`.

        Examples
        --------
        >>> Budget().growth(1.5)
        1.5
        """
        return kappa * self.BV * self.BW

    def contains(self, net: nn.Module) -> bool:
        """Return whether every row and bias of the network is within its budget, up to rounding.

        Examples
        --------
        >>> Budget().contains(BudgetedNet(3, 4, 2, Budget()))
        True
        """
        rounding = 100 * torch.finfo(_parameters(net)["V"].dtype).eps
        return all(norm <= getattr(self, name) * (1 + rounding) for name, norm in row_norms(net).items())


def project_rows(values: Tensor, radius: float) -> Tensor:
    r"""Return the nearest points of the ball :math:`\|a\|_1\le B` to the rows of a tensor.

    .. math:: a\mapsto\operatorname{sgn}(a)\max(|a|-\vartheta,0),\qquad
              \sum_j\max(|a_j|-\vartheta,0)=B ,

    for rows outside of the ball.  The threshold comes from sorting, so the projection is exact.
    Source: Duchi, Shalev-Shwartz, Singer and Chandra, ICML 2008.

    Parameters
    ----------
    values : Tensor, shape ``(..., n)``
        The last axis holds the rows.
    radius : float
        :math:`B`, at least 0.

    Returns
    -------
    Tensor, shape ``(..., n)``

    Raises
    ------
    ValueError, TypeError
        If radius is negative, or values are not finite floating-point numbers.

    Examples
    --------
    >>> project_rows(torch.tensor([[2.0, 1.5], [0.5, -0.25]]), 1.0).tolist()
    [[0.75, 0.25], [0.5, -0.25]]
    """
    rows = _checks.finite("values", _checks.tensor("values", values))
    bound = _checks.nonnegative_float("radius", radius)
    if bound == 0 or rows.numel() == 0:
        return torch.zeros_like(rows)
    size = rows.abs()
    largest = size.sort(dim=-1, descending=True).values
    excess = largest.cumsum(-1) - bound
    count = torch.arange(1, rows.shape[-1] + 1, dtype=rows.dtype, device=rows.device)
    kept = (largest * count > excess).sum(-1, keepdim=True).clamp_(min=1)
    threshold = excess.gather(-1, kept - 1) / kept
    inside = size.sum(-1, keepdim=True) <= bound
    return torch.where(inside, rows, rows.sign() * (size - threshold).relu())


def _parameters(net: nn.Module) -> dict[str, Tensor]:
    """The six parameters of a network of the class."""
    parts = {name: getattr(net, name, None) for name in (*MATRICES, *BIASES)}
    missing = [name for name, value in parts.items() if not isinstance(value, Tensor)]
    if missing:
        raise TypeError(f"net: expected a BudgetedNet, received {type(net).__name__} without {', '.join(missing)}")
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


@torch.no_grad()
def project_(net: nn.Module, budget: Budget) -> None:
    """Move a network to the nearest one within the budget, in place: rows by l1 balls, biases by clamping.

    It is called after each step of the optimizer.
    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    net : BudgetedNet
    budget : Budget

    Raises
    ------
    TypeError, ValueError
        If the network is not of the class, or a parameter is not finite.

    Examples
    --------
    >>> net = BudgetedNet(3, 4, 2, Budget(BV=5.0))
    >>> project_(net, Budget())
    >>> bool(row_norms(net)["BV"] <= 1 + 1e-6)
    True
    """
    for name, value in _parameters(net).items():
        _checks.finite(name, value)
        if name in MATRICES:
            value.copy_(project_rows(value, getattr(budget, MATRICES[name])))
        else:
            value.clamp_(-getattr(budget, BIASES[name]), getattr(budget, BIASES[name]))
    if isinstance(net, BudgetedNet) and net.thresholds is not None and net.learned is not None:
        _checks.finite("thresholds", net.thresholds).clamp_(*net.learned)


@torch.no_grad()
def row_norms(net: nn.Module) -> dict[str, float]:
    r"""Return what a network spends of each budget: the largest row, over all layers.

    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    net : BudgetedNet

    Returns
    -------
    dict of str to float
        The keys are B0, Bb0, BV, BW, Bb and Bout, as in :class:`Budget`.

    Raises
    ------
    TypeError
        If the network is not of the class.

    Examples
    --------
    >>> sorted(row_norms(BudgetedNet(3, 4, 2, Budget())))
    ['B0', 'BV', 'BW', 'Bb', 'Bb0', 'Bout']
    """
    parts = _parameters(net)
    rows = {key: float(parts[name].abs().sum(-1).max()) for name, key in MATRICES.items()}
    spent = rows | {key: float(parts[name].abs().max()) for name, key in BIASES.items()}
    return {field.name: spent[field.name] for field in fields(Budget) if field.name in spent}


class BudgetedNet(nn.Module):
    r"""The network of the class: pre-layer, residual layers with step T/L, linear readout,

    .. math:: x^0=W_{in}d+b_{in},\qquad x^{l+1}=x^l+\tfrac TLV^l\sigma(W^lx^l+b^l),\qquad f=W_{out}x^L .

    It starts within its budget; :func:`project_` keeps it there.  With ``copies`` it is a stack of
    independent networks that are trained at once: the sum of their losses has the gradient of each.
    Source: chapter *Rademacher complexity through layers follows Euler's method*.

    Parameters
    ----------
    features, width, depth : int
        :math:`n_d`, :math:`n` and :math:`L`, at least 1.
    budget : Budget
    hidden : int, optional
        :math:`m`; the width unless given.
    outputs : int
        Rows of :math:`W_{out}`.
    activation : str or Activation
    copies : int, optional
        How many independent networks; one network without leading axis unless given.
    learned : (float, float), optional
        Learn the thresholds :math:`\alpha,\beta` of each hidden neuron, shared by the layers, within this range;
        they start at those of the activation, which is a soft threshold.
    seed : int
        Of the initial parameters, which are normal numbers times half of the budget, projected.
    dtype : torch.dtype, optional
        Torch's default unless given.

    Attributes
    ----------
    W_in, b_in, V, W, b, W_out : Parameter
        Shapes ``(n, n_d)``, ``(n,)``, ``(L, n, m)``, ``(L, m, n)``, ``(L, m)``, ``(outputs, n)``, each
        behind an axis of length ``copies`` if that is given.
    thresholds : Parameter or None
        Shape ``(2, m)``, alpha and beta of each neuron, if they are learned.

    Raises
    ------
    ValueError, TypeError
        If a size is not a positive int, the activation is unknown, the range of learned thresholds does not
        hold those of the activation, or data do not fit.

    Examples
    --------
    >>> net = BudgetedNet(3, 4, 8, Budget())
    >>> net(torch.zeros(5, 3)).shape, net.states(torch.zeros(5, 3)).shape
    (torch.Size([5, 1]), torch.Size([9, 5, 4]))
    >>> BudgetedNet(3, 4, 8, Budget(), copies=7)(torch.zeros(5, 3)).shape
    torch.Size([7, 5, 1])
    """

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        budget: Budget,
        *,
        hidden: int | None = None,
        outputs: int = 1,
        activation: str | Activation = "tanh",
        copies: int | None = None,
        learned: tuple[float, float] | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        nd, n, L = (
            _checks.positive_int(name, value)
            for name, value in (("features", features), ("width", width), ("depth", depth))
        )
        m = n if hidden is None else _checks.positive_int("hidden", hidden)
        k = _checks.positive_int("outputs", outputs)
        lead = () if copies is None else (_checks.positive_int("copies", copies),)
        self.budget = budget
        self.activation = named_activation(activation)
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter(0.5 * bound * torch.randn(*lead, *shape, generator=generator, dtype=dtype))

        # the ends come first: networks of one seed and different depths share them
        self.W_in, self.b_in = normal(n, nd, bound=budget.B0), normal(n, bound=budget.Bb0)
        self.W_out = normal(k, n, bound=budget.Bout)
        self.V, self.W = normal(L, n, m, bound=budget.BV), normal(L, m, n, bound=budget.BW)
        self.b = normal(L, m, bound=budget.Bb)
        self.learned = None if learned is None else self._range(learned)
        start = torch.tensor(self.activation.thresholds, dtype=self.V.dtype).unsqueeze(1)
        self.thresholds = None if learned is None else nn.Parameter(start.repeat(*lead, 1, m))
        project_(self, budget)

    def _range(self, learned: tuple[float, float]) -> tuple[float, float]:
        low, high = (_checks.nonnegative_float("learned", end) for end in learned)
        if not all(low <= threshold <= high for threshold in self.activation.thresholds):
            raise ValueError(
                f"learned: expected a range that holds the thresholds of {self.activation.name}, received {learned!r}"
            )
        if not self.activation.name.startswith("soft_threshold"):
            raise ValueError(f"activation: expected a soft threshold to learn, received {self.activation.name!r}")
        return low, high

    @property
    def depth(self) -> int:
        """How many residual layers there are."""
        return self.V.shape[-3]

    @property
    def features(self) -> int:
        """How many entries a datum has."""
        return self.W_in.shape[-1]

    @property
    def step(self) -> float:
        """The step T/L in front of a layer."""
        return self.budget.T / self.depth

    def states(self, data: Tensor) -> Tensor:
        """Return all states, shape ``(L + 1, S, n)``, or ``(L + 1, copies, S, n)`` for a stack.

        Data have the shape ``(S, n_d)``, or ``(copies, S, n_d)`` if each copy has a sample of its own.
        """
        _checks.state("data", data, self.features, "W_in", self.W_in)
        return self._states(data)

    def _states(self, data: Tensor) -> Tensor:
        x = data @ self.W_in.mT + self.b_in.unsqueeze(-2)
        if self.V.ndim == 3 and self.thresholds is None:
            return residual_forward(x, self.V, self.W, self.b, step=self.step, activation=self.activation)
        states = [x]
        for V, W, b in zip(self.V.unbind(-3), self.W.unbind(-3), self.b.unbind(-2), strict=True):
            x = x + self.step * self._activate(x @ W.mT + b.unsqueeze(-2)) @ V.mT
            states.append(x)
        return torch.stack(states)

    def _activate(self, z: Tensor) -> Tensor:
        if self.thresholds is None:
            return self.activation(z)
        alpha, beta = self.thresholds.unsqueeze(-2).unbind(-3)
        return torch.relu(z - alpha) - torch.relu(-z - beta)

    def forward(self, data: Tensor) -> Tensor:
        """Return the outputs :math:`f`, shape ``(S, outputs)``, or ``(copies, S, outputs)``."""
        outputs: Tensor = self.states(data)[-1] @ self.W_out.mT
        return outputs

    def adopt_(self, **values: Tensor) -> None:
        """Take over given parameters by name, in place; the other parameters stay.

        Raises
        ------
        ValueError, TypeError
            If a name is not a parameter, or a value does not fit in shape, dtype or device.

        Examples
        --------
        >>> net = BudgetedNet(3, 4, 2, Budget())
        >>> net.adopt_(b_in=torch.ones(4))
        >>> row_norms(net)["Bb0"]
        1.0
        """
        known = _parameters(self)
        for name, value in values.items():
            target = known[_checks.choice("the name of a parameter", name, known)]
            _checks.same_kind(name, _checks.shape(name, value, tuple(target.shape)), "the network", target)
            with torch.no_grad():
                target.copy_(value)

    def extra_repr(self) -> str:
        sizes: Sequence[str] = [f"{name}={tuple(value.shape)}" for name, value in _parameters(self).items()]
        return f"{', '.join(sizes)}, activation={self.activation.name!r}, budget={self.budget}"
