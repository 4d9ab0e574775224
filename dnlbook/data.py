"""Data sets: generated, or shipped with scikit-learn, with fixed splits; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnlbook import _checks

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """Inputs and integer labels of a training and a test set.

    Source: chapter *How to use this book*, data.

    Attributes
    ----------
    x_train, x_test : Tensor, shapes ``(S, n)`` and ``(S', n)``, float64
    y_train, y_test : Tensor, shapes ``(S,)`` and ``(S',)``, int64

    Examples
    --------
    >>> points = two_circles(samples=8, test_samples=4)
    >>> points.x_train.shape, points.y_test.shape, points.classes
    (torch.Size([8, 2]), torch.Size([4]), 2)
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def classes(self) -> int:
        """How many labels there are: 0 .. classes - 1."""
        return int(torch.cat([self.y_train, self.y_test]).max()) + 1


def _tensors(train: Arrays, test: Arrays) -> Dataset:
    (x_train, y_train), (x_test, y_test) = train, test
    return Dataset(
        torch.as_tensor(x_train, dtype=torch.float64),
        torch.as_tensor(y_train, dtype=torch.int64),
        torch.as_tensor(x_test, dtype=torch.float64),
        torch.as_tensor(y_test, dtype=torch.int64),
    )


def _generated(
    draw: Callable[[int, np.random.Generator], Arrays], samples: int, test_samples: int, seed: int
) -> Dataset:
    """Draw both sets from independent streams of one seed."""
    counts = [_checks.positive_int("samples", samples), _checks.positive_int("test_samples", test_samples)]
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an int of at least 0, received {seed!r}")
    train, test = (draw(count, np.random.default_rng([seed, part])) for part, count in enumerate(counts))
    return _tensors(train, test)


def two_circles(
    *, samples: int = 200, test_samples: int = 1000, noise: float = 0.05, inner: float = 0.5, seed: int = 0
) -> Dataset:
    r"""Two concentric circles: label 0 at radius 1, label 1 at radius ``inner``, Gaussian noise.

    No homeomorphism of the plane makes them linearly separable.
    Source: chapters *A neural ODE has two adjoints* and *What a flow cannot do*.

    Parameters
    ----------
    samples, test_samples : int
        Sizes, labels alternate.
    noise : float
        Standard deviation, at least 0.
    inner : float
        Radius of the inner circle, in (0, 1).
    seed : int

    Raises
    ------
    ValueError
        If a size is not positive, the noise is negative or the radius is not in (0, 1).

    Examples
    --------
    >>> circles = two_circles(noise=0.0)
    >>> bool((circles.x_train.norm(dim=1) - 1)[circles.y_train == 0].abs().max() < 1e-12)
    True
    """
    spread = _checks.nonnegative_float("noise", noise)
    if not 0 < _checks.finite_float("inner", inner) < 1:
        raise ValueError(f"inner: expected a radius in (0, 1), received {inner!r}")

    def draw(count: int, rng: np.random.Generator) -> Arrays:
        label = np.arange(count) % 2
        angle, radius = 2 * np.pi * rng.random(count), np.where(label == 0, 1.0, inner)
        points = radius[:, None] * np.c_[np.cos(angle), np.sin(angle)]
        return points + spread * rng.normal(size=points.shape), label

    return _generated(draw, samples, test_samples, seed)


def two_spirals(
    *, samples: int = 200, test_samples: int = 1000, noise: float = 0.05, turns: float = 1.25, seed: int = 0
) -> Dataset:
    r"""Two spirals :math:`r\,(\cos\varphi,\sin\varphi)` with :math:`\varphi=\pi\,(\text{turns}\cdot r+y)`.

    The radius r lies in [0, 2] with uniform area density; label y is 0 or 1.
    Source: chapter *A neural ODE has two adjoints*.

    Parameters
    ----------
    samples, test_samples : int
        Sizes, labels alternate.
    noise : float
        Standard deviation, at least 0.
    turns : float
        Turns of each arm, above 0.
    seed : int

    Raises
    ------
    ValueError
        If a size or the number of turns is not positive, or the noise is negative.

    Examples
    --------
    >>> spirals = two_spirals(noise=0.0)
    >>> bool(spirals.x_train.norm(dim=1).max() <= 2)
    True
    """
    spread = _checks.nonnegative_float("noise", noise)
    winding = _checks.positive_float("turns", turns)

    def draw(count: int, rng: np.random.Generator) -> Arrays:
        label, radius = np.arange(count) % 2, 2 * np.sqrt(rng.random(count))
        angle = np.pi * (winding * radius + label)
        points = radius[:, None] * np.c_[np.cos(angle), np.sin(angle)]
        return points + spread * rng.normal(size=points.shape), label

    return _generated(draw, samples, test_samples, seed)


def diamond(
    *, samples: int = 96, test_samples: int = 2000, features: int = 6, flips: float = 0.1, seed: int = 0
) -> Dataset:
    r"""Gaussian features and the label :math:`y=1` where :math:`|d_0|+|d_1|>1`, a share of labels flipped.

    Only training labels are flipped.  Source: chapter *Certificates on real data hold, and say little*.

    Parameters
    ----------
    samples, test_samples, features : int
        Sizes; at least 2 features.
    flips : float
        Share of flipped training labels, in [0, 1/2).
    seed : int

    Raises
    ------
    ValueError
        If a size is not positive, there are fewer than 2 features, or flips is outside of [0, 1/2).

    Examples
    --------
    >>> clean = diamond(flips=0.0)
    >>> bool(((clean.x_train[:, :2].abs().sum(1) > 1).long() == clean.y_train).all())
    True
    """
    if _checks.positive_int("features", features) < 2:
        raise ValueError(f"features: expected at least 2, received {features!r}")
    if not 0 <= _checks.finite_float("flips", flips) < 0.5:
        raise ValueError(f"flips: expected a share in [0, 0.5), received {flips!r}")

    def draw(count: int, rng: np.random.Generator) -> Arrays:
        points = rng.normal(size=(count, features))
        return points, (np.abs(points[:, :2]).sum(1) > 1).astype(int)

    clean = _generated(draw, samples, test_samples, seed)
    flipped = torch.as_tensor(np.random.default_rng([seed, 2]).random(samples) < flips)
    return Dataset(clean.x_train, torch.where(flipped, 1 - clean.y_train, clean.y_train), clean.x_test, clean.y_test)


def _split(x: np.ndarray, y: np.ndarray, test_share: float, seed: int) -> Dataset:
    from sklearn.model_selection import train_test_split

    if not 0 < _checks.finite_float("test_share", test_share) < 1:
        raise ValueError(f"test_share: expected a share in (0, 1), received {test_share!r}")
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=test_share, random_state=seed, stratify=y)
    return _tensors((x_train, y_train), (x_test, y_test))


def digits(*, test_share: float = 0.25, seed: int = 0) -> Dataset:
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels scaled to [0, 1], stratified split.

    Source: chapter *Is a trained ResNet a discretization?*

    Parameters
    ----------
    test_share : float
        Share of the test set, in (0, 1).
    seed : int
        Of the split.

    Raises
    ------
    ValueError
        If test_share is not in (0, 1).

    Examples
    --------
    >>> digits().x_train.shape, digits().classes
    (torch.Size([1347, 64]), 10)
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _split(x / 16.0, y, test_share, seed)


def digit_parity(*, test_share: float = 0.25, seed: int = 0) -> Dataset:
    """The pixels of :func:`digits` with the label 1 for odd digits; the same split.

    Source: chapter *Certificates on real data hold, and say little*.
    Parameters and errors are those of :func:`digits`.

    Examples
    --------
    >>> digit_parity().classes
    2
    """
    whole = digits(test_share=test_share, seed=seed)
    return Dataset(whole.x_train, whole.y_train % 2, whole.x_test, whole.y_test % 2)


def breast_cancer(*, test_share: float = 0.25, seed: int = 0) -> Dataset:
    """The 569 cases of scikit-learn's breast cancer data, features standardized on the training set.

    Source: chapter *Certificates on real data hold, and say little*.
    Parameters and errors are those of :func:`digits`.

    Examples
    --------
    >>> cases = breast_cancer()
    >>> bool(cases.x_train.mean(0).abs().max() < 1e-12), cases.classes
    (True, 2)
    """
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    raw = _split(x, y, test_share, seed)
    mean, std = raw.x_train.mean(0), raw.x_train.std(0, correction=0)
    return Dataset((raw.x_train - mean) / std, raw.y_train, (raw.x_test - mean) / std, raw.y_test)
