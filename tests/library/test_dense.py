"""The engine equals the double loop in values and gradients, for every rule, size and variant."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dnlbook.dense
from dnlbook.activations import soft_threshold
from dnlbook.dense import dense_forward, dense_loop, pair_count, pair_index
from dnlbook.dense_nonlocal import nonlocal_forward
from dnlbook.quadrature import quadrature_weights

SMOOTH = ["tanh", "identity"]


def packed(depth, n, m, *, diagonal=False, dtype=torch.float64, scale=1.0):
    g = torch.Generator().manual_seed(depth + 10 * n + 100 * m)
    count = pair_count(depth, diagonal=diagonal)
    shapes = ((count, n, m), (count, m, n), (count, m))
    return [(scale * torch.randn(s, generator=g, dtype=dtype)).requires_grad_() for s in shapes]


def state(batch, n, dtype=torch.float64):
    return torch.randn(*batch, n, generator=torch.Generator().manual_seed(7), dtype=dtype).requires_grad_()


def gradients(out, inputs):
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * cotangent).sum(), inputs)


def close(a, b, tolerance=1e-12):
    return torch.allclose(a, b, rtol=0, atol=tolerance * (1 + (b.abs().max().item() if b.numel() else 0)))


@given(
    depth=st.integers(1, 7),
    batch=st.sampled_from([(), (1,), (0,), (5,), (2, 3)]),
    n=st.integers(1, 4),
    m=st.integers(1, 4),
    activation=st.sampled_from([*SMOOTH, soft_threshold(0.3), soft_threshold(0.1, 0.4), "relu"]),
    memory=st.sampled_from(["recompute", "store"]),
    tile=st.sampled_from([1, 200, 1 << 19]),
    weighted=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_engine_equals_the_double_loop(depth, batch, n, m, activation, memory, tile, weighted):
    sources, x0 = packed(depth, n, m), state(batch, n)
    weights = (
        torch.rand(depth + 1, depth + 1, generator=torch.Generator().manual_seed(3)).tril(-1) if weighted else None
    )
    options = {"step": 0.3, "activation": activation, "weights": weights}
    before, dnlbook.dense._SCRATCH_BYTES = dnlbook.dense._SCRATCH_BYTES, tile
    try:
        fast = dense_forward(x0, sources, memory=memory, **options)
        grads = gradients(fast, [x0, *sources])
    finally:
        dnlbook.dense._SCRATCH_BYTES = before
    slow = dense_loop(x0, sources, **options)
    assert fast.shape == slow.shape == (depth + 1, *batch, n)
    assert close(fast, slow)
    assert all(close(a, b, 1e-11) for a, b in zip(grads, gradients(slow, [x0, *sources]), strict=True))


@pytest.mark.parametrize("memory", ["recompute", "store"])
@pytest.mark.parametrize("rule", ["rectangle", "trapezoid", "gregory"])
def test_gradcheck_for_every_rule(rule, memory):
    weights = quadrature_weights(rule, 4)
    sources = packed(4, 2, 3, diagonal=rule != "rectangle", scale=0.7)
    run = lambda x, *p: dense_forward(x, p, step=0.25, weights=weights, memory=memory)  # noqa: E731
    assert torch.autograd.gradcheck(run, (state((3,), 2), *sources), atol=1e-8)


@pytest.mark.parametrize("rule", ["trapezoid", "gregory"])
def test_implicit_rules_solve_their_equation(rule):
    depth, tau = 6, 1 / 6
    weights, (V, W, b) = quadrature_weights(rule, depth), packed(6, 2, 3, diagonal=True, scale=0.7)
    x = dense_forward(state((3,), 2), (V, W, b), step=tau, weights=weights)
    for l in range(1, depth + 1):
        total = x[0].clone()
        for k in range(l + 1):
            at = pair_index(l, k, depth, diagonal=True)
            total = total + tau * weights[l, k] * torch.tanh(x[k] @ W[at].mT + b[at]) @ V[at].mT
        assert close(x[l], total, 1e-14)


@pytest.mark.parametrize(("rule", "order"), [("rectangle", 1), ("trapezoid", 2), ("gregory", 4)])
def test_orders_against_a_closed_form(rule, order):
    # x(t) = 1/2 + sin t for W = 1 + ts/2, b = 1/2 + t/2 and the outer weight that makes it so
    def final(depth):
        l, k = torch.tril_indices(depth + 1, depth + 1, 0 if rule != "rectangle" else -1)
        by_source = torch.argsort(k * (depth + 2) + l)
        t, s = l[by_source] / depth, k[by_source] / depth
        W, b = 1 + t * s / 2, 0.5 + t / 2
        V = (s.cos() + s.sin()) * (s - t).exp() / torch.tanh(W * (0.5 + s.sin()) + b)
        sources = (V.view(-1, 1, 1), W.view(-1, 1, 1), b.view(-1, 1))
        return dense_forward(torch.tensor([0.5]), sources, step=1 / depth, weights=quadrature_weights(rule, depth))[-1]

    errors = [abs(final(depth).item() - 0.5 - math.sin(1)) for depth in (32, 64, 128)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(order, abs=0.1)


def test_one_triple_per_source_is_the_same_network():
    V, W, b = packed(4, 2, 3)
    starts = [pair_index(k + 1, k, 4) for k in range(4)] + [10]
    listed = [tuple(p[i:j] for p in (V, W, b)) for i, j in zip(starts, starts[1:], strict=False)]
    x0 = state((5,), 2)
    assert torch.equal(dense_forward(x0, listed, step=0.2), dense_forward(x0, (V, W, b), step=0.2))


def test_weights_that_forget_the_second_index_give_the_residual_network():
    from dnlbook.residual import residual_loop

    V, W, b = (torch.randn(5, *s) for s in ((2, 3), (3, 2), (3,)))
    counts = torch.arange(5, 0, -1)
    sources = [p.repeat_interleave(counts, 0) for p in (V, W, b)]
    x0 = state((4,), 2)
    assert close(dense_forward(x0, sources, step=0.2), residual_loop(x0, V, W, b, step=0.2))


def test_single_precision_stays_at_rounding_level():
    sources = [p.detach() for p in packed(12, 8, 8)]
    x0 = state((16,), 8).detach()
    single = dense_forward(x0.float(), [p.float() for p in sources], step=1 / 12)
    assert single.dtype == torch.float32
    assert (single.double() - dense_loop(x0, sources, step=1 / 12)).abs().max() < 5e-6


class _Storages:
    def __init__(self, parameters):
        self.known = {p.untyped_storage().data_ptr() for p in parameters}
        self.sizes = {}

    def pack(self, value):
        key = value.untyped_storage().data_ptr()
        if key not in self.known:
            self.sizes[key] = value.untyped_storage().nbytes()
        return value


@pytest.mark.parametrize("depth", [4, 8, 16])
def test_recomputing_keeps_one_state_per_layer_and_storing_one_feature_per_pair(depth):
    n, m, batch = 3, 5, 7
    sources, x0 = packed(depth, n, m), state((batch,), n)
    bytes_kept = {}
    for memory in ("recompute", "store"):
        counter = _Storages(sources)
        with torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda v: v):
            dense_forward(x0, sources, step=0.1, memory=memory)
        bytes_kept[memory] = sum(counter.sizes.values())
    table = 8 * (depth + 1) ** 2  # the coefficients
    assert bytes_kept["recompute"] == 8 * (depth + 1) * n * batch + table
    assert bytes_kept["store"] == bytes_kept["recompute"] + 8 * pair_count(depth) * m * batch


def test_generic_engine_equals_the_perceptron_engine():
    def perceptron(x, theta):
        V, W, b = theta
        return torch.tanh(x @ W.mT + b) @ V.mT

    weights = torch.rand(5, 5).tril(-1)
    sources, x0 = packed(4, 2, 3), state((5,), 2)
    starts = [pair_index(k + 1, k, 4) for k in range(4)] + [10]
    listed = [tuple(p[i:j] for p in sources) for i, j in zip(starts, starts[1:], strict=False)]
    fast = dense_forward(x0, sources, step=0.2, weights=weights)
    general = nonlocal_forward(x0, listed, transform=perceptron, step=0.2, weights=weights)
    assert close(general, fast)
    pairs = zip(gradients(general, [x0, *sources]), gradients(fast, [x0, *sources]), strict=True)
    assert all(close(a, b) for a, b in pairs)


def test_generic_engine_takes_states_of_any_shape():
    def mix(x, theta):
        return torch.softmax(theta[0] * (x @ x.mT), -1) @ x @ theta[1]

    x0 = state((2, 6), 3)
    theta = [(torch.randn(3 - k, requires_grad=True), torch.randn(3 - k, 3, 3, requires_grad=True)) for k in range(3)]
    flat = [p for pair in theta for p in pair]
    run = lambda x, *p: nonlocal_forward(x, [p[:2], p[2:4], p[4:]], transform=mix, step=0.3)  # noqa: E731
    assert run(x0, *flat).shape == (4, 2, 6, 3)
    assert torch.autograd.gradcheck(run, (x0, *flat))


def test_differentiating_twice_is_refused_and_the_loop_does_it():
    sources, x0 = packed(3, 2, 2), state((2,), 2)
    (first,) = torch.autograd.grad(dense_forward(x0, sources, step=0.2).square().sum(), x0, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()
    assert torch.autograd.gradgradcheck(lambda x, *p: dense_loop(x, p, step=0.3), (state((2,), 1), *packed(2, 1, 2)))


def test_packing_is_by_source_and_covers_the_triangle():
    for diagonal in (False, True):
        places = [
            pair_index(l, k, 5, diagonal=diagonal) for k in range(5 + diagonal) for l in range(k + (not diagonal), 6)
        ]
        assert places == list(range(pair_count(5, diagonal=diagonal)))


@pytest.mark.parametrize("pair", [(1, 1), (0, 1), (6, 0), (2, -1), (5, 5)])
def test_pairs_outside_of_the_triangle_are_named(pair):
    with pytest.raises(IndexError, match=r"\(l, k\): expected 0 <= k < l <= 5, received"):
        pair_index(*pair, 5)


def test_an_implicit_rule_that_does_not_contract_says_so():
    depth, weights = 2, quadrature_weights("trapezoid", 2)
    sources = [p.detach() for p in packed(2, 1, 1, diagonal=True)]
    sources[0][:], sources[1][:] = 30.0, 1.0
    with pytest.raises(ValueError, match=r"weights: the implicit term of layer 1 does not contract.*larger depth"):
        dense_forward(torch.ones(1), sources, step=1 / depth, weights=weights, activation="identity")


def test_a_network_that_blows_up_says_where():
    V, W, b = packed(6, 1, 1)
    with pytest.raises(ValueError, match="sources: expected finite states, received nan or inf in layer"):
        dense_forward(torch.ones(1), (V * 1e200, W * 1e200, b), step=1.0, activation="identity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": torch.zeros(4, 3).double()}, r"x0: expected shape \(..., 2\) to match V \(6, 2, 3\)"),
        ({"x0": torch.tensor(1.0).double()}, "x0: expected shape"),
        ({"x0": torch.zeros(4, 2).float()}, "x0: expected dtype torch.float64 like V, received torch.float32"),
        ({"x0": torch.full((4, 2), math.nan).double()}, "x0: expected finite entries"),
        ({"x0": [[1.0, 2.0]]}, "x0: expected a torch.Tensor"),
        ({"sources": []}, "sources: expected at least one source"),
        ({"sources": [p[:5] for p in packed(3, 2, 3)]}, r"expected L\(L\+1\)/2 pairs in front, received 5"),
        ({"sources": [torch.zeros(6, 2, 3).double()] * 3}, r"W: expected shape \(6, 3, 2\)"),
        ({"sources": [(1, 2)]}, r"sources\[0\]: expected a triple"),
        (
            {"sources": [tuple(packed(1, 2, 3)), tuple(packed(1, 2, 3))]},
            r"sources\[0\], V: expected 2 targets in front",
        ),
        ({"sources": [p.float() if i else p for i, p in enumerate(packed(3, 2, 3))]}, "W: expected dtype"),
        ({"step": math.nan}, "step: expected a finite number"),
        ({"activation": "gelu"}, "name: expected one of"),
        ({"memory": "cache"}, "memory: expected one of 'recompute', 'store', received 'cache'"),
        ({"weights": torch.ones(4, 4).double()}, "weights: expected a lower triangle with a zero first row"),
        ({"weights": torch.ones(3, 4).double()}, "weights: expected shape"),
        (
            {"weights": torch.ones(5, 5).double().tril(-1)},
            "expected 10 pairs for an explicit rule of depth 4, received 6",
        ),
        (
            {"weights": quadrature_weights("trapezoid", 3)},
            "expected 10 pairs for an implicit rule of depth 3, received 6",
        ),
        ({"weights": torch.full((4, 4), math.inf).double().tril(-1)}, "weights: expected finite entries"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"x0": torch.zeros(4, 2), "sources": packed(3, 2, 3), "step": 0.1} | change
    x0, sources = arguments.pop("x0"), arguments.pop("sources")
    with pytest.raises((ValueError, TypeError), match=message):
        dense_forward(x0, sources, **arguments)


def test_bad_generic_arguments_are_named():
    theta = [(torch.ones(2),), (torch.ones(1),)]
    scale = lambda x, p: p[0] * x  # noqa: E731
    with pytest.raises(ValueError, match=r"sources\[0\]\[0\]: expected 1 targets in front, received shape \(2,\)"):
        nonlocal_forward(torch.ones(2), theta[:1], transform=scale, step=0.1)
    with pytest.raises(
        ValueError, match=r"transform: expected shape \(2,\) of torch.float64 per target, received \(1,\)"
    ):
        nonlocal_forward(torch.ones(2), theta, transform=lambda x, p: p[0] * x[:1], step=0.1)
    with pytest.raises(ValueError, match="transform: expected finite states, received nan or inf in layer 1"):
        nonlocal_forward(torch.ones(2), theta, transform=lambda x, p: p[0] * x / 0, step=0.1)
    with pytest.raises(ValueError, match="the number of sources: expected an int of at least 1"):
        nonlocal_forward(torch.ones(2), [], transform=scale, step=0.1)
    with pytest.raises(ValueError, match="weights: expected an explicit rule without diagonal"):
        dense_loop(torch.ones(1), packed(2, 1, 1, diagonal=True), step=0.1, weights=quadrature_weights("trapezoid", 2))
