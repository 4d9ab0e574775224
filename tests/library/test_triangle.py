"""P1 functions on the triangle: energies, masses, refinement, evaluation and the cosine coordinates."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook.dense import pair_index
from dnlbook.figures import triangle_mesh
from dnlbook.networks import DenseNonLocal
from dnlbook.triangle import MASSES, TriangleMesh, _layout

sizes = st.tuples(st.integers(1, 9), st.sampled_from([0.5, 1.0, 2.0]), st.lists(st.integers(1, 3), max_size=2))


def random_values(mesh, shape=(), seed=0):
    return torch.randn(mesh.size, *shape, generator=torch.Generator().manual_seed(seed))


def cells(mesh):
    """Corner indices of all triangles, by hand: below and above the diagonal of each square."""
    below = [(l, k, l + 1, k, l + 1, k + 1) for l in range(mesh.depth) for k in range(l + 1)]
    above = [(l, k, l, k + 1, l + 1, k + 1) for l in range(mesh.depth) for k in range(l)]
    return [[mesh.index(*c[i : i + 2]) for i in (0, 2, 4)] for c in below + above]


def energy_by_gradients(mesh, values):
    """Area times the squared gradient of the affine function on each triangle."""
    total = 0.0
    for corners in cells(mesh):
        t, s, u = mesh.t[corners], mesh.s[corners], values[corners]
        frame = torch.stack([t[1:] - t[0], s[1:] - s[0]], 1)
        gradient = torch.linalg.solve(frame, (u[1:] - u[0]).reshape(2, -1))
        total += float(torch.linalg.det(frame).abs() / 2 * gradient.square().sum())
    return total


def mass_by_midpoints(mesh, values):
    """The edge midpoint rule, exact for quadratics."""
    total = 0.0
    for corners in cells(mesh):
        u = values[corners]
        middles = (u + u.roll(1, 0)) / 2
        total += mesh.step**2 / 6 * float(middles.square().sum())
    return total


def test_nodes_are_ordered_by_source_and_pairs_are_those_of_a_dense_network():
    mesh = TriangleMesh(4, 2.0)
    order = [(l, k) for k in range(5) for l in range(k, 5)]
    assert [mesh.index(l, k) for l, k in order] == list(range(mesh.size))
    assert mesh.t.tolist() == [l * 0.5 for l, _ in order] and mesh.s.tolist() == [k * 0.5 for _, k in order]
    for place, node in enumerate(mesh.pairs.tolist()):
        l, k = order[node]
        assert k < l and pair_index(l, k, 4) == place
    assert mesh.row(3).tolist() == [mesh.index(3, k) for k in range(4)]


def test_sampling_on_pairs_gives_the_network_of_a_path():
    def path(t, s):
        angle = torch.as_tensor(1 + 2 * t - s)
        return angle.cos().reshape(1, 1), angle.sin().reshape(1, 1), angle.reshape(1)

    mesh = TriangleMesh(5)
    net = DenseNonLocal.from_path(path, depth=5)
    V = mesh.sample(lambda t, s: (1 + 2 * t - s).cos())[mesh.pairs]
    torch.testing.assert_close(V, net.V.detach().flatten(), rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=25)
@given(size=sizes, seed=st.integers(0, 99))
def test_energy_is_the_sum_over_legs(size, seed):
    depth, horizon, shape = size
    mesh = TriangleMesh(depth, horizon)
    values = random_values(mesh, shape, seed)
    expected = energy_by_gradients(mesh, values)
    assert float(mesh.h1_seminorm(values) ** 2) == pytest.approx(expected, rel=1e-13)


@settings(deadline=None, max_examples=25)
@given(size=sizes, seed=st.integers(0, 99))
def test_exact_mass_is_the_integral_and_lumping_obeys_its_bounds(size, seed):
    depth, horizon, shape = size
    mesh = TriangleMesh(depth, horizon)
    values = random_values(mesh, shape, seed)
    exact, lumped = (float(mesh.l2_norm(values, mass) ** 2) for mass in ("exact", "lumped"))
    assert exact == pytest.approx(mass_by_midpoints(mesh, values), rel=1e-13)
    assert -1e-13 * exact <= lumped - exact <= mesh.step**2 / 4 * float(mesh.h1_seminorm(values) ** 2) * (1 + 1e-13)
    for mass in MASSES:
        squares = float(mesh.h1_seminorm(values) ** 2 + mesh.l2_norm(values, mass) ** 2)
        assert float(mesh.h1_norm(values, mass) ** 2) == pytest.approx(squares, rel=1e-14)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_affine_functions_are_exact(depth):
    mesh = TriangleMesh(depth, 2.0)
    values = mesh.sample(lambda t, s: 3 * t - 4 * s + 1)
    assert float(mesh.h1_seminorm(values) ** 2) == pytest.approx(25 * 2.0, rel=1e-14)
    # the integral of (3t - 4s + 1)^2 over 0 <= s <= t <= 2
    assert float(mesh.l2_norm(values) ** 2) == pytest.approx(50 / 3, rel=1e-13)
    t = 2 * torch.rand(40).sqrt()
    s = t * torch.rand(40)
    torch.testing.assert_close(mesh.interpolate(values, t, s), 3 * t - 4 * s + 1, rtol=0, atol=1e-13)
    for mass in ("lumped", "reflected"):
        assert float(mesh.mass(mass).sum()) == pytest.approx(2.0, rel=1e-14)


def test_the_smallest_mesh():
    mesh = TriangleMesh(1)
    u = torch.tensor([1.0, 2.0, 5.0])
    assert mesh.size == 3 and mesh.pairs.tolist() == [1] and mesh.refined == TriangleMesh(2)
    assert float(mesh.h1_seminorm(u) ** 2) == pytest.approx((1 + 9) / 2)
    assert float(mesh.l2_norm(u) ** 2) == pytest.approx((1 + 4 + 25 + 64) / 24)
    assert float(mesh.l2_norm(u, "lumped") ** 2) == pytest.approx(30 / 6)
    assert float(mesh.l2_norm(u, "reflected") ** 2) == pytest.approx((1 + 2 * 4 + 25) / 8)


@settings(deadline=None, max_examples=25)
@given(size=sizes, seed=st.integers(0, 99))
def test_meshes_are_nested(size, seed):
    depth, horizon, shape = size
    mesh = TriangleMesh(depth, horizon)
    values = random_values(mesh, shape, seed)
    finer = mesh.prolong(values)
    assert finer.shape == (mesh.refined.size, *shape)
    torch.testing.assert_close(mesh.refined.h1_seminorm(finer), mesh.h1_seminorm(values), rtol=1e-13, atol=0)
    torch.testing.assert_close(mesh.refined.l2_norm(finer), mesh.l2_norm(values), rtol=1e-13, atol=0)
    torch.testing.assert_close(finer, mesh.interpolate(values, mesh.refined.t, mesh.refined.s), rtol=0, atol=1e-13)


def test_interpolation_agrees_with_an_independent_one():
    from matplotlib.tri import LinearTriInterpolator

    mesh, grid = TriangleMesh(5), triangle_mesh(5)
    values = random_values(mesh)
    rows = torch.tensor([mesh.index(l, k) for l in range(6) for k in range(l + 1)])
    t = torch.rand(200).sqrt()
    s = t * torch.rand(200)
    other = LinearTriInterpolator(grid, values[rows].numpy())(t.numpy(), s.numpy())
    torch.testing.assert_close(mesh.interpolate(values, t, s), torch.as_tensor(other.data), rtol=0, atol=1e-12)


def test_interpolation_returns_the_nodal_values_and_differentiates():
    mesh = TriangleMesh(7, 1.1)
    values = random_values(mesh, (2,))
    torch.testing.assert_close(mesh.interpolate(values, mesh.t, mesh.s), values, rtol=0, atol=1e-13)
    small = TriangleMesh(2)
    nodal = random_values(small, (2,)).requires_grad_()
    t, s = torch.tensor([0.3, 0.9], requires_grad=True), torch.tensor([0.1, 0.7], requires_grad=True)
    assert torch.autograd.gradcheck(small.interpolate, (nodal, t, s))
    diagonal = torch.linspace(0, 1.1, 50)
    inside = mesh.interpolate(values, diagonal, torch.nextafter(diagonal, torch.tensor(9.0)))
    torch.testing.assert_close(inside, mesh.interpolate(values, diagonal, diagonal), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(size=sizes, seed=st.integers(0, 99))
def test_sobolev_variables_are_an_isometry(size, seed):
    depth, horizon, shape = size
    mesh = TriangleMesh(depth, horizon)
    values, other = random_values(mesh, shape, seed), random_values(mesh, shape, seed + 1)
    z, w = mesh.nodal_to_sobolev(values), mesh.nodal_to_sobolev(other)
    assert float(z.square().sum()) == pytest.approx(float(mesh.h1_norm(values, "reflected") ** 2), rel=1e-13)
    torch.testing.assert_close(mesh.sobolev_to_nodal(z), values, rtol=0, atol=1e-12)
    # polarized: the basis is orthonormal, not only of length one
    plus, minus = (mesh.h1_norm(values + sign * other, "reflected") ** 2 for sign in (1, -1))
    torch.testing.assert_close((z * w).sum(), (plus - minus) / 4, rtol=1e-10, atol=1e-10)


def test_a_mesh_does_not_depend_on_the_default_dtype_at_its_first_use():
    _layout.cache_clear()
    torch.set_default_dtype(torch.float32)
    mesh = TriangleMesh(6)
    values = random_values(mesh).double()
    norms = [mesh.h1_norm(values, mass) for mass in MASSES]
    z, u = mesh.nodal_to_sobolev(values), mesh.riesz(values, "lumped")
    _layout.cache_clear()
    torch.set_default_dtype(torch.float64)
    for mass, norm in zip(MASSES, norms, strict=True):
        assert float(norm) == float(mesh.h1_norm(values, mass))
    assert torch.equal(z, mesh.nodal_to_sobolev(values)) and torch.equal(u, mesh.riesz(values, "lumped"))
    torch.testing.assert_close(mesh.sobolev_to_nodal(z), values, rtol=0, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_sobolev_variables_differentiate(depth):
    mesh = TriangleMesh(depth, 2.0)
    values = random_values(mesh, (2,)).requires_grad_()
    assert torch.autograd.gradcheck(mesh.nodal_to_sobolev, values)
    assert torch.autograd.gradcheck(mesh.sobolev_to_nodal, values)
    assert torch.autograd.gradcheck(mesh.prolong, values)
    for mass in MASSES:
        assert torch.autograd.gradcheck(lambda v, mass=mass: mesh.h1_norm(v, mass), values)


@settings(deadline=None, max_examples=25)
@given(size=sizes, mass=st.sampled_from(["lumped", "reflected"]), seed=st.integers(0, 99))
def test_a_functional_is_represented(size, mass, seed):
    depth, horizon, shape = size
    mesh = TriangleMesh(depth, horizon)
    c, other = random_values(mesh, shape, seed), random_values(mesh, shape, seed + 1)
    u = mesh.riesz(c, mass)
    assert u.shape == c.shape
    plus, minus = (mesh.h1_norm(u + sign * other, mass) ** 2 for sign in (1, -1))
    torch.testing.assert_close((plus - minus) / 4, (c * other).sum(), rtol=1e-10, atol=1e-10)


def test_norms_have_a_finite_gradient_at_zero():
    mesh = TriangleMesh(3)
    zero = torch.zeros(mesh.size, 2, requires_grad=True)
    for norm in (mesh.h1_seminorm, mesh.l2_norm, mesh.h1_norm):
        (gradient,) = torch.autograd.grad(norm(zero) ** 2, zero)
        assert bool((gradient == 0).all())


@pytest.mark.parametrize(("mass", "order"), [("exact", 2), ("lumped", 2), ("reflected", 2)])
def test_norms_of_a_smooth_function_converge(mass, order):
    from scipy.integrate import dblquad

    def density(s, t):
        u = math.cos(2 * t) * math.exp(s)
        return 2 * u**2 + (2 * math.sin(2 * t) * math.exp(s)) ** 2

    expected = dblquad(density, 0, 1, 0, lambda t: t, epsabs=1e-12)[0]
    gaps = []
    for depth in (16, 32):
        mesh = TriangleMesh(depth)
        values = mesh.sample(lambda t, s: (2 * t).cos() * s.exp())
        gaps.append(float(mesh.h1_norm(values, mass) ** 2) - expected)
    assert math.log2(abs(gaps[0] / gaps[1])) == pytest.approx(order, abs=0.1)


def test_square_is_the_triangle_and_nothing_above():
    mesh = TriangleMesh(3)
    values = mesh.sample(lambda t, s: torch.stack([t, s], 1))
    picture = mesh.square(values)
    assert picture.shape == (4, 4, 2)
    assert bool(picture.isnan().any(2).equal(torch.ones(4, 4).triu(1) > 0))
    assert picture[2, 1].tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_keep_the_dtype(dtype):
    mesh = TriangleMesh(4)
    values = random_values(mesh, (2,)).to(dtype)
    point = torch.tensor([0.5], dtype=dtype)
    results = [mesh.prolong(values), mesh.nodal_to_sobolev(values), mesh.interpolate(values, point, point)]
    results += [mesh.h1_norm(values, mass) for mass in MASSES]
    assert {result.dtype for result in results} == {dtype}


def test_handing_out_indices_does_not_hand_out_the_mesh():
    mesh = TriangleMesh(3)
    before = float(mesh.h1_seminorm(mesh.t))
    mesh.edges[0].zero_(), mesh.edges[1].zero_(), mesh.row(2).zero_(), mesh.pairs.zero_(), mesh.mass().zero_()
    assert float(TriangleMesh(3).h1_seminorm(mesh.t)) == before


def test_bad_input_is_named():
    mesh = TriangleMesh(2)
    good = torch.zeros(6)
    for bad in (0, -1, True):
        with pytest.raises(ValueError, match="depth"):
            TriangleMesh(bad)
    with pytest.raises(TypeError, match="depth: expected a positive int"):
        TriangleMesh(2.5)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="horizon"):
            TriangleMesh(2, bad)
    for method in (mesh.h1_seminorm, mesh.l2_norm, mesh.h1_norm, mesh.prolong, mesh.nodal_to_sobolev, mesh.square):
        with pytest.raises(ValueError, match=r"values: expected 6 nodal values in front for depth 2, received.*5"):
            method(torch.zeros(5))
        with pytest.raises(TypeError, match=r"values: expected a torch.Tensor, received list"):
            method([0.0] * 6)
        with pytest.raises(TypeError, match="floating"):
            method(torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="z: expected 6"):
        mesh.sobolev_to_nodal(torch.zeros(7))
    with pytest.raises(ValueError, match="mass: expected one of 'exact', 'lumped', 'reflected', received 'full'"):
        mesh.h1_norm(good, "full")
    with pytest.raises(ValueError, match="mass: expected one of 'lumped', 'reflected'"):
        mesh.mass("exact")
    with pytest.raises(ValueError, match="mass: expected one of 'lumped', 'reflected', received 'exact'"):
        mesh.riesz(good, "exact")
    with pytest.raises(ValueError, match="functional: expected 6 nodal values"):
        mesh.riesz(torch.zeros(5))
    with pytest.raises(IndexError, match="row"):
        mesh.row(3)
    with pytest.raises(IndexError, match=r"expected 0 <= k <= l <= 2, received \(1, 2\)"):
        mesh.index(1, 2)
    with pytest.raises(ValueError, match=r"function\(t, s\): expected finite entries, received (inf|nan)"):
        mesh.sample(lambda t, s: s / t)
    with pytest.raises(ValueError, match=r"function\(t, s\): expected 6"):
        mesh.sample(lambda t, s: t[:3])
    with pytest.raises(ValueError, match=r"s: expected shape \(2\)"):
        mesh.interpolate(good, torch.zeros(2), torch.zeros(3))
    for point in ((0.2, 0.3), (1.1, 0.3), (0.2, -0.1), (math.nan, 0.0)):
        with pytest.raises(ValueError, match=r"t, s: expected 0 <= s <= t <= 1, received .* at index \[1\]"):
            mesh.interpolate(good, *(torch.tensor([0.5, value]) for value in point))
