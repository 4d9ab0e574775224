"""Data sets have the geometry, the sizes and the splits that they promise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnlbook import data

GENERATED = [data.two_circles, data.two_spirals, data.diamond]
SHIPPED = [data.digits, data.digit_parity, data.breast_cancer]


@pytest.mark.parametrize("make", GENERATED, ids=lambda f: f.__name__)
@given(samples=st.integers(1, 40), seed=st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_sizes_types_and_reproducibility(make, samples, seed):
    points, again = (
        make(samples=samples, test_samples=7, seed=seed),
        make(samples=samples, test_samples=7, seed=seed),
    )
    assert points.x_train.shape[0] == points.y_train.shape[0] == samples and points.x_test.shape[0] == 7
    assert points.x_train.dtype == torch.float64 and points.y_train.dtype == torch.int64
    assert torch.equal(points.x_train, again.x_train) and torch.equal(points.y_train, again.y_train)
    assert not torch.equal(points.x_train, make(samples=samples, test_samples=7, seed=seed + 1).x_train)


@pytest.mark.parametrize("make", GENERATED, ids=lambda f: f.__name__)
def test_training_and_test_points_are_independent_of_each_others_size(make):
    assert torch.equal(make(samples=5, test_samples=9).x_test, make(samples=50, test_samples=9).x_test)


def test_circles_and_spirals_lie_where_they_should():
    circles = data.two_circles(noise=0.0, inner=0.4)
    radius = torch.where(circles.y_train == 0, 1.0, 0.4).double()
    assert torch.allclose(circles.x_train.norm(dim=1), radius)
    spirals = data.two_spirals(noise=0.0, turns=1.5)
    r = spirals.x_train.norm(dim=1)
    angle = torch.pi * (1.5 * r + spirals.y_train)
    assert torch.allclose(spirals.x_train, r[:, None] * torch.stack([angle.cos(), angle.sin()], 1))


def test_noise_has_the_stated_size():
    quiet, loud = data.two_circles(samples=4000, noise=0.0), data.two_circles(samples=4000, noise=0.3)
    assert (loud.x_train - quiet.x_train).std().item() == pytest.approx(0.3, rel=0.05)


def test_only_training_labels_of_the_diamond_are_flipped():
    noisy = data.diamond(samples=4000, flips=0.2)
    rule = lambda x: (x[:, :2].abs().sum(1) > 1).long()  # noqa: E731
    assert (rule(noisy.x_train) != noisy.y_train).double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(rule(noisy.x_test), noisy.y_test)


def test_shipped_data_and_their_splits():
    digits, parity, cancer = (make() for make in SHIPPED)
    assert digits.x_train.shape == (1347, 64) and digits.x_test.shape == (450, 64) and digits.classes == 10
    assert 0 <= digits.x_train.min() and digits.x_train.max() == 1
    assert torch.equal(parity.x_test, digits.x_test) and torch.equal(parity.y_test, digits.y_test % 2)
    assert cancer.x_train.shape == (426, 30) and torch.allclose(cancer.x_train.std(0, correction=0), torch.ones(30))
    counts = torch.bincount(digits.y_test)
    assert counts.max() - counts.min() <= 4  # stratified


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (data.two_circles, {"samples": 0}, "samples: expected an int of at least 1"),
        (data.two_circles, {"noise": -0.1}, "noise: expected a number of at least 0"),
        (data.two_circles, {"inner": 1.0}, r"inner: expected a radius in \(0, 1\), received 1.0"),
        (data.two_circles, {"seed": -1}, "seed: expected an int of at least 0, received -1"),
        (data.two_spirals, {"turns": 0}, "turns: expected a number above 0"),
        (data.two_spirals, {"test_samples": 2.5}, "test_samples: expected a positive int"),
        (data.diamond, {"features": 1}, "features: expected at least 2, received 1"),
        (data.diamond, {"flips": 0.5}, r"flips: expected a share in \[0, 0.5\), received 0.5"),
        (data.digits, {"test_share": 1.0}, r"test_share: expected a share in \(0, 1\), received 1.0"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**options)
