"""Feature transformations f(x, theta), local and non-local, each with a proved bound for its Lipschitz constant.

An object holds structure (sizes, a graph, a bandwidth); theta holds what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.special import lambertw
from torch import Tensor

from dnlbook import _checks
from dnlbook.activations import Activation
from dnlbook.activations import activation as named_activation
from dnlbook.transformation import Transformation

__all__ = ["Convolution", "FullyConnected", "GraphDiffusion", "NonLocalMean", "SelfAttention", "Transformation"]


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


class FullyConnected(Transformation):
    r"""The perceptron :math:`f(x,\theta)=V\sigma(Wx+b)`, the transformation of Part I.

    .. math:: \mathrm{Lip}(f)\le L_\sigma\lVert V\rVert\lVert W\rVert .

    Attained at 0 for :math:`V=W^\top`, :math:`b=0`, :math:`\sigma'(0)=L_\sigma`.
    Source: chapter *The dense non-local framework*, the theorem on local transformations.

    Parameters
    ----------
    width : int
        :math:`n`; states have shape ``(..., n)``.
    hidden : int, optional
        :math:`m`; the width unless given.
    activation : str or Activation

    Notes
    -----
    theta is ``(V, W, b)`` of shapes ``(n, m)``, ``(m, n)``, ``(m,)``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int or the activation is unknown.

    Examples
    --------
    >>> f = FullyConnected(width=2, hidden=1)
    >>> theta = torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0, 0.0]]), torch.zeros(1)
    >>> f(torch.zeros(7, 2), theta).shape, f.lipschitz(theta)
    (torch.Size([7, 2]), 5.0)
    """

    _described_by = ("width", "hidden", "activation")

    def __init__(self, width: int, hidden: int | None = None, *, activation: str | Activation = "tanh") -> None:
        self.width = _checks.positive_int("width", width)
        self.hidden = self.width if hidden is None else _checks.positive_int("hidden", hidden)
        self.activation = named_activation(activation)
        n, m = self.width, self.hidden
        self.state_shape = (n,)
        self.parameter_shapes = {"V": (n, m), "W": (m, n), "b": (m,)}

    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        V, W, b = theta
        return self.activation(x @ W.mT + b) @ V.mT

    def _bound(self, radius: float, *theta: Tensor) -> float:
        V, W, _ = theta
        return self.activation.lipschitz * _norm(V) * _norm(W)


class Convolution(Transformation):
    r"""Two periodic convolutions, :math:`f(X,\theta)_i=\sum_jV_j\,\sigma(WX+b)_{i+j}`, :math:`(WX)_i=\sum_jW_jX_{i+j}`.

    Positions lie on a ring of N, taps :math:`j=-r..r` are centred, and every tap is a matrix.

    .. math:: \mathrm{Lip}(f)\le L_\sigma\,\max_\omega\lVert\widehat V(\omega)\rVert\,
              \max_\omega\lVert\widehat W(\omega)\rVert,\qquad
              \widehat W(\omega)=\sum_jW_je^{2\pi\mathrm ij\omega/N} .

    Each factor is the exact norm of its convolution.  The product is attained for the adjoint kernel
    :math:`V_j=W_{-j}^\top`, :math:`b=0`; two kernels that peak at different frequencies stay below it.
    Source: chapter *The dense non-local framework*, the theorem on local transformations.

    Parameters
    ----------
    positions : int
        :math:`N`; states have shape ``(..., N, d)``.
    channels, hidden : int
        :math:`d` and :math:`h`; hidden is channels unless given.
    taps : int
        Odd, :math:`2r+1`.
    activation : str or Activation

    Notes
    -----
    theta is ``(V, W, b)`` of shapes ``(taps, d, h)``, ``(taps, h, d)``, ``(h,)``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int, the number of taps is even, or the activation is unknown.

    Examples
    --------
    >>> f = Convolution(positions=4)
    >>> shift = torch.tensor([0.0, 0.0, 1.0]).reshape(3, 1, 1)
    >>> theta = shift, shift, torch.zeros(1)
    >>> f(torch.tensor([0.1, 0.0, 0.0, 0.0]).reshape(4, 1), theta).flatten()
    tensor([0.0000, 0.0000, 0.0997, 0.0000])
    >>> round(f.lipschitz(theta), 6)
    1.0
    """

    _described_by = ("positions", "channels", "hidden", "taps", "activation")

    def __init__(
        self,
        positions: int,
        channels: int = 1,
        hidden: int | None = None,
        *,
        taps: int = 3,
        activation: str | Activation = "tanh",
    ) -> None:
        self.positions = _checks.positive_int("positions", positions)
        self.channels = _checks.positive_int("channels", channels)
        self.hidden = self.channels if hidden is None else _checks.positive_int("hidden", hidden)
        self.taps = _checks.positive_int("taps", taps)
        if self.taps % 2 == 0:
            raise ValueError(f"taps: expected an odd number, one tap in the centre, received {taps}")
        self.activation = named_activation(activation)
        d, h = self.channels, self.hidden
        self.state_shape = (self.positions, d)
        self.parameter_shapes = {"V": (self.taps, d, h), "W": (self.taps, h, d), "b": (h,)}
        offsets = torch.arange(self.taps) - self.taps // 2
        self._neighbours = (torch.arange(self.positions)[:, None] + offsets) % self.positions

    def symbol(self, kernel: Tensor) -> Tensor:
        r"""Return :math:`\widehat W(\omega)=\sum_jW_je^{2\pi\mathrm ij\omega/N}` for all N frequencies.

        Parameters
        ----------
        kernel : Tensor, shape ``(taps, rows, columns)``

        Returns
        -------
        Tensor, complex, shape ``(N, rows, columns)``

        Raises
        ------
        TypeError, ValueError
            If the kernel is not a floating-point tensor of that shape.

        Examples
        --------
        >>> Convolution(positions=2).symbol(torch.ones(3, 1, 1)).real.flatten().round()
        tensor([ 3., -1.])
        """
        _checks.shape("kernel", kernel, (self.taps, "rows", "columns"))
        offsets = torch.arange(self.taps, dtype=kernel.dtype, device=kernel.device) - self.taps // 2
        frequencies = torch.arange(self.positions, dtype=kernel.dtype, device=kernel.device)
        angles = 2 * torch.pi * torch.outer(frequencies, offsets) / self.positions
        waves = torch.polar(torch.ones_like(angles), angles)
        return torch.einsum("fj,jab->fab", waves, kernel.to(waves.dtype))

    def _convolve(self, kernel: Tensor, x: Tensor) -> Tensor:
        windows = x[..., self._neighbours.to(x.device), :]
        return torch.einsum("...ijd,jhd->...ih", windows, kernel)

    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        V, W, b = theta
        return self._convolve(V, self.activation(self._convolve(W, x) + b))

    def _bound(self, radius: float, *theta: Tensor) -> float:
        V, W, _ = theta
        gains = [float(torch.linalg.matrix_norm(self.symbol(kernel), 2).max()) for kernel in (V, W)]
        return self.activation.lipschitz * math.prod(gains)


class GraphDiffusion(Transformation):
    r"""Fluxes along the edges of a graph, :math:`f(X,\theta)=-K^\top\sigma(KXW^\top)V^\top`.

    Row :math:`e=(i,j)` of K takes the difference :math:`\sqrt{a_{ij}}\,(x_j-x_i)`, so that :math:`K^\top K`
    is the graph Laplacian :math:`D-a`.  No flux leaves a constant state if :math:`\sigma(0)=0`.

    .. math:: \mathrm{Lip}(f)\le L_\sigma\lVert V\rVert\lVert W\rVert\,\lambda_{\max}(K^\top K)
              \le2L_\sigma\lVert V\rVert\lVert W\rVert\max_iD_{ii} .

    Attained at constant states for :math:`V=W^\top`.
    Source: chapter *The dense non-local framework*, the theorem on local transformations.

    Parameters
    ----------
    weights : Tensor, shape ``(N, N)``
        Symmetric, at least 0, with zero diagonal: :math:`a_{ij}` of the edge between i and j.
    features, hidden : int
        :math:`d` and :math:`h`; hidden is features unless given.  States have shape ``(..., N, d)``.
    activation : str or Activation

    Notes
    -----
    theta is ``(V, W)`` of shapes ``(d, h)``, ``(h, d)``.

    Attributes
    ----------
    largest_eigenvalue : float
        :math:`\lambda_{\max}(K^\top K)`.

    Raises
    ------
    TypeError, ValueError
        If the weights are not a finite symmetric matrix of numbers at least 0 with zero diagonal (the
        message says where), a size is not a positive int, or the activation is unknown.

    Examples
    --------
    >>> f = GraphDiffusion(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), activation="identity")
    >>> f(torch.tensor([[1.0], [3.0]]), (torch.ones(1, 1), torch.ones(1, 1))).flatten()
    tensor([ 2., -2.])
    >>> round(f.largest_eigenvalue, 6)
    2.0
    """

    _described_by = ("positions", "edges", "features", "hidden", "activation")

    def __init__(
        self,
        weights: Tensor,
        features: int = 1,
        hidden: int | None = None,
        *,
        activation: str | Activation = "tanh",
    ) -> None:
        a = _graph(weights)
        self.positions = len(a)
        self.features = _checks.positive_int("features", features)
        self.hidden = self.features if hidden is None else _checks.positive_int("hidden", hidden)
        self.activation = named_activation(activation)
        d, h = self.features, self.hidden
        self.state_shape = (self.positions, d)
        self.parameter_shapes = {"V": (d, h), "W": (h, d)}
        self._tail, self._head = a.triu().nonzero(as_tuple=True)
        self._root = a[self._tail, self._head].sqrt()
        self.edges = len(self._root)
        self.largest_eigenvalue = float(torch.linalg.eigvalsh(torch.diag(a.sum(1)) - a)[-1].clamp(min=0.0))

    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        V, W = theta
        tail, head = self._tail.to(x.device), self._head.to(x.device)
        root = self._root.to(x)[:, None]
        flux = root * (self.activation(root * (x[..., head, :] - x[..., tail, :]) @ W.mT) @ V.mT)
        return torch.zeros_like(x).index_add(-2, tail, flux).index_add(-2, head, -flux)

    def _bound(self, radius: float, *theta: Tensor) -> float:
        V, W = theta
        return self.activation.lipschitz * _norm(V) * _norm(W) * self.largest_eigenvalue


def _graph(weights: Tensor) -> Tensor:
    """The weights in double precision, after a look at every entry."""
    _checks.shape("weights", weights, ("N", "N"))
    if weights.shape[0] != weights.shape[1] or len(weights) == 0:
        raise ValueError(f"weights: expected a square matrix, received shape {tuple(weights.shape)}")
    a = _checks.finite("weights", weights).detach().double()
    flaws: Mapping[str, Tensor] = {
        "entries of at least 0": a < 0,
        "a symmetric matrix": a != a.mT,
        "a zero diagonal": torch.diag(a.diagonal() != 0),
    }
    for expected, bad in flaws.items():
        if bool(bad.any()):
            i, j = (int(index) for index in bad.nonzero()[0])
            raise ValueError(
                f"weights: expected {expected}, received {a[i, j].item()!r} at ({i}, {j}) "
                f"and {a[j, i].item()!r} at ({j}, {i})"
            )
    return a


class NonLocalMean(Transformation):
    r"""The Gaussian non-local mean, :math:`f(X,\theta)_i=V\Bigl(\sum_jP_{ij}x_j-x_i\Bigr)`.

    .. math:: &P_{ij}=\frac{e^{-|x_i-x_j|^2/h^2}}{\sum_ke^{-|x_i-x_k|^2/h^2}},\\
              &\mathrm{Lip}(f)\le\lVert V\rVert\Bigl[\max(1,2w-1)+\sqrt{\tfrac{N+1}2}
              +2\sqrt{w_1w\,(N-1)}\Bigr],

    with Lambert's function :math:`\mathcal W`, :math:`w=\mathcal W((N-1)/e)` and
    :math:`w_1=\mathcal W(1/e)`: **on the whole space and for every bandwidth h**.
    It is also bounded, :math:`|f(X,\theta)_i|\le\lVert V\rVert\sqrt w\,h`.
    Not sharp: the lower bound known for odd N and V = I is :math:`2\mathcal W((N-1)e^{-3/2})\sim2\ln N`.
    Source: chapter *The dense non-local framework*, the theorem on non-local means.

    Parameters
    ----------
    tokens, features : int
        :math:`N` and :math:`d`; states have shape ``(..., N, d)``.
    bandwidth : float
        :math:`h>0`.

    Notes
    -----
    theta is ``(V,)`` of shape ``(d, d)``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int or the bandwidth is not above 0.

    Examples
    --------
    >>> f = NonLocalMean(tokens=2, features=1)
    >>> f(torch.tensor([[0.0], [1.0]]), (torch.ones(1, 1),)).flatten()
    tensor([ 0.2689, -0.2689])
    >>> round(f.lipschitz((torch.ones(1, 1),)), 4)
    2.7817
    """

    _described_by = ("tokens", "features", "bandwidth")

    def __init__(self, tokens: int, features: int, *, bandwidth: float = 1.0) -> None:
        self.tokens = _checks.positive_int("tokens", tokens)
        self.features = _checks.positive_int("features", features)
        self.bandwidth = _checks.positive_float("bandwidth", bandwidth)
        self.state_shape = (self.tokens, self.features)
        self.parameter_shapes = {"V": (self.features, self.features)}

    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        (V,) = theta
        scaled = x / self.bandwidth
        squares = (scaled[..., :, None, :] - scaled[..., None, :, :]).square().sum(-1)
        return (torch.softmax(-squares, -1) @ x - x) @ V.mT

    def _bound(self, radius: float, *theta: Tensor) -> float:
        (V,) = theta
        N = self.tokens
        w, w1 = _lambert((N - 1) / math.e), _lambert(1 / math.e)
        return _norm(V) * (max(1, 2 * w - 1) + math.sqrt((N + 1) / 2) + 2 * math.sqrt(w1 * w * (N - 1)))


def _lambert(z: float) -> float:
    return float(lambertw(z).real)


class SelfAttention(Transformation):
    r"""Softmax self-attention, :math:`f(X,\theta)_i=\sum_jP_{ij}Vx_j`.

    .. math:: &P_{ij}=\frac{e^{x_i^\top Ax_j}}{\sum_ke^{x_i^\top Ax_k}},\\
              &\mathrm{Lip}(f)\le\lVert V\rVert\Bigl[\sqrt N
              +\Bigl(1+\sqrt{\tfrac N2}\Bigr)\lVert A\rVert R^2\Bigr]\quad\text{on }|x_i|\le R .

    There is no bound on the whole space, but growth is linear:
    :math:`\max_i|f(X,\theta)_i|\le\lVert V\rVert\max_j|x_j|`.
    Sharp to leading order as R and then N grow: :math:`\sqrt{(N-2)/2}\,R^2` is attained.
    Queries and keys of width :math:`d_k` give :math:`A=Q^\top K/\sqrt{d_k}`; heads add up.
    Source: chapter *The dense non-local framework*, the theorem on attention.

    Parameters
    ----------
    tokens, features : int
        :math:`N` and :math:`d`; states have shape ``(..., N, d)``.

    Notes
    -----
    theta is ``(V, A)``, both of shape ``(d, d)``.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int.

    Examples
    --------
    >>> f = SelfAttention(tokens=3, features=2)
    >>> theta = torch.eye(2), torch.zeros(2, 2)  # equal weights: every token sees the mean
    >>> f(torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), theta)
    tensor([[1., 1.],
            [1., 1.],
            [1., 1.]])
    """

    _described_by = ("tokens", "features")

    def __init__(self, tokens: int, features: int) -> None:
        self.tokens = _checks.positive_int("tokens", tokens)
        self.features = _checks.positive_int("features", features)
        d = self.features
        self.state_shape = (self.tokens, d)
        self.parameter_shapes = {"V": (d, d), "A": (d, d)}

    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        V, A = theta
        return torch.softmax(x @ A @ x.mT, -1) @ x @ V.mT

    def _bound(self, radius: float, *theta: Tensor) -> float:
        V, A = theta
        value, sharpness, N = _norm(V), _norm(A), self.tokens
        if value == 0 or sharpness == 0:  # 0 times an infinite radius
            return value * math.sqrt(N)
        return value * (math.sqrt(N) + (1 + math.sqrt(N / 2)) * sharpness * radius**2)
