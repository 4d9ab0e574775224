"""Learning as optimal control: problems, costates, Hamiltonians and the methods that use them."""

from __future__ import annotations

from dnlbook._learning import LearningProblem, data_term, hamiltonian, objective
from dnlbook.costates import CostateSolution, costate, costate_equation, gradient
from dnlbook.multilevel import MultilevelHistory, NonFiniteObjective, TrainedControl, train_multilevel

__all__ = [
    "CostateSolution",
    "LearningProblem",
    "MultilevelHistory",
    "NonFiniteObjective",
    "TrainedControl",
    "costate",
    "costate_equation",
    "data_term",
    "gradient",
    "hamiltonian",
    "objective",
    "train_multilevel",
]
