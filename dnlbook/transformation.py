"""What every feature transformation has in common: a map, the shapes of its parameters, a proved bound."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from dnlbook import _checks


class Transformation(ABC):
    r"""A map :math:`x\mapsto f(x,\theta)` from states to states of the same shape.

    Call it as ``f(x, theta)``: a pure function of both, differentiable, and open to ``torch.func.vmap``.
    States have any number of batch dimensions in front; theta is a tuple without any.
    Distances are Euclidean norms of the whole state.
    Source: chapter *The dense non-local framework*.

    Attributes
    ----------
    state_shape : tuple of int
        ``(n,)`` for vectors, ``(N, d)`` for N positions with d features each.
    parameter_shapes : dict of str to tuple of int
        Names and shapes of the entries of theta, in their order.

    Examples
    --------
    >>> from dnlbook.transforms import SelfAttention
    >>> f = SelfAttention(tokens=5, features=2)
    >>> f.state_shape, f.parameter_shapes
    ((5, 2), {'V': (2, 2), 'A': (2, 2)})
    """

    state_shape: tuple[int, ...]
    parameter_shapes: dict[str, tuple[int, ...]]
    _described_by: ClassVar[tuple[str, ...]]

    def __call__(self, x: Tensor, theta: Sequence[Tensor]) -> Tensor:
        r"""Return :math:`f(x,\theta)`, of the shape of x.

        Parameters
        ----------
        x : Tensor, shape ``(..., *state_shape)``
        theta : sequence of Tensor
            Of the shapes ``parameter_shapes`` and of the dtype and device of x.

        Raises
        ------
        TypeError, ValueError
            If a tensor does not fit in kind, number or shape, or a value is not finite.  Values are not
            inspected inside ``torch.func.vmap``, where they are not at hand.
        """
        parameters = self._checked(theta)
        self._check_state(x)
        _checks.same_kind("x", x, f"theta[0] ({next(iter(self.parameter_shapes))})", parameters[0])
        return self._finite(self._map(x, *parameters), x, parameters)

    def lipschitz(self, theta: Sequence[Tensor], radius: float = math.inf) -> float:
        r"""Return a bound for the Lipschitz constant of :math:`x\mapsto f(x,\theta)`.

        It holds on the set of all states whose positions satisfy :math:`|x_i|\le R`; the formula and its
        proof belong to the class.  Only self-attention depends on R.

        Parameters
        ----------
        theta : sequence of Tensor
        radius : float
            :math:`R\ge0`; infinite, the whole space, unless given.

        Returns
        -------
        float
            Infinite where there is no bound.

        Raises
        ------
        TypeError, ValueError
            If theta does not fit or is not finite, or the radius is negative or not a number.

        Examples
        --------
        >>> from dnlbook.transforms import SelfAttention
        >>> f, theta = SelfAttention(tokens=2, features=1), (torch.ones(1, 1), torch.ones(1, 1))
        >>> round(f.lipschitz(theta, radius=1.0), 4), f.lipschitz(theta)
        (3.4142, inf)
        """
        R = math.inf if radius == math.inf else _checks.nonnegative_float("radius", radius)
        parameters = self._checked(theta)
        for position, name in enumerate(self.parameter_shapes):
            _checks.finite(f"theta[{position}] ({name})", parameters[position])
        return float(self._bound(R, *(value.detach().double() for value in parameters)))

    def jacobian_norm(self, x: Tensor, theta: Sequence[Tensor]) -> Tensor:
        r"""Return :math:`\lVert D_xf(x,\theta)\rVert_2`, one number per state; differentiable.

        The Lipschitz constant on a convex set is the supremum of this norm: every value is a lower bound.

        Parameters
        ----------
        x : Tensor, shape ``(..., *state_shape)``
        theta : sequence of Tensor

        Returns
        -------
        Tensor, shape ``(...)``

        Raises
        ------
        TypeError, ValueError
            As for calling f.

        Examples
        --------
        >>> from dnlbook.transforms import FullyConnected
        >>> f = FullyConnected(width=1)
        >>> f.jacobian_norm(torch.zeros(3, 1), (torch.ones(1, 1), 2 * torch.ones(1, 1), torch.zeros(1)))
        tensor([2., 2., 2.])
        """
        self(x, theta)
        batch = x.shape[: x.ndim - len(self.state_shape)]
        if 0 in batch:
            return x.new_zeros(batch)
        size = math.prod(self.state_shape)
        jacobian = torch.func.vmap(torch.func.jacrev(lambda state: self(state, theta)))
        matrices = jacobian(x.reshape(-1, *self.state_shape)).reshape(-1, size, size)
        norms: Tensor = torch.linalg.matrix_norm(matrices, 2)
        return norms.reshape(batch)

    def initial(
        self, *, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, ...]:
        r"""Draw theta: matrices from :math:`N(0,1/\text{inputs})`, biases zero.

        Parameters
        ----------
        generator : torch.Generator, optional
            Torch's global one unless given; its device is that of theta.
        dtype : torch.dtype, optional
            Torch's default unless given.

        Raises
        ------
        TypeError
            If dtype is not a floating-point dtype.

        Examples
        --------
        >>> from dnlbook.transforms import Convolution
        >>> [part.shape for part in Convolution(positions=8, taps=3).initial()]
        [torch.Size([3, 1, 1]), torch.Size([3, 1, 1]), torch.Size([1])]
        """
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype: expected a floating-point dtype, received {dtype}")
        device = None if generator is None else generator.device

        def draw(shape: tuple[int, ...]) -> Tensor:
            if len(shape) == 1:
                return torch.zeros(shape, dtype=dtype, device=device)
            inputs = math.prod(shape) // shape[-2]
            return torch.randn(shape, generator=generator, dtype=dtype, device=device) / math.sqrt(inputs)

        return tuple(draw(shape) for shape in self.parameter_shapes.values())

    def __repr__(self) -> str:
        described = (f"{name}={getattr(self, name)!r}" for name in self._described_by)
        return f"{type(self).__name__}({', '.join(described)})"

    @abstractmethod
    def _map(self, x: Tensor, *theta: Tensor) -> Tensor:
        """The formula, for arguments that fit."""

    @abstractmethod
    def _bound(self, radius: float, *theta: Tensor) -> float:
        """The bound, for arguments that fit, in double precision."""

    def _checked(self, theta: Sequence[Tensor]) -> Sequence[Tensor]:
        names = ", ".join(self.parameter_shapes)
        if not isinstance(theta, tuple | list):
            raise TypeError(f"theta: expected a tuple ({names}), received {type(theta).__name__}")
        if len(theta) != len(self.parameter_shapes):
            raise ValueError(f"theta: expected {len(self.parameter_shapes)} tensors ({names}), received {len(theta)}")
        for position, (name, shape) in enumerate(self.parameter_shapes.items()):
            _checks.shape(f"theta[{position}] ({name})", theta[position], shape)
            _checks.same_kind(f"theta[{position}] ({name})", theta[position], "theta[0]", theta[0])
        return theta

    def _check_state(self, x: Tensor) -> None:
        _checks.tensor("x", x)
        if tuple(x.shape[-len(self.state_shape) :]) != self.state_shape:
            wanted = ", ".join(map(str, self.state_shape))
            raise ValueError(f"x: expected shape (..., {wanted}), received {tuple(x.shape)}")

    def _finite(self, value: Tensor, x: Tensor, theta: Sequence[Tensor]) -> Tensor:
        """One look at the result; the arguments are searched only when it is not finite."""
        try:
            healthy = bool(torch.isfinite(value).all())
        except RuntimeError:  # inside torch.func.vmap a value is not one number
            return value
        if healthy:
            return value
        _checks.finite("x", x)
        for position, name in enumerate(self.parameter_shapes):
            _checks.finite(f"theta[{position}] ({name})", theta[position])
        raise ValueError(
            f"x: expected a state whose image is finite in {x.dtype}, received entries up to "
            f"{x.abs().max().item():g}; the state may have blown up"
        )
