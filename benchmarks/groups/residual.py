"""A residual network as a differential equation: forward and backward pass against the solvers of others."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.groups.floor import gemm_floor
from benchmarks.groups.gradients import distance, gradient
from benchmarks.groups.ideas import for_residual, kept_layers
from benchmarks.record import Goal
from benchmarks.timing import Candidate, Case
from dnlbook.residual import residual_loop, residual_map

EULER = "torchdiffeq, Euler"
ADJOINT = "torchdiffeq, adjoint"
_TOLERANCE = 2e-5
_SECOND_ADJOINT = 0.1
_SIZES = ((256, 32, 64), (64, 16, 32))


class Field(nn.Module):
    """V tanh(W x + b), with one set of parameters or with one per layer, constant on each step.

    The parameters are kept per layer: one stacked tensor would get a gradient of full size from every layer.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor, Tensor]], depth: int) -> None:
        super().__init__()
        self.V, self.W, self.b = (
            nn.ParameterList(nn.Parameter(part.clone()) for part in parts) for parts in zip(*layers, strict=True)
        )
        self.depth = depth

    def layer(self, k: int, x: Tensor) -> Tensor:
        return torch.tanh(torch.addmm(self.b[k], x, self.W[k].mT)) @ self.V[k].mT

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        if len(self.V) == 1:
            return self.layer(0, x)
        return self.layer(min(max(int(float(t.detach()) * self.depth), 0), self.depth - 1), x)

    def leaves(self, x0: Tensor) -> list[Tensor]:
        return [x0, *self.V, *self.W, *self.b]


class _Problem:
    """Input, parameters, and the exact gradient of the network in double precision."""

    def __init__(self, batch: int, width: int, hidden: int, depth: int, *, tied: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        count = 1 if tied else depth
        self.depth, self.tied = depth, tied
        self.x0 = torch.randn(batch, width, generator=generator).requires_grad_()
        self.V = torch.randn(count, width, hidden, generator=generator) * hidden**-0.5
        self.W = torch.randn(count, hidden, width, generator=generator) * width**-0.5
        self.b = torch.randn(count, hidden, generator=generator) * 0.1
        self.field = Field(list(zip(self.V, self.W, self.b, strict=True)), depth)
        exact = [part.detach().double().requires_grad_() for part in (self.x0, self.V, self.W, self.b)]
        self.reference = gradient(lambda: residual_loop(exact[0], *self.repeat(*exact[1:]), step=1 / depth)[-1], exact)

    def repeat(self, *parts: Tensor) -> list[Tensor]:
        """One set of parameters for all layers as the tensors that a residual network takes."""
        return [part.expand(self.depth, *part.shape[1:]) for part in parts]

    def stack(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients per layer as gradients of stacked tensors."""
        count = len(self.V)
        return [
            gradients[0],
            *(torch.stack(list(gradients[1 + i * count : 1 + (i + 1) * count])) for i in range(3)),
        ]


def _per_layer(
    problem: _Problem,
    name: str,
    solve: Callable[[Tensor], Tensor],
    setting: str,
    tolerance: float = _TOLERANCE,
) -> Candidate:
    """A peer that differentiates through the field."""
    leaves = problem.field.leaves(problem.x0)
    return Candidate(
        name,
        lambda: gradient(lambda: solve(problem.x0), leaves),
        lambda gradients: distance(problem.stack(gradients), problem.reference),
        tolerance,
        setting,
    )


def _ours(problem: _Problem) -> Candidate:
    leaves = [problem.x0, *(part.clone().requires_grad_() for part in (problem.V, problem.W, problem.b))]

    def output() -> Tensor:
        return residual_map(leaves[0], *problem.repeat(*leaves[1:]), step=1 / problem.depth)

    return Candidate(
        "dnlbook",
        lambda: gradient(output, leaves),
        lambda gradients: distance(gradients, problem.reference),
        _TOLERANCE,
        "residual_map",
        "subject",
    )


def _kept(problem: _Problem) -> Callable[[], Any]:
    """The idea of keeping hidden layers, on leaves of its own."""
    leaves = [problem.x0, *(part.clone().requires_grad_() for part in (problem.V, problem.W, problem.b))]
    step = 1 / problem.depth
    return lambda: gradient(lambda: kept_layers(leaves[0], *problem.repeat(*leaves[1:]), step=step), leaves)


def _loop(problem: _Problem) -> Candidate:
    def solve(x: Tensor) -> Tensor:
        field, step = problem.field, 1 / problem.depth
        for k in range(problem.depth):
            kk = 0 if problem.tied else k
            hidden = torch.tanh(torch.addmm(field.b[kk], x, field.W[kk].mT))
            x = torch.addmm(x, hidden, field.V[kk].mT, alpha=step)
        return x

    return _per_layer(problem, "PyTorch loop", solve, "autograd, step fused into the product")


def _torchdiffeq(problem: _Problem) -> tuple[Candidate, list[Candidate]]:
    import torchdiffeq

    field, depth = problem.field, problem.depth
    ends, fine = torch.tensor([0.0, 1.0]), torch.linspace(0, 1, depth + 1)
    options = {"step_size": 1 / depth} | ({} if problem.tied else {"perturb": True})

    def euler(x: Tensor) -> Tensor:
        return torchdiffeq.odeint(field, x, ends, method="euler", options=options)[-1]

    def adjoint(x: Tensor) -> Tensor:
        return torchdiffeq.odeint_adjoint(field, x, ends, method="euler", options=options)[-1]

    layers = [Field([(V, W, b)], 1) for V, W, b in zip(problem.V, problem.W, problem.b, strict=True)]
    for k, layer in enumerate(layers):  # the same parameters, so that gradients are asked of the same leaves
        layer.V[0], layer.W[0], layer.b[0] = field.V[k], field.W[k], field.b[k]

    def adjoint_by_layer(x: Tensor) -> Tensor:
        for k, layer in enumerate(layers):
            x = torchdiffeq.odeint_adjoint(layer, x, fine[k : k + 2], method="euler")[-1]
        return x

    adjoints = [_per_layer(problem, ADJOINT, adjoint, "odeint_adjoint, method='euler', one call", _SECOND_ADJOINT)]
    if not problem.tied:
        adjoints.append(
            _per_layer(problem, ADJOINT, adjoint_by_layer, "odeint_adjoint, one call per layer", _SECOND_ADJOINT)
        )
    return _per_layer(problem, EULER, euler, "odeint, method='euler'"), adjoints


def _torchode(problem: _Problem) -> Candidate:
    import torchode

    batch, depth = len(problem.x0), problem.depth
    term = torchode.ODETerm(_OneTime(problem.field))  # type: ignore[arg-type]
    solver = torchode.AutoDiffAdjoint(torchode.Euler(term=term), torchode.FixedStepController())
    start, end, step = torch.zeros(batch), torch.ones(batch), torch.full((batch,), 1 / depth)

    def solve(x: Tensor) -> Tensor:
        initial = torchode.InitialValueProblem(y0=x, t_start=start, t_end=end)
        return solver.solve(initial, dt0=step).ys[:, -1]

    return _per_layer(problem, "torchode, Euler", solve, "AutoDiffAdjoint, FixedStepController")


class _OneTime(nn.Module):
    """A field whose batch shares the time, for a solver that has one time per sample."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.field(t if t.ndim == 0 else t[0], x)


def _jax(problem: _Problem) -> list[Candidate | list[Candidate]]:
    """Diffrax, and the bare scan that it compiles to, both compiled before they are timed."""
    jax: Any = importlib.import_module("jax")
    diffrax: Any = importlib.import_module("diffrax")
    jnp, depth = jax.numpy, problem.depth
    parameters = tuple(jnp.asarray(part.numpy()) for part in (problem.V, problem.W, problem.b))
    x0 = jnp.asarray(problem.x0.detach().numpy())

    def field(x: Any, layer: Any) -> Any:
        V, W, b = layer
        return jnp.tanh(x @ W.T + b) @ V.T

    def at(parameters: Any, k: Any) -> Any:
        return tuple(part[0 if problem.tied else k] for part in parameters)

    def vector_field(t: Any, x: Any, parameters: Any) -> Any:
        return field(x, at(parameters, jnp.clip((t * depth + 0.5).astype(int), 0, depth - 1)))

    def diffrax_loss(adjoint: Any, x: Any, parameters: Any) -> Any:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(vector_field),
            diffrax.Euler(),
            0.0,
            1.0,
            1 / depth,
            x,
            args=parameters,
            adjoint=adjoint,
            max_steps=depth,
        )
        return 0.5 * (solution.ys[-1] ** 2).sum()

    def scan_loss(x: Any, parameters: Any) -> Any:
        if problem.tied:
            layer = at(parameters, 0)
            last, _ = jax.lax.scan(lambda x, _: (x + field(x, layer) / depth, None), x, None, length=depth)
        else:
            last, _ = jax.lax.scan(lambda x, layer: (x + field(x, layer) / depth, None), x, parameters)
        return 0.5 * (last**2).sum()

    def candidate(name: str, loss: Callable[..., Any], setting: str) -> Candidate:
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))

        def error(gradients: Any) -> float:
            by_x, by_parameters = gradients
            values = [torch.tensor(jax.device_get(part)) for part in (by_x, *by_parameters)]
            return distance(values, problem.reference)

        return Candidate(name, lambda: jax.block_until_ready(compiled(x0, parameters)), error, _TOLERANCE, setting)

    adjoints = {
        "RecursiveCheckpointAdjoint": diffrax.RecursiveCheckpointAdjoint(checkpoints=depth),
        "DirectAdjoint": diffrax.DirectAdjoint(),
    }
    return [
        [
            candidate("diffrax, Euler", functools.partial(diffrax_loss, adjoint), f"jit, {name}")
            for name, adjoint in adjoints.items()
        ],
        candidate("JAX scan", scan_loss, "jit, lax.scan"),
    ]


def cases(quick: bool) -> Iterator[Case]:
    warnings.filterwarnings("ignore", module="torchode|torchtyping|diffrax|equinox|jax")
    depth = 4 if quick else 64
    for tied in (False, True):
        for batch, width, hidden in ((8, 4, 4),) if quick else _SIZES:
            problem = _Problem(batch, width, hidden, depth, tied=tied)
            subject, (euler, adjoint) = _ours(problem), _torchdiffeq(problem)
            kind = "tied" if tied else "layers"
            yield Case(
                f"residual-{kind}-{batch}",
                f"{'tied' if tied else 'layers'}, B = {batch}",
                "gradient of half the squared norm of the output of a residual network with "
                + ("one set of parameters for all layers" if tied else "parameters of their own in every layer")
                + f", B = {batch}, L = {depth}, n = {width}, m = {hidden}, float32",
                "gradients of input and parameters against a loop in float64, relative to the largest entry; "
                f"the second adjoint may be wrong by {_SECOND_ADJOINT:g}",
                (
                    subject,
                    _loop(problem),
                    euler,
                    adjoint,
                    _torchode(problem),
                    *_jax(problem),
                    gemm_floor(12.0 * batch * width * hidden * depth, size=64 if quick else 1024),
                    *for_residual(subject, _kept(problem)),
                ),
                (Goal(1.9, at_least=EULER), Goal(6.0, at_least=ADJOINT)),
            )
