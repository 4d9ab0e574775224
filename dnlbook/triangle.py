"""Piecewise linear functions on the triangle of pairs (time, earlier time): norms, refinement, Sobolev variables.

The parameters of a dense network are nodal values on this mesh, and the penalty of the learning problem is the
H1 norm of the function they interpolate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dnlbook import _checks
from dnlbook.dense import pair_index

MASSES = ("exact", "lumped", "reflected")


@dataclass(frozen=True)
class _Layout:
    """The mesh of one depth in units of the step; nodes are ordered by source k, then by target l."""

    l: Tensor  # (N,) and (N,): the node at each place
    k: Tensor
    mirror: Tensor  # (L + 1, L + 1): the place of (max, min)
    edges: Tensor  # (E, 2): the legs of the triangles
    weights: Tensor  # (E,): 1, or 1/2 on the boundary
    cells: Tensor  # (L^2, 3): the triangles
    lumped: Tensor  # (N,): a third of the area around a node
    reflected: Tensor  # (N,): half a trapezoid rule on the square
    cosines: Tensor  # (L + 1, L + 1): cos(pi i l / L)
    scale: Tensor  # (N,): 1 or 2^(-1/2), off the diagonal


@lru_cache(maxsize=32)
def _layout(depth: int) -> _Layout:
    i = torch.arange(depth + 1)
    row, column = torch.meshgrid(i, i, indexing="ij")
    keep = (column.mT <= row.mT).nonzero().mT  # sources in front: k is the slow index
    k, l = keep[0], keep[1]
    place = torch.zeros(depth + 1, depth + 1, dtype=torch.long)
    place[l, k] = torch.arange(len(l))
    mirror = place[torch.maximum(row, column), torch.minimum(row, column)]
    along_t, along_s, inside = l < depth, k < l, (l < depth) & (k < l)
    edges = torch.cat(
        [
            torch.stack([place[l, k][along_t], place[l[along_t] + 1, k[along_t]]], 1),
            torch.stack([place[l, k][along_s], place[l[along_s], k[along_s] + 1]], 1),
        ]
    )
    border = torch.cat([k[along_t] == 0, l[along_s] == depth])
    a, b = l[along_t], k[along_t]
    below = torch.stack([place[a, b], place[a + 1, b], place[a + 1, b + 1]], 1)
    a, b = l[inside], k[inside]
    above = torch.stack([place[a, b], place[a, b + 1], place[a + 1, b + 1]], 1)
    cells = torch.cat([below, above])
    ends = torch.ones(depth + 1, dtype=torch.float64)
    ends[[0, -1]] = 0.5
    return _Layout(
        l=l,
        k=k,
        mirror=mirror,
        edges=edges,
        weights=1 - 0.5 * border.double(),
        cells=cells,
        lumped=torch.bincount(cells.flatten(), minlength=len(l)).double() / 6,
        reflected=ends[l] * ends[k] * (1 - 0.5 * (l == k).double()),
        # the angle is reduced in integers: no rounding for large i l
        cosines=torch.cos(math.pi / depth * (torch.outer(i, i) % (2 * depth)).double()),
        scale=0.5 ** (0.5 * (l != k).double()),
    )


def _column(weights: Tensor, values: Tensor) -> Tensor:
    """Weights of the first axis, ready to multiply values of shape (N, *p)."""
    return weights.to(values).view(-1, *(1,) * (values.ndim - 1))


def _take(values: Tensor, places: Tensor) -> Tensor:
    """values[places] along the first axis; faster backward than indexing."""
    picked = values.index_select(0, places.flatten().to(values.device))
    return picked.view(*places.shape, *values.shape[1:])


def _length(parts: Tensor) -> Tensor:
    """The root of the sum of squares, with derivative 0 at 0."""
    length: Tensor = torch.linalg.vector_norm(parts)
    return length


@dataclass(frozen=True)
class TriangleMesh:
    r"""The P1 mesh on :math:`\Delta=\{0\le s\le t\le T\}` with nodes :math:`(t_l,s_k)`, :math:`0\le k\le l\le L`.

    Each square :math:`[t_l,t_{l+1}]\times[s_k,s_{k+1}]` is cut by its diagonal from (l, k) to (l + 1, k + 1).
    A continuous piecewise linear function :math:`E_L\theta` is given by nodal values of shape ``(N, *p)``, ordered
    by source k and then by target l, as ``pair_index(l, k, L, diagonal=True)`` says.
    The exact energy of such a function is a sum over the legs of the triangles,

    .. math:: |E_L\theta|_{H^1(\Delta)}^2=\sum_{e=(a,b)}\omega_e|\theta_b-\theta_a|^2,

    where :math:`\omega_e=\frac12` on the two legs of :math:`\Delta` and 1 inside.
    Source: chapter *Optimal values converge with depth*.

    Parameters
    ----------
    depth : int
        :math:`L\ge1`.
    horizon : float
        :math:`T>0`.

    Raises
    ------
    ValueError, TypeError
        If depth is not a positive int or horizon not a positive number.

    Examples
    --------
    >>> mesh = TriangleMesh(2)
    >>> mesh.size, mesh.step, mesh.pairs.tolist()
    (6, 0.5, [1, 2, 4])
    >>> round(float(mesh.h1_seminorm(mesh.sample(lambda t, s: 3 * t - 4 * s))) ** 2, 10)  # 25 times the area
    12.5
    """

    depth: int
    horizon: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _checks.positive_int("depth", self.depth))
        object.__setattr__(self, "horizon", _checks.positive_float("horizon", self.horizon))

    @property
    def _layout(self) -> _Layout:
        return _layout(self.depth)

    @property
    def step(self) -> float:
        r"""The step :math:`\tau=T/L`."""
        return self.horizon / self.depth

    @property
    def size(self) -> int:
        """The number of nodes N = (L + 1)(L + 2)/2."""
        return (self.depth + 1) * (self.depth + 2) // 2

    @property
    def t(self) -> Tensor:
        """The time of each node, shape ``(N,)``, float64."""
        return self._layout.l.double() * self.horizon / self.depth

    @property
    def s(self) -> Tensor:
        """The earlier time of each node, shape ``(N,)``, float64."""
        return self._layout.k.double() * self.horizon / self.depth

    @property
    def pairs(self) -> Tensor:
        """The nodes with k < l, in the order in which a dense network packs its pairs, shape ``(L (L + 1)/2,)``."""
        return (self._layout.k < self._layout.l).nonzero().squeeze(1)

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        r"""The legs of the triangles as pairs of nodes ``(E, 2)``, and their weights :math:`\omega_e` ``(E,)``."""
        return self._layout.edges.clone(), self._layout.weights.clone()

    @property
    def refined(self) -> TriangleMesh:
        """The mesh of depth 2 L; it contains this one."""
        return TriangleMesh(2 * self.depth, self.horizon)

    def index(self, l: int, k: int) -> int:
        """Return the place of the node (l, k).

        Raises
        ------
        IndexError
            Unless 0 <= k <= l <= L.
        """
        return pair_index(l, k, self.depth, diagonal=True)

    def row(self, l: int) -> Tensor:
        """Return the nodes (l, 0), ..., (l, l): what layer l remembers, shape ``(l + 1,)``.

        Raises
        ------
        IndexError
            Unless 0 <= l <= L.
        """
        if not 0 <= l <= self.depth:
            raise IndexError(f"l: expected a row in 0 .. {self.depth}, received {l!r}")
        return self._layout.mirror[l, : l + 1].clone()

    def sample(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the nodal values of a function of t and s, shape ``(N, *p)``.

        Raises
        ------
        ValueError, TypeError
            If ``function(t, s)`` does not return a finite tensor with N values in front.

        Examples
        --------
        >>> TriangleMesh(1).sample(lambda t, s: t + 10 * s)
        tensor([ 0.,  1., 11.], dtype=torch.float64)
        """
        return _checks.finite("function(t, s)", self._nodal("function(t, s)", function(self.t, self.s)))

    def _nodal(self, name: str, values: Tensor) -> Tensor:
        array = _checks.tensor(name, values)
        if array.ndim == 0 or len(array) != self.size:
            expected = f"{self.size} nodal values in front for depth {self.depth}"
            raise ValueError(f"{name}: expected {expected}, received shape {tuple(array.shape)}")
        return array

    def square(self, values: Tensor) -> Tensor:
        """Return values as a picture of shape ``(L + 1, L + 1, *p)``, entry [l, k], NaN for k > l.

        Examples
        --------
        >>> TriangleMesh(1).square(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., nan],
                [2., 3.]])
        """
        picture = self._reflect(self._nodal("values", values)).clone()
        above = torch.ones(picture.shape[:2], dtype=torch.bool).triu(1)
        picture[above] = float("nan")
        return picture

    def _reflect(self, values: Tensor) -> Tensor:
        return _take(values, self._layout.mirror)

    def h1_seminorm(self, values: Tensor) -> Tensor:
        r"""Return :math:`|E_L\theta|_{H^1(\Delta)}`, the norm of the gradient, exact for P1 functions.

        Vector-valued functions: the root of the sum of squares over components.  Differentiable, with derivative
        0 at a constant.

        Examples
        --------
        >>> float(TriangleMesh(4).h1_seminorm(torch.ones(15)))
        0.0
        """
        return _length(self._slopes(self._nodal("values", values)))

    def l2_norm(self, values: Tensor, mass: str = "exact") -> Tensor:
        r"""Return a norm of :math:`L^2(\Delta)`, exact for P1 functions or by a nodal quadrature.

        ``"lumped"`` integrates each triangle by its corners and is the larger one:
        :math:`0\le\|\theta\|^2_{lumped}-\|E_L\theta\|^2\le\frac{\tau^2}4|E_L\theta|^2_{H^1}`.
        ``"reflected"`` is half the trapezoid rule of the square for :math:`\theta(\max,\min)`; the H1 norm with it is
        diagonal in cosines, see :meth:`nodal_to_sobolev`.

        Raises
        ------
        ValueError
            If the mass is unknown or values do not have N entries in front.

        Examples
        --------
        >>> [round(float(TriangleMesh(1).l2_norm(torch.ones(3), mass)) ** 2, 6) for mass in MASSES]
        [0.5, 0.5, 0.5]
        """
        return _length(self._values(self._nodal("values", values), mass))

    def h1_norm(self, values: Tensor, mass: str = "exact") -> Tensor:
        r"""Return :math:`(|E_L\theta|^2_{H^1}+\|\theta\|^2)^{1/2}` with the mass of :meth:`l2_norm`; differentiable.

        Raises
        ------
        ValueError
            If the mass is unknown or values do not have N entries in front.

        Examples
        --------
        >>> mesh = TriangleMesh(3)
        >>> values = torch.randn(mesh.size, 2)
        >>> z = mesh.nodal_to_sobolev(values)
        >>> torch.allclose(mesh.h1_norm(values, "reflected"), torch.linalg.vector_norm(z))
        True
        """
        nodal = self._nodal("values", values)
        return _length(torch.cat([self._slopes(nodal), self._values(nodal, mass)]))

    def _slopes(self, values: Tensor) -> Tensor:
        """Numbers whose squares add up to the energy."""
        ends = _take(values, self._layout.edges.mT)
        return ((ends[1] - ends[0]) * _column(self._layout.weights.sqrt(), values)).flatten()

    def _values(self, values: Tensor, mass: str) -> Tensor:
        """Numbers whose squares add up to the squared L2 norm."""
        if _checks.choice("mass", mass, MASSES) == "exact":
            corners = _take(values, self._layout.cells.mT)
            return torch.cat([corners.flatten(), corners.sum(0).flatten()]) * (self.step / math.sqrt(24))
        return (values * _column(self.mass(mass).sqrt(), values)).flatten()

    def mass(self, mass: str = "lumped") -> Tensor:
        r"""Return the weights :math:`m_{lk}` of the nodes in the squared L2 norm, shape ``(N,)``, float64.

        Parameters
        ----------
        mass : {"lumped", "reflected"}
            :math:`\frac{\tau^2}6` times the number of triangles at the node, or :math:`\tau^2` inside,
            :math:`\frac{\tau^2}2` on edges, :math:`\frac{\tau^2}8,\frac{\tau^2}4,\frac{\tau^2}8` in the corners
            (0, 0), (L, 0), (L, L).

        Raises
        ------
        ValueError
            If the mass is not a nodal one.

        Examples
        --------
        >>> (TriangleMesh(1).mass("lumped") * 6).tolist(), (TriangleMesh(1).mass("reflected") * 8).tolist()
        ([1.0, 1.0, 1.0], [1.0, 2.0, 1.0])
        """
        chosen = _checks.choice("mass", mass, MASSES[1:])
        return self.step**2 * (self._layout.lumped if chosen == "lumped" else self._layout.reflected)

    def _frequency_weights(self) -> Tensor:
        """Norm of the cosine at each place (i, j), i >= j, in the H1 norm with the reflected mass."""
        i, j, depth = self._layout.l, self._layout.k, self.depth
        wave = 2 / self.step**2 * (1 - self._layout.cosines[1])
        length = torch.full((depth + 1,), 0.5, dtype=torch.float64)
        length[[0, -1]] = 1.0
        return self.horizon * (0.5 * (1 + wave[i] + wave[j]) * length[i] * length[j]).sqrt()

    def nodal_to_sobolev(self, values: Tensor) -> Tensor:
        r"""Return the coordinates z of nodal values in an orthonormal basis of the reflected H1 norm,

        .. math:: |z|^2=\|\theta\|^2_{H^1,reflected}.

        The basis is :math:`\cos\frac{\pi il}L\cos\frac{\pi jk}L+\cos\frac{\pi jl}L\cos\frac{\pi ik}L`, normalized:
        a cosine transform in each variable, and no matrix of size N.  Differentiable.

        Parameters
        ----------
        values : Tensor, shape ``(N, *p)``

        Returns
        -------
        Tensor, shape ``(N, *p)``
            The coefficient of the pair of frequencies (i, j), i >= j, at ``index(i, j)``.

        Examples
        --------
        >>> TriangleMesh(2).nodal_to_sobolev(torch.ones(6, dtype=torch.float64)).abs().round(decimals=6)
        tensor([0.7071, 0.0000, 0.0000, 0.0000, 0.0000, 0.0000], dtype=torch.float64)
        """
        nodal = self._nodal("values", values)
        ends = torch.ones(self.depth + 1, dtype=torch.float64)
        ends[[0, -1]] = 0.5
        inverse = 2 / self.depth * torch.outer(ends, ends) * self._layout.cosines
        spectrum = self._transform(inverse, nodal)
        return spectrum * _column(self._frequency_weights() / self._layout.scale, nodal)

    def sobolev_to_nodal(self, z: Tensor) -> Tensor:
        r"""Return the nodal values of coordinates z: the inverse of :meth:`nodal_to_sobolev`.  Differentiable.

        Examples
        --------
        >>> mesh = TriangleMesh(3)
        >>> values = torch.randn(mesh.size, 2, dtype=torch.float64)
        >>> torch.allclose(mesh.sobolev_to_nodal(mesh.nodal_to_sobolev(values)), values)
        True
        """
        spectrum = self._nodal("z", z)
        spectrum = spectrum * _column(self._layout.scale / self._frequency_weights(), spectrum)
        return self._transform(self._layout.cosines, spectrum)

    def riesz(self, functional: Tensor, mass: str = "reflected") -> Tensor:
        r"""Return nodal values of the function u that represents a linear functional in the H1 inner product,

        .. math:: \langle u,v\rangle_{H^1}=\sum_{l\ge k}c_{lk}v_{lk}\quad\text{for all nodal values }v .

        Its squared norm :math:`c\cdot u` is that of the functional; its inverse is the capacity of the functional.
        With the reflected mass the equations are diagonal in cosines; the lumped mass differs in three corners only.

        Parameters
        ----------
        functional : Tensor, shape ``(N, *p)``
            The coefficients :math:`c_{lk}`.
        mass : {"reflected", "lumped"}

        Raises
        ------
        ValueError
            If the mass is not a nodal one or the coefficients do not have N entries in front.

        Examples
        --------
        >>> mesh = TriangleMesh(4)
        >>> mean = mesh.mass("lumped")  # the functional "integral of v" is represented by 1
        >>> torch.allclose(mesh.riesz(mean, "lumped"), torch.ones(mesh.size, dtype=torch.float64))
        True
        """
        c, layout = self._nodal("functional", functional), self._layout
        if _checks.choice("mass", mass, MASSES[1:]) == "reflected":
            twice = _column(1 + (layout.l == layout.k).double(), c)
            spectrum = self._transform(layout.cosines, c * twice)
            return self._transform(layout.cosines, spectrum * _column(0.5 / self._frequency_weights() ** 2, c))
        corners = layout.mirror[[0, -1, -1], [0, 0, -1]]
        peaks = c.new_zeros(self.size, 3)
        peaks[corners, [0, 1, 2]] = 1.0
        rest, response = self.riesz(c), self.riesz(peaks)  # K + E D E^T by Woodbury's formula
        gap = (self.mass("lumped") - self.mass("reflected"))[corners].to(c)
        strength: Tensor = torch.linalg.solve((1 / gap).diag() + response[corners], rest[corners].reshape(3, -1))
        return rest - (response @ strength).view(rest.shape)

    def _transform(self, matrix: Tensor, values: Tensor) -> Tensor:
        """The symmetric square of values, transformed in both variables, on the triangle again."""
        A, width = matrix.to(values), self.depth + 1
        square = self._reflect(values).reshape(width, -1)
        half = (A @ square).view(width, width, -1)
        full = (A @ half.transpose(0, 1).reshape(width, -1)).view(width * width, *values.shape[1:])
        return full.index_select(0, (self._layout.l * width + self._layout.k).to(values.device))

    def prolong(self, values: Tensor) -> Tensor:
        """Return the values of the same P1 function on the refined mesh, exactly.

        Examples
        --------
        >>> TriangleMesh(1).prolong(torch.tensor([0.0, 2.0, 4.0]))
        tensor([0., 1., 2., 2., 3., 4.])
        """
        nodal, fine = self._nodal("values", values), _layout(2 * self.depth)
        lower = self._layout.mirror[fine.l // 2, fine.k // 2]
        upper = self._layout.mirror[(fine.l + 1) // 2, (fine.k + 1) // 2]
        return 0.5 * (_take(nodal, lower) + _take(nodal, upper))

    def interpolate(self, values: Tensor, t: Tensor, s: Tensor) -> Tensor:
        r"""Return :math:`(E_L\theta)(t,s)` at points of the triangle, shape ``(*points, *p)``; differentiable.

        Parameters
        ----------
        values : Tensor, shape ``(N, *p)``
        t, s : Tensor of one shape
            :math:`0\le s\le t\le T`, up to rounding.

        Raises
        ------
        ValueError
            If t and s differ in shape or a point lies outside of the triangle (the message says which).

        Examples
        --------
        >>> mesh = TriangleMesh(2)
        >>> values = mesh.sample(lambda t, s: t - 2 * s)
        >>> mesh.interpolate(values, torch.tensor([0.9, 0.4]), torch.tensor([0.2, 0.4])).round(decimals=6)
        tensor([ 0.5000, -0.4000], dtype=torch.float64)
        """
        nodal = self._nodal("values", values)
        _checks.shape("s", s, _checks.tensor("t", t).shape)
        slack = 1e-9 * self.horizon if t.dtype == torch.float64 else 1e-5 * self.horizon
        outside = ~((s >= -slack) & (s <= t + slack) & (t <= self.horizon + slack))
        if bool(outside.any()):
            bad = outside.nonzero()[0].tolist()
            point = f"({t[tuple(bad)].item():.6g}, {s[tuple(bad)].item():.6g})"
            raise ValueError(f"t, s: expected 0 <= s <= t <= {self.horizon:g}, received {point} at index {bad}")
        x, y = t.to(nodal) / self.step, s.to(nodal) / self.step
        l = x.detach().floor().long().clamp(0, self.depth - 1)
        k = torch.minimum(y.detach().floor().long().clamp(min=0), l)
        a, b = x - l, y - k
        below = (b <= a) | (k == l)  # rounding may put a point of the diagonal above it
        middle_l, middle_k = torch.where(below, l + 1, l), torch.where(below, k, k + 1)
        corners = [(l, k), (middle_l, middle_k), (l + 1, k + 1)]
        low, middle, high = (_take(nodal, self._layout.mirror[i, j]) for i, j in corners)
        shape = (*t.shape, *(1,) * (nodal.ndim - 1))
        first, last = torch.where(below, a, b).view(shape), torch.where(below, b, a).view(shape)
        point_values: Tensor = low + first * (middle - low) + last * (high - middle)
        return point_values
