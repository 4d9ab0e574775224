"""The constants of an activation are what they are said to be."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnlbook.activations import Activation, activation, identity, relu, soft_threshold, tanh

ALL = [tanh, relu, identity, soft_threshold(0.4), soft_threshold(0.2, 0.7), soft_threshold(0.0)]
REAL = st.floats(-20, 20)


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
@given(x=REAL, y=REAL)
def test_lipschitz_constant_is_never_exceeded(sigma, x, y):
    a, b = sigma(torch.tensor([x, y]))
    assert abs(a - b) <= sigma.lipschitz * abs(x - y) + 1e-12


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_lipschitz_constant_is_sharp(sigma):
    z = torch.linspace(-3, 3, 601)
    assert math.isclose(sigma.derivative(z).max(), sigma.lipschitz, abs_tol=1e-12)


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_odd_means_odd(sigma):
    z = torch.linspace(-3, 3, 601)
    assert torch.allclose(sigma(-z), -sigma(z)) == sigma.odd


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_derivative_is_autograds_away_from_kinks(sigma):
    z = torch.linspace(-3.0013, 3.0007, 401, requires_grad=True)
    (auto,) = torch.autograd.grad(sigma(z).sum(), z)
    assert torch.allclose(sigma.derivative(z.detach()), auto, atol=1e-14)
    assert torch.equal(sigma.slope(z.detach(), sigma(z.detach())), sigma.derivative(z.detach()))


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_bound_is_the_supremum(sigma):
    far = sigma(torch.tensor([-1e6, 1e6])).abs().max().item()
    assert far <= sigma.bound
    assert (sigma.bound == math.inf) == (far > 1e5)


def test_contraction_constants():
    assert (tanh.kappa, relu.kappa, identity.kappa) == (1.0, 1.5, 1.0)
    assert (soft_threshold(0.3).kappa, soft_threshold(0.3, 0.4).kappa) == (1.0, 2.0)


def test_shrinkage_vanishes_exactly_on_its_dead_zone():
    z = torch.linspace(-1, 1, 2001)
    dead = soft_threshold(0.25, 0.5)(z) == 0
    assert torch.equal(dead, (z <= 0.25) & (z >= -0.5))


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_name_alone_restores_an_activation(sigma):
    z = torch.linspace(-2, 2, 41)
    for again in (activation(sigma.name), pickle.loads(pickle.dumps(sigma)), copy.deepcopy(sigma)):
        assert again == sigma and torch.equal(again(z), sigma(z))
    assert activation(sigma) is sigma


@pytest.mark.parametrize("name", ["Tanh", "", "gelu", None, 3, "soft_threshold(x)", "soft_threshold(1, 2, 3)"])
def test_unknown_names_are_named_in_the_error(name):
    with pytest.raises(ValueError, match="name: expected"):
        activation(name)


def test_activation_class_itself_refuses_unknown_names():
    with pytest.raises(ValueError, match="received 'elu'"):
        Activation("elu")


@pytest.mark.parametrize("thresholds", [(-0.1,), (0.1, -1.0), (math.nan,), (math.inf, 1.0)])
def test_thresholds_must_be_nonnegative_numbers(thresholds):
    with pytest.raises(ValueError, match="alpha|beta"):
        soft_threshold(*thresholds)
    with pytest.raises(TypeError, match="alpha: expected a number"):
        soft_threshold("wide")


@pytest.mark.parametrize("sigma", ALL, ids=lambda s: s.name)
def test_an_activation_vanishes_exactly_between_its_thresholds(sigma):
    alpha, beta = sigma.thresholds
    z = torch.linspace(-3, 3, 6001)
    assert torch.equal(sigma(z) == 0, (z <= alpha) & (z >= -beta))
