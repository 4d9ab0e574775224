"""Transformations compute their formula, and no Jacobian is larger than the proved bound."""

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import lambertw
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

from dnlbook.activations import relu, soft_threshold
from dnlbook.dense_nonlocal import nonlocal_forward
from dnlbook.transforms import (
    Convolution,
    FullyConnected,
    GraphDiffusion,
    NonLocalMean,
    SelfAttention,
    Transformation,
)

SMALL = st.integers(1, 5)
SCALES = (0.03, 0.3, 1.0, 3.0, 10.0)


def ring(positions, reach=2):
    """The circulant graph in which everybody knows his ``reach`` neighbours on either side."""
    i = torch.arange(positions)
    distance = (i[:, None] - i).abs()
    distance = torch.minimum(distance, positions - distance)
    return ((distance > 0) & (distance <= reach)).double()


def random_graph(positions):
    upper = torch.rand(positions, positions).triu(1)
    return torch.where(upper > 0.4, upper, 0.0) + torch.where(upper > 0.4, upper, 0.0).mT


def five(positions=6, features=2, hidden=3):
    return [
        FullyConnected(width=features, hidden=hidden),
        Convolution(positions, features, hidden, taps=3),
        GraphDiffusion(random_graph(positions), features, hidden),
        NonLocalMean(positions, features, bandwidth=0.7),
        SelfAttention(positions, features),
    ]


FIVE = pytest.mark.parametrize("index", range(5), ids=lambda i: type(five()[i]).__name__)


def draw(f, *batch, dtype=torch.float64):
    """A random theta with a bias that is not zero, and random states."""
    theta = tuple(part + 0.3 * torch.randn(part.shape, dtype=dtype) for part in f.initial(dtype=dtype))
    return torch.randn(*batch, *f.state_shape, dtype=dtype), theta


# the formulas, written as loops over positions and edges


def by_hand(f, x, theta):
    if isinstance(f, FullyConnected):
        V, W, b = theta
        return V @ f.activation(W @ x + b)
    N = len(x)
    if isinstance(f, Convolution):
        V, W, b = theta
        r = f.taps // 2
        z = [f.activation(b + sum(W[j + r] @ x[(i + j) % N] for j in range(-r, r + 1))) for i in range(N)]
        return torch.stack([sum(V[j + r] @ z[(i + j) % N] for j in range(-r, r + 1)) for i in range(N)])
    if isinstance(f, GraphDiffusion):
        V, W = theta
        K = incidence(f.graph_for_test)
        return -K.mT @ f.activation(K @ x @ W.mT) @ V.mT
    if isinstance(f, NonLocalMean):
        (V,) = theta
        kernel = [[torch.exp(-((x[i] - x[j]) ** 2).sum() / f.bandwidth**2) for j in range(N)] for i in range(N)]
        return torch.stack([V @ (sum(kernel[i][j] * x[j] for j in range(N)) / sum(kernel[i]) - x[i]) for i in range(N)])
    V, A = theta
    kernel = [[torch.exp(x[i] @ A @ x[j]) for j in range(N)] for i in range(N)]
    return torch.stack([V @ sum(kernel[i][j] * x[j] for j in range(N)) / sum(kernel[i]) for i in range(N)])


def incidence(weights):
    edges = weights.triu().nonzero().tolist()
    K = torch.zeros(len(edges), len(weights))
    for e, (i, j) in enumerate(edges):
        K[e, j], K[e, i] = weights[i, j].sqrt(), -weights[i, j].sqrt()
    return K


@FIVE
@given(positions=SMALL, features=SMALL, hidden=SMALL, batch=st.lists(st.integers(0, 2), max_size=2))
@settings(max_examples=25, deadline=None)
def test_formula(index, positions, features, hidden, batch):
    f = five(positions, features, hidden)[index]
    if isinstance(f, GraphDiffusion):
        weights = random_graph(positions)
        f = GraphDiffusion(weights, features, hidden)
        f.graph_for_test = weights
    x, theta = draw(f, *batch)
    result = f(x, theta)
    assert result.shape == x.shape
    for state, image in zip(x.reshape(-1, *f.state_shape), result.reshape(-1, *f.state_shape), strict=True):
        assert torch.allclose(image, by_hand(f, state, theta), atol=1e-12)


@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_convolution_is_torchs_circular_one(taps):
    f = Convolution(7, 2, 3, taps=taps)
    x, (V, W, b) = draw(f, 4)

    def circular(signal, kernel, bias=None):
        padded = torch.nn.functional.pad(signal, (taps // 2, taps // 2), mode="circular")
        return torch.nn.functional.conv1d(padded, kernel.permute(1, 2, 0), bias)

    expected = circular(torch.tanh(circular(x.mT, W, b)), V).mT
    assert torch.allclose(f(x, (V, W, b)), expected, atol=1e-13)


def test_more_taps_than_positions_wrap_around():
    f = Convolution(2, taps=5)
    kernel = torch.arange(5.0).reshape(5, 1, 1)
    identity = torch.zeros(5, 1, 1)
    identity[2] = 1.0
    image = Convolution(2, taps=5, activation="identity")(
        torch.tensor([[1.0], [0.0]]), (identity, kernel, torch.zeros(1))
    )
    assert image.flatten().tolist() == [0 + 2 + 4, 1 + 3]
    assert f.symbol(kernel)[0].item() == pytest.approx(10)


@FIVE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_of_the_input_is_kept(index, dtype):
    f = five()[index]
    x, theta = draw(f, 3)
    low = f(x.to(dtype), [part.to(dtype) for part in theta])
    assert low.dtype == dtype
    assert torch.allclose(low.double(), f(x, theta), atol=1e-4 if dtype == torch.float32 else 0)
    assert f.lipschitz([part.to(dtype) for part in theta], 1.0) == pytest.approx(f.lipschitz(theta, 1.0), rel=1e-6)


# symmetries


@pytest.mark.parametrize("f", [NonLocalMean(6, 2), SelfAttention(6, 2)], ids=repr)
def test_tokens_have_no_order(f):
    x, theta = draw(f, 3)
    order = torch.randperm(6)
    assert torch.allclose(f(x[:, order], theta), f(x, theta)[:, order], atol=1e-14)


def test_convolution_commutes_with_shifts():
    f = Convolution(7, 2, 3)
    x, theta = draw(f, 3)
    assert torch.allclose(f(x.roll(2, -2), theta), f(x, theta).roll(2, -2), atol=1e-14)


def test_nonlocal_mean_commutes_with_translations_and_scales_with_its_bandwidth():
    f, wide = NonLocalMean(6, 2, bandwidth=0.7), NonLocalMean(6, 2, bandwidth=70.0)
    x, theta = draw(f, 3)
    assert torch.allclose(f(x + 5.0, theta), f(x, theta), atol=1e-13)
    assert torch.allclose(wide(100 * x, theta), 100 * f(x, theta), atol=1e-11)
    assert wide.lipschitz(theta) == f.lipschitz(theta)


def test_nonlocal_mean_is_attention_with_a_penalty_for_long_keys():
    f = NonLocalMean(6, 2, bandwidth=0.7)
    x, (V,) = draw(f)
    logits = (2 * x @ x.mT - x.square().sum(-1)) / 0.7**2
    assert torch.allclose(f(x, (V,)), (torch.softmax(logits, -1) @ x - x) @ V.mT, atol=1e-14)


def test_graph_diffusion_conserves_the_sum_and_contracts():
    f = GraphDiffusion(random_graph(6), 2, 3)
    x, (_, W) = draw(f, 50)
    y = torch.randn_like(x)
    images = f(x, (W.mT, W)), f(y, (W.mT, W))
    assert images[0].sum(-2).abs().max() < 1e-13
    assert ((images[0] - images[1]) * (x - y)).sum((-1, -2)).max() <= 0
    assert f(torch.ones_like(x), (W.mT, W)).abs().max() == 0


def test_graph_without_edges_is_at_rest():
    f = GraphDiffusion(torch.zeros(4, 4), 2)
    x, theta = draw(f, 3)
    assert (f.edges, f.largest_eigenvalue, f.lipschitz(theta)) == (0, 0.0, 0.0)
    assert f(x, theta).abs().max() == 0


# the bounds are never exceeded


def states_within(f, radius, count):
    """States at all scales below the radius, and as many on its boundary."""
    x = torch.randn(count, *f.state_shape)
    x[: count // 2] *= torch.logspace(-2, 0, count // 2).reshape(-1, *(1,) * len(f.state_shape))
    longest = x.norm(dim=-1, keepdim=True)
    clipped = x * (1 / longest).clamp(max=1.0)
    clipped[count // 2 :] = (x / longest)[count // 2 :]
    return radius * clipped


@FIVE
@pytest.mark.parametrize("radius", [0.5, 2.0, 8.0])
def test_bound_holds_at_a_thousand_random_points(index, radius):
    f = five(positions=7)[index]
    for seed in range(4):
        torch.manual_seed(seed)
        _, theta = draw(f)
        measured = f.jacobian_norm(states_within(f, radius, 250), theta)
        assert measured.max() <= f.lipschitz(theta, radius) * (1 + 1e-9)


@FIVE
@given(seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES), distance=st.sampled_from((1e-3, 1.0)))
@settings(max_examples=40, deadline=None)
def test_bound_holds_between_any_two_points(index, seed, scale, distance):
    torch.manual_seed(seed)
    f = five(positions=4)[index]
    x, theta = draw(f, 8)
    x = scale * x
    y = x + distance * scale * torch.randn_like(x)
    radius = max(x.norm(dim=-1).max().item(), y.norm(dim=-1).max().item())
    change, distance = (f(x, theta) - f(y, theta)).flatten(1).norm(dim=1), (x - y).flatten(1).norm(dim=1)
    assert (change <= f.lipschitz(theta, radius) * distance * (1 + 1e-9) + 1e-13).all()


def ascend(f, x, theta, radius, steps=100, rate=0.05):
    """The largest Jacobian norm that Adam finds from these states inside the ball."""
    x = x.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=rate * min(radius, 4.0))
    best = 0.0
    for _ in range(steps):
        adam.zero_grad()
        norms = f.jacobian_norm(x, theta)
        best = max(best, norms.max().item())
        (-norms.sum()).backward()
        adam.step()
        with torch.no_grad():
            x *= (radius / x.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    return best


@FIVE
def test_bound_holds_under_attack(index):
    f = five(positions=5)[index]
    _, theta = draw(f)
    attacked = ascend(f, states_within(f, 3.0, 12), theta, 3.0)
    assert attacked <= f.lipschitz(theta, 3.0) * (1 + 1e-9)


@pytest.mark.parametrize("sigma", [relu, soft_threshold(0.2, 0.4)], ids=lambda s: s.name)
def test_other_activations_keep_the_bound(sigma):
    for f in (FullyConnected(4, 6, activation=sigma), Convolution(6, 2, activation=sigma)):
        _, theta = draw(f)
        assert f.jacobian_norm(states_within(f, 3.0, 200), theta).max() <= f.lipschitz(theta) * (1 + 1e-9)


# which bounds are sharp


def test_fully_connected_bound_is_attained_by_aligned_weights():
    f = FullyConnected(5, 8)
    W = torch.randn(8, 5)
    theta = W.mT, W, torch.zeros(8)
    assert f.jacobian_norm(torch.zeros(5), theta).item() == pytest.approx(f.lipschitz(theta), rel=1e-12)
    assert f.lipschitz(theta) == pytest.approx(torch.linalg.eigvalsh(W.mT @ W)[-1].item(), rel=1e-12)


@given(positions=st.integers(1, 9), channels=SMALL, hidden=SMALL, taps=st.sampled_from((1, 3, 5)))
@settings(max_examples=30, deadline=None)
def test_convolution_bound_is_attained_by_the_adjoint_kernel(positions, channels, hidden, taps):
    f = Convolution(positions, channels, hidden, taps=taps)
    W = torch.randn(taps, hidden, channels)
    theta = W.flip(0).mT, W, torch.zeros(hidden)
    assert f.jacobian_norm(torch.zeros(f.state_shape), theta).item() == pytest.approx(f.lipschitz(theta), rel=1e-10)


@given(positions=st.integers(1, 9), taps=st.sampled_from((1, 3, 5)))
@settings(max_examples=20, deadline=None)
def test_symbol_gives_the_exact_norm_of_a_convolution(positions, taps):
    f = Convolution(positions, taps=taps, activation="identity")
    centre = torch.zeros(taps, 1, 1)
    centre[taps // 2] = 1.0
    kernel = torch.randn(taps, 1, 1)
    matrix = torch.stack([f(e[:, None], (centre, kernel, torch.zeros(1)))[:, 0] for e in torch.eye(positions)], 1)
    exact = torch.linalg.matrix_norm(matrix, 2).item()
    assert f.symbol(kernel).abs().max().item() == pytest.approx(exact, rel=1e-12)
    assert exact <= kernel.abs().sum().item() * (1 + 1e-12)


def test_graph_bound_is_attained_at_rest_and_lies_below_twice_the_degree():
    for weights in (ring(12), random_graph(9)):
        f = GraphDiffusion(weights, 2, 3)
        W = torch.randn(3, 2)
        at_rest = f.jacobian_norm(torch.ones(f.state_shape), (W.mT, W)).item()
        assert at_rest == pytest.approx(f.lipschitz((W.mT, W)), rel=1e-10)
        assert f.largest_eigenvalue <= 2 * weights.sum(1).max().item() * (1 + 1e-12)
        K = incidence(weights)
        assert f.largest_eigenvalue == pytest.approx(torch.linalg.matrix_norm(K, 2).item() ** 2, rel=1e-12)
    assert GraphDiffusion(ring(12)).largest_eigenvalue == pytest.approx(6.0)
    assert GraphDiffusion(ring(16)).largest_eigenvalue < 8.0 == 2 * ring(16).sum(1).max()


def crowd_at_distance(tokens, bandwidth):
    """One token at 0 and the others at the same distance, half of them on either side."""
    slope = 2 * lambertw((tokens - 1) * math.exp(-1.5)).real
    x = torch.full((tokens, 1), bandwidth * math.sqrt((3 + slope) / 2))
    x[0], x[1::2] = 0.0, -x[1::2]
    return x, slope


@pytest.mark.parametrize("tokens", [3, 5, 13, 31, 101])
@pytest.mark.parametrize("bandwidth", [0.1, 4.0])
def test_nonlocal_mean_reaches_the_known_lower_bound_and_the_bound_is_not_sharp(tokens, bandwidth):
    f, theta = NonLocalMean(tokens, 1, bandwidth=bandwidth), (torch.ones(1, 1),)
    x, slope = crowd_at_distance(tokens, bandwidth)
    jacobian = torch.func.jacrev(lambda z: f(z, theta))(x).reshape(tokens, tokens)
    assert jacobian[0, 0].item() == pytest.approx(slope, rel=1e-10)
    measured = f.jacobian_norm(x, theta).item()
    assert slope < measured < 0.5 * f.lipschitz(theta)


def test_diagonal_block_of_the_nonlocal_mean_never_exceeds_its_exact_supremum():
    f, theta = NonLocalMean(9, 2), (torch.eye(2),)
    x = torch.randn(1000, 9, 2) * torch.logspace(-1, 1, 1000)[:, None, None]
    jacobians = vmap(torch.func.jacrev(lambda z: f(z, theta)))(x)
    blocks = torch.linalg.matrix_norm(jacobians[:, torch.arange(9), :, torch.arange(9)], 2)
    assert blocks.max() <= max(1.0, crowd_at_distance(9, 1.0)[1])


@given(seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES))
@settings(max_examples=30, deadline=None)
def test_nonlocal_mean_is_bounded(seed, scale):
    torch.manual_seed(seed)
    f = NonLocalMean(9, 2, bandwidth=0.7)
    x, (V,) = draw(f, 20)
    largest = torch.linalg.matrix_norm(V, 2) * 0.7 * math.sqrt(lambertw(8 / math.e).real)
    assert f(scale * x, (V,)).norm(dim=-1).max() <= largest


def two_listened_to(tokens, radius):
    """All tokens but two sit at one place and listen to two opposite ones, in equal shares."""
    x = torch.zeros(tokens, 2)
    x[:, 0] = radius
    x[0], x[1] = torch.tensor([0.0, radius]), torch.tensor([0.0, -radius])
    return x, (torch.eye(2), torch.diag(torch.tensor([-1.0, 1.0])))


@pytest.mark.parametrize(("tokens", "share"), [(12, 0.69), (100, 0.85)])
def test_attention_bound_is_sharp_to_leading_order(tokens, share):
    f = SelfAttention(tokens, 2)
    x, theta = two_listened_to(tokens, 8.0)
    measured = f.jacobian_norm(x, theta).item()
    assert measured >= math.sqrt((tokens - 2) / 2) * 8.0**2
    assert share < measured / f.lipschitz(theta, 8.0) <= 1


@pytest.mark.parametrize("radius", [8.0, 16.0])
def test_attention_is_not_globally_lipschitz(radius):
    f, theta = SelfAttention(13, 1), (torch.ones(1, 1), torch.ones(1, 1))
    x = torch.tensor([0.0] + [radius] * 6 + [-radius] * 6)[:, None]
    assert 12 / 13 < f.jacobian_norm(x, theta).item() / radius**2 < 0.925
    assert f.lipschitz(theta) == math.inf


def test_attention_without_logits_or_without_values_is_globally_lipschitz():
    f, zero, V = SelfAttention(4, 2), torch.zeros(2, 2), torch.randn(2, 2)
    assert f.lipschitz((V, zero)) == pytest.approx(2 * torch.linalg.matrix_norm(V, 2).item())
    assert f.lipschitz((zero, V)) == 0
    assert f.lipschitz((V, V), radius=0.0) == f.lipschitz((V, zero))


@given(seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES))
@settings(max_examples=30, deadline=None)
def test_attention_grows_linearly(seed, scale):
    torch.manual_seed(seed)
    f = SelfAttention(6, 3)
    x, (V, A) = draw(f, 20)
    x = scale * x
    largest = x.norm(dim=-1).amax(-1, keepdim=True) * torch.linalg.matrix_norm(V, 2)
    assert (f(x, (V, A)).norm(dim=-1) <= largest * (1 + 1e-12)).all()


# derivatives and batching


@FIVE
def test_derivatives_in_state_and_parameters(index):
    f = five(positions=4)[index]
    x, theta = draw(f, 2)
    arguments = [part.requires_grad_() for part in (x, *theta)]
    assert gradcheck(lambda z, *p: f(z, p), arguments)
    assert gradgradcheck(lambda z, *p: f(z, p), arguments)


@FIVE
def test_vmap_over_states_parameters_and_both(index):
    f = five(positions=4)[index]
    states, _ = draw(f, 3)
    thetas = [draw(f)[1] for _ in range(3)]
    stacked = tuple(map(torch.stack, zip(*thetas, strict=True)))
    over_states = vmap(lambda x: f(x, thetas[0]))(states)
    over_parameters = vmap(lambda *p: f(states, p))(*stacked)
    over_both = vmap(lambda x, *p: f(x, p))(states, *stacked)
    assert torch.allclose(over_states, f(states, thetas[0]), atol=1e-14)
    for i, theta in enumerate(thetas):
        assert torch.allclose(over_parameters[i], f(states, theta), atol=1e-14)
        assert torch.allclose(over_both[i], f(states[i], theta), atol=1e-14)


@FIVE
def test_dense_networks_of_any_transformation_have_the_gradient_of_the_plain_loop(index):
    f, L, step = five(positions=4)[index], 5, 0.2
    x0 = draw(f, 2)[0].requires_grad_()
    kernel = {(l, k): [p.requires_grad_() for p in draw(f)[1]] for k in range(L) for l in range(k + 1, L + 1)}
    states = [x0]
    for l in range(1, L + 1):
        states.append(x0 + step * sum(f(states[k], kernel[l, k]) for k in range(l)))
    sources = [
        tuple(map(torch.stack, zip(*(kernel[l, k] for l in range(k + 1, L + 1)), strict=True))) for k in range(L)
    ]
    engine = nonlocal_forward(x0, sources, transform=f, step=step)
    assert torch.allclose(engine, torch.stack(states), atol=1e-13)
    leaves = [x0, *(p for theta in kernel.values() for p in theta)]
    weights = torch.randn_like(engine)
    by_engine = torch.autograd.grad((weights * engine).sum(), leaves)
    by_loop = torch.autograd.grad((weights * torch.stack(states)).sum(), leaves)
    for own, other in zip(by_engine, by_loop, strict=True):
        assert torch.allclose(own, other, atol=1e-12)


@FIVE
def test_jacobian_norm_is_that_of_autograd_for_any_batch(index):
    f = five(positions=4)[index]
    x, theta = draw(f, 2, 3)
    size = math.prod(f.state_shape)
    norms = f.jacobian_norm(x, theta)
    assert norms.shape == (2, 3)
    full = torch.autograd.functional.jacobian(lambda z: f(z, theta), x[1, 2]).reshape(size, size)
    assert norms[1, 2].item() == pytest.approx(torch.linalg.matrix_norm(full, 2).item(), rel=1e-12)
    assert f.jacobian_norm(x[1, 2], theta).shape == ()
    assert f.jacobian_norm(x[:0], theta).shape == (0, 3)


# what a transformation is made of


@FIVE
def test_parameters_are_drawn_reproducibly_with_unit_gain(index):
    f = five(positions=4, features=40, hidden=40)[index]
    first, again = (f.initial(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert [tuple(part.shape) for part in first] == list(f.parameter_shapes.values())
    for part, same in zip(first, again, strict=True):
        assert torch.equal(part, same)
        if part.ndim > 1:
            inputs = part.numel() / part.shape[-2]
            assert part.std().item() * math.sqrt(inputs) == pytest.approx(1.0, abs=0.1)
        else:
            assert part.abs().max() == 0
    assert f.initial(dtype=torch.float32)[0].dtype == torch.float32
    with pytest.raises(TypeError, match=r"dtype: expected a floating-point dtype, received torch\.int64"):
        f.initial(dtype=torch.int64)


@FIVE
def test_a_copy_from_another_process_is_the_same_map(index):
    f = five()[index]
    x, theta = draw(f, 3)
    again = pickle.loads(pickle.dumps(f))
    assert torch.equal(again(x, theta), f(x, theta)) and repr(again) == repr(f)


def test_representation_tells_the_structure():
    assert repr(NonLocalMean(4, 2)) == "NonLocalMean(tokens=4, features=2, bandwidth=1.0)"
    assert repr(GraphDiffusion(ring(6, 1))).startswith("GraphDiffusion(positions=6, edges=6, features=1, hidden=1")
    with pytest.raises(TypeError, match="abstract"):
        Transformation()


# bad input


@FIVE
def test_parameters_that_do_not_fit_are_named(index):
    f = five()[index]
    x, theta = draw(f, 3)
    name = next(iter(f.parameter_shapes))
    last = len(theta) - 1
    for call in (lambda p: f(x, p), f.lipschitz, lambda p: f.jacobian_norm(x, p)):
        with pytest.raises(TypeError, match="theta: expected a tuple .*, received Tensor"):
            call(theta[0])
        with pytest.raises(ValueError, match=f"theta: expected {len(theta)} tensors .*, received {len(theta) + 1}"):
            call((*theta, theta[0]))
        with pytest.raises(ValueError, match=rf"theta\[0\] \({name}\): expected shape .*, received"):
            call((theta[0][..., :-1], *theta[1:]))
        with pytest.raises(TypeError, match=rf"theta\[0\] \({name}\): expected a floating-point tensor"):
            call((theta[0].long(), *theta[1:]))
        with pytest.raises(TypeError, match=rf"theta\[{last}\] .*expected a torch.Tensor, received list"):
            call((*theta[:-1], [1.0]))
        with pytest.raises(ValueError, match=rf"theta\[0\] \({name}\): expected finite entries, received nan at"):
            call((torch.full_like(theta[0], math.nan), *theta[1:]))
        if last:
            with pytest.raises(ValueError, match=rf"theta\[{last}\].*: expected dtype torch.float64 .*float32"):
                call((*theta[:-1], theta[-1].float()))


@FIVE
def test_states_that_do_not_fit_are_named(index):
    f = five()[index]
    x, theta = draw(f, 3)
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., .*\), received"):
        f(x[..., :-1], theta)
    with pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., .*\), received \(\)"):
        f(torch.tensor(1.0), theta)
    with pytest.raises(ValueError, match="x: expected dtype torch.float64 like theta.*received torch.float32"):
        f(x.float(), theta)
    with pytest.raises(TypeError, match="x: expected a floating-point tensor"):
        f(x.long(), theta)
    with pytest.raises(TypeError, match="x: expected a torch.Tensor, received list"):
        f(x.tolist(), theta)
    spoilt = x.clone()
    spoilt[1] = math.nan
    with pytest.raises(ValueError, match=r"x: expected finite entries, received nan at index \(1, 0"):
        f(spoilt, theta)


def test_overflow_is_reported_with_its_likely_cause():
    f = FullyConnected(1, activation="identity")
    with pytest.raises(ValueError, match="x: expected a state whose image is finite .* blown up"):
        f(torch.tensor([1e200]), (torch.tensor([[1e200]]), torch.ones(1, 1), torch.zeros(1)))


@FIVE
def test_radius_is_a_number_of_at_least_zero(index):
    f = five()[index]
    _, theta = draw(f)
    for radius in (-1.0, math.nan, -math.inf):
        with pytest.raises(ValueError, match="radius: expected"):
            f.lipschitz(theta, radius)
    with pytest.raises(TypeError, match="radius: expected a number, received 'wide'"):
        f.lipschitz(theta, "wide")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FullyConnected(0), "width: expected an int of at least 1, received 0"),
        (lambda: FullyConnected(2, 2.5), "hidden: expected a positive int, received 2.5"),
        (lambda: FullyConnected(2, activation="elu"), "name: expected one of"),
        (lambda: Convolution(0), "positions: expected"),
        (lambda: Convolution(4, -1), "channels: expected"),
        (lambda: Convolution(4, taps=4), "taps: expected an odd number, one tap in the centre, received 4"),
        (lambda: NonLocalMean(0, 1), "tokens: expected"),
        (lambda: NonLocalMean(1, 0), "features: expected"),
        (lambda: NonLocalMean(2, 1, bandwidth=0.0), "bandwidth: expected a number above 0, received 0.0"),
        (lambda: NonLocalMean(2, 1, bandwidth=math.inf), "bandwidth: expected a finite number, received inf"),
        (lambda: SelfAttention(True, 1), "tokens: expected"),
        (lambda: SelfAttention(1, "two"), "features: expected a positive int, received 'two'"),
        (
            lambda: GraphDiffusion(torch.ones(2, 3)),
            r"weights: expected a square matrix, received shape \(2, 3\)",
        ),
        (lambda: GraphDiffusion(torch.ones(0, 0)), "weights: expected a square matrix"),
        (lambda: GraphDiffusion(torch.ones(3)), r"weights: expected shape \(N, N\), received \(3,\)"),
        (lambda: GraphDiffusion(torch.ones(2, 2).long()), "weights: expected a floating-point tensor"),
        (lambda: GraphDiffusion([[0.0]]), "weights: expected a torch.Tensor, received list"),
        (
            lambda: GraphDiffusion(torch.eye(2)),
            r"weights: expected a zero diagonal, received 1.0 at \(0, 0\)",
        ),
        (
            lambda: GraphDiffusion(-ring(5)),
            r"weights: expected entries of at least 0, received -1.0 at \(0, 1\)",
        ),
        (
            lambda: GraphDiffusion(ring(5).triu()),
            r"weights: expected a symmetric matrix, received 1.0 at \(0, 1\)",
        ),
        (lambda: GraphDiffusion(ring(5) * math.nan), "weights: expected finite entries, received nan"),
        (lambda: GraphDiffusion(ring(5), 0), "features: expected"),
        (lambda: Convolution(4).symbol(torch.ones(2, 1, 1)), r"kernel: expected shape \(3, rows, columns\)"),
    ],
)
def test_structure_that_makes_no_sense_is_refused(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()
