"""What was tried to make the library faster, kept as code so that its effect is measured in every run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import Candidate
from dnlbook import _online, dense, residual
from dnlbook._phi import Phi


def changed(module: ModuleType, run: Callable[[], Any], **values: Any) -> Callable[[], Any]:
    """The function with other values of names of a module, which must exist, while it runs."""
    before = {name: getattr(module, name) for name in values}

    def with_values() -> Any:
        for name, value in values.items():
            setattr(module, name, value)
        try:
            return run()
        finally:
            for name, value in before.items():
                setattr(module, name, value)

    return with_values


def idea(subject: Candidate, text: str, run: Callable[[], Any]) -> Candidate:
    """A candidate like the subject, checked like it, that runs something else."""
    return replace(subject, name=f"dnlbook: {text}", run=run, setting=text, kind="idea")


def _tanh(_: Any) -> Phi:
    """The activation as it is, in place of the logistic function with scales."""
    return Phi(torch.Tensor.tanh_, lambda g, h: torch.ops.aten.tanh_backward.grad_input(g, h, grad_input=g))


def for_dense(subject: Candidate) -> list[Candidate]:
    """Other tiles of features in flight, and tanh itself."""
    run = subject.run
    return [
        idea(subject, "tiles of 128 kB, not 512", changed(dense, run, _SCRATCH_BYTES=1 << 17)),
        idea(subject, "tiles of 2 MB, not 512 kB", changed(dense, run, _SCRATCH_BYTES=1 << 21)),
        idea(subject, "tanh itself, not the logistic function", changed(dense, run, phi_of=_tanh)),
    ]


def for_volterra(subject: Candidate) -> list[Candidate]:
    """No record for gradients: what is left is the work itself."""
    return [idea(subject, "inference mode", torch.inference_mode()(subject.run))]


def for_convolution(subject: Candidate) -> list[Candidate]:
    """Other blocks, other numbers of parts per level, and no record for gradients."""
    run = subject.run
    return [
        idea(subject, "blocks of 128 steps, not 256", changed(_online, run, _BLOCK=128)),
        idea(subject, "blocks of 512 steps, not 256", changed(_online, run, _BLOCK=512)),
        idea(subject, "2 parts per level, not 8", changed(_online, run, _RADIX=2)),
        idea(subject, "no predicted block", changed(_online, run, _PREDICTOR=0)),
        idea(subject, "inference mode", torch.inference_mode()(run)),
    ]


class _KeptLayers(torch.autograd.Function):
    """The residual network with its hidden layers kept, so that the backward pass has one product less.

    As in the library tanh z = 2 s(2 z) - 1 with the logistic function s, which is what is kept.
    """

    @staticmethod
    def forward(ctx: Any, x0: Tensor, V: Tensor, W: Tensor, b: Tensor, step: float) -> Tensor:
        depth, _, m = V.shape
        states, hidden = x0.new_empty(depth + 1, *x0.shape), x0.new_empty(depth, len(x0), m)
        states[0] = x0
        doubled, constant = 2 * b, -step * V.sum(2)
        for k in range(depth):
            torch.addmm(doubled[k], states[k], W[k].mT, alpha=2, out=hidden[k]).sigmoid_()
            torch.add(states[k], constant[k], out=states[k + 1]).addmm_(hidden[k], V[k].mT, alpha=2 * step)
        ctx.save_for_backward(states, hidden, V, W)
        ctx.step = step
        return states[-1]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        states, hidden, V, W = ctx.saved_tensors
        a = cotangents[0].clone()
        on_V, on_W = torch.empty_like(V), torch.empty_like(W)
        on_b = V.new_empty(len(V), V.shape[2])
        for k in reversed(range(len(V))):
            torch.addmm(-a.sum(0).unsqueeze(1), a.mT, hidden[k], alpha=2, out=on_V[k])
            u = a @ V[k]
            torch.ops.aten.sigmoid_backward.grad_input(u, hidden[k], grad_input=u)
            torch.mm(u.mT, states[k], out=on_W[k])
            torch.sum(u, 0, out=on_b[k])
            a.addmm_(u, W[k], alpha=4 * ctx.step)
        return a, on_V.mul_(ctx.step), on_W.mul_(4 * ctx.step), on_b.mul_(4 * ctx.step), None


def kept_layers(x0: Tensor, V: Tensor, W: Tensor, b: Tensor, *, step: float) -> Tensor:
    """The last state of the residual network, with its hidden layers kept for the backward pass."""
    result: Tensor = _KeptLayers.apply(x0, V, W, b, step)  # type: ignore[no-untyped-call]
    return result


def for_residual(subject: Candidate, kept: Callable[[], Any]) -> list[Candidate]:
    """Hidden layers that are kept, and tanh itself."""
    return [
        idea(subject, "hidden layers kept, not computed again", kept),
        idea(subject, "tanh itself, not the logistic function", changed(residual, subject.run, phi_of=_tanh)),
    ]


class _InPlace(torch.autograd.Function):
    """Concatenation with activation and slope in place, and products for blocks of layers at a time."""

    @staticmethod
    def forward(ctx: Any, block: int, x0: Tensor, *A: Tensor) -> Tensor:
        n0, g = x0.shape[1], A[0].shape[0]
        out, h = x0.new_empty(2, n0 + len(A) * g, len(x0))
        out[:n0] = x0.mT
        torch.tanh(out[:n0], out=h[:n0])
        wide = []
        for first in range(0, len(A), block):
            layers, start = A[first : first + block], n0 + first * g
            wide.append(layers[0] if len(layers) == 1 else torch.cat([weight[:, :start] for weight in layers]))
            torch.mm(wide[-1], h[:start], out=out[start : start + len(layers) * g])
            for j, weight in enumerate(layers):
                at = slice(start + j * g, start + (j + 1) * g)
                if j:
                    out[at].addmm_(weight[:, start:], h[start : at.start])
                torch.tanh(out[at], out=h[at])
        ctx.save_for_backward(h, *A, *wide)
        ctx.block, ctx.count = block, len(A)
        return out.mT

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        h, *weights = ctx.saved_tensors
        A, wide, q = weights[: ctx.count], weights[ctx.count :], cotangents[0].mT
        g, n0 = A[0].shape
        read, grads = torch.zeros_like(h), [h] * len(A)
        slope_ = torch.ops.aten.tanh_backward.grad_input
        for number in reversed(range(len(wide))):
            first = number * ctx.block
            layers, start = A[first : first + ctx.block], n0 + first * g
            for j in reversed(range(len(layers))):
                at = slice(start + j * g, start + (j + 1) * g)
                slope_(read[at], h[at], grad_input=read[at]).add_(q[at])
                if j:
                    read[start : at.start].addmm_(layers[j][:, start:].mT, read[at])
            own = read[start : start + len(layers) * g]
            shared = own @ h[:start].mT
            read[:start].addmm_(wide[number].mT, own)
            for j in range(len(layers)):
                rows = slice(j * g, (j + 1) * g)
                parts = [shared[rows]] + ([own[rows] @ h[start : start + j * g].mT] if j else [])
                grads[first + j] = torch.cat(parts, 1)
        slope_(read[:n0], h[:n0], grad_input=read[:n0]).add_(q[:n0])
        return (None, read[:n0].mT, *grads)


def concatenation_in_blocks(block: int) -> Callable[[Tensor, Sequence[Tensor]], Tensor]:
    """The concatenating network with products for so many layers at a time."""

    def forward(x0: Tensor, A: Sequence[Tensor]) -> Tensor:
        result: Tensor = _InPlace.apply(block, x0, *A)  # type: ignore[no-untyped-call]
        return result

    return forward
