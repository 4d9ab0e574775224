"""Train the networks of the chapter "Certificates on real data" and store what was measured on them.

    python notebooks/generalization/certificates_training.py
    python notebooks/generalization/certificates_training.py --store FOLDER --jobs 2

trains all of them and writes certificates_training.npz beside this file; with a folder a run that was killed
goes on where it stopped.  A case is one point of a grid and one block of seeds: the networks of a block are
trained in one stack, which is the same as one by one, since Adam acts on each entry alone and each row is
projected alone.  The chapter repeats a fixed random part of the cases and compares.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnlbook.data import breast_cancer, diamond, digit_parity
from dnlbook.generalization import Budget, BudgetedNet, loss_values, project_
from dnlbook.sweeps import sweep

STORE = Path(__file__).with_suffix(".npz")
SEEDS, BLOCK = 32, 8
MEASURES = ("train", "test", "train_error", "test_error", "true_error", "threshold", "motion")
REFERENCE, CONTROL = "ReLU", "T = 0"
ARMS: dict[str, tuple[str, tuple[float, float] | None]] = {  # activation and range of learned thresholds
    REFERENCE: ("relu", None),
    "0.3": ("soft_threshold(0.3)", None),
    "1": ("soft_threshold(1.0)", None),
    "2": ("soft_threshold(2.0)", None),
    "4": ("soft_threshold(4.0)", None),
    "from 0.3": ("soft_threshold(0.3)", (0.0, 2.0)),
    "from 2": ("soft_threshold(2.0)", (0.0, 2.0)),
    CONTROL: ("identity", None),
}
FIXED = {"0.02": ("soft_threshold(0.02)", None), "0.1": ("soft_threshold(0.1)", None)}


@dataclass(frozen=True)
class Study:
    """A grid of cases: data, the class, the training, and what is varied."""

    data: str
    budget: Budget
    width: int
    flips: float  # probability that a label is wrong, in the sample as in the test
    margin: float
    test: int
    samples: tuple[int, ...]
    depths: tuple[int, ...]
    arms: tuple[str, ...]
    steps: int = 150
    rate: float = 0.03

    @property
    def grid(self) -> dict[str, list[int] | list[str]]:
        return {"samples": list(self.samples), "depth": list(self.depths), "arm": list(self.arms)}


WIDE = Budget(B0=3, Bb0=0.5, Bb=0.5, Bout=3)
LARGE = Budget(B0=3, Bb0=0.5, BV=1.5, BW=1.5, Bb=0.5, Bout=3)
STUDIES = {
    "size": Study("digits", WIDE, 12, 0.1, 1.0, 800, (32, 64, 128, 256, 512), (8,), ("0.1",)),
    "depth": Study("digits", WIDE, 12, 0.1, 1.0, 800, (128,), (2, 4, 8, 16, 32), ("0.1",)),
    "small": Study("cancer", Budget(T=0.5), 12, 0.0, 0.5, 112, (400,), (8,), ("0.02",)),
    "crossing": Study(
        "synthetic", Budget(), 8, 0.05, 0.4, 5000, (200, 1000, 5000, 10_000, 20_000), (4,), ("0.02",), 100, 0.05
    ),
    "cancer": Study("cancer", LARGE, 10, 0.125, 1.0, 400, (48,), (6,), tuple(ARMS)),
    "digits": Study("digits", LARGE, 10, 0.125, 1.0, 800, (96,), (6,), tuple(ARMS)),
    "diamond": Study("diamond", LARGE, 10, 0.125, 1.0, 2000, (96,), (6,), tuple(ARMS)),
}
COMPARED = ("cancer", "digits", "diamond")


@cache
def pool(data: str) -> tuple[np.ndarray, np.ndarray]:
    """All data of one kind, entries in [-1, 1], and true labels.

    The features of the cancer data are standardized with 56 cases that are not in the pool, cut at two
    standard deviations and halved: nothing of a sample enters its own scaling.
    """
    if data == "cancer":
        cases = breast_cancer(test_share=0.9)
        return cases.x_test.clamp(-2, 2).div(2).numpy(), cases.y_test.numpy()
    whole = digit_parity()
    x, y = torch.cat([whole.x_train, whole.x_test]), torch.cat([whole.y_train, whole.y_test])
    return (2 * x - 1).numpy(), y.numpy()


def synthetic(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ten uniform features, four of them matter."""
    x = rng.uniform(-1, 1, (count, 10))
    return x, (x[:, 0] + 0.8 * x[:, 1] - 0.6 * x[:, 2] + 0.3 * np.sin(3 * x[:, 3]) > 0).astype(int)


def sample(study: Study, samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data and noisy labels of a sample, data and true labels of its test set.

    Smaller samples of one seed are parts of the larger ones, the test set is the same.
    """
    rng = np.random.default_rng([seed, 17])
    if study.data == "diamond":
        points = diamond(samples=samples, test_samples=study.test, flips=0.0, seed=1000 + seed)
        x, y, x_test, y_test = (part.numpy() for part in vars(points).values())
    elif study.data == "synthetic":
        (x, y), (x_test, y_test) = synthetic(samples, rng), synthetic(study.test, np.random.default_rng([seed, 18]))
    else:
        points_all, labels = pool(study.data)
        order = rng.permutation(len(labels))
        first, last = order[:samples], order[len(order) - study.test :]
        x, y, x_test, y_test = points_all[first], labels[first], points_all[last], labels[last]
    wrong = np.random.default_rng([seed, 19]).random(samples) < study.flips
    return tuple(torch.as_tensor(part) for part in (x, np.where(wrong, 1 - y, y), x_test, y_test))


def samples_of(study: Study, samples: int, seeds: range) -> list[Tensor]:
    """The samples of several seeds, stacked along a first axis."""
    return [torch.stack(parts) for parts in zip(*(sample(study, samples, seed) for seed in seeds), strict=True)]


def budget_of(study: Study, arm: str) -> Budget:
    """The budget of the class; the control has the horizon 0, so that its layers do nothing."""
    return replace(study.budget, T=0.0) if arm == CONTROL else study.budget


def network(study: Study, features: int, depth: int, arm: str, block: int) -> BudgetedNet:
    """Untrained networks of a block; all arms start from the same weights."""
    activation, learned = (ARMS | FIXED)[arm]
    return BudgetedNet(
        features,
        study.width,
        depth,
        budget_of(study, arm),
        activation=activation,
        copies=BLOCK,
        learned=learned,
        seed=block,
        dtype=torch.float64,
    )


def train(net: BudgetedNet, x: Tensor, y: Tensor, study: Study, budget: Budget | None) -> None:
    """Adam on the logistic loss of the whole sample; after each step the nearest network within the budget.

    Without a budget nothing holds the norms.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=study.rate)
    for _ in range(study.steps):
        optimizer.zero_grad()
        loss_values(net(x), y, "logistic", margin=study.margin).mean(-1).sum().backward()
        optimizer.step()
        if budget is not None:
            project_(net, budget)


@torch.no_grad()
def measured(net: BudgetedNet, study: Study, data: list[Tensor]) -> dict[str, Tensor]:
    """Mean losses of every network of a stack, the mean threshold, and how far the layers move the data.

    The test loss is the mean over all wrong labels: its expectation given the test data.
    """
    x, y, x_test, y_test = data
    f, states = net(x), net.states(x_test)
    f_test = states[-1] @ net.W_out.mT

    def noisy(loss: str) -> Tensor:
        right, wrong = (
            loss_values(f_test, label, loss, margin=study.margin).mean(-1) for label in (y_test, 1 - y_test)
        )
        return (1 - study.flips) * right + study.flips * wrong

    alpha = torch.as_tensor(net.activation.thresholds[0]) if net.thresholds is None else net.thresholds.mean((-1, -2))
    values = (
        loss_values(f, y, "ramp", margin=study.margin).mean(-1),
        noisy("ramp"),
        loss_values(f, y, "zero_one").mean(-1),
        noisy("zero_one"),
        loss_values(f_test, y_test, "zero_one").mean(-1),
        alpha.expand(len(f)),
        (states[-1] - states[0]).abs().mean((-1, -2)) / states[0].abs().mean((-1, -2)),
    )
    return dict(zip(MEASURES, values, strict=True))


def run(study: str, samples: int, depth: int, arm: str, block: int) -> dict[str, Tensor]:
    """Train and measure one block of networks."""
    plan = STUDIES[study]
    data = samples_of(plan, samples, range(BLOCK * block, BLOCK * (block + 1)))
    net = network(plan, data[0].shape[-1], depth, arm, block)
    train(net, data[0], data[1], plan, net.budget)
    return measured(net, plan, data)


def load() -> dict[str, np.ndarray]:
    """What the sweep measured: arrays of shape (samples, depths, arms, seeds, measures), one for each study."""
    with np.load(STORE, allow_pickle=False) as store:
        return {name: store[name] for name in STUDIES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="folder that keeps finished cases")
    parser.add_argument("--jobs", type=int, default=1, help="number of workers")
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    found = {}
    for name, study in STUDIES.items():
        grid = {"study": [name], **study.grid, "block": list(range(SEEDS // BLOCK))}
        results = sweep(run, grid, jobs=options.jobs, store=options.store)
        values = np.stack([np.stack([case[measure] for measure in MEASURES], -1) for case in results])
        sizes = (len(study.samples), len(study.depths), len(study.arms), SEEDS, len(MEASURES))
        found[name] = values.reshape(sizes)
    np.savez_compressed(STORE, **found)
    print(f"{STORE.name}: {STORE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
