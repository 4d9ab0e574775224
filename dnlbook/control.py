"""Learning as optimal control: problems, costates, Hamiltonians and the methods that use them."""

from __future__ import annotations

from dnlbook._learning import LearningProblem, data_term, hamiltonian, objective
from dnlbook.costates import CostateSolution, costate, costate_equation, gradient
from dnlbook.linear_quadratic import LinearQuadraticProblem
from dnlbook.multilevel import MultilevelHistory, NonFiniteObjective, TrainedControl, train_multilevel
from dnlbook.successive_approximation import (
    ControlProblem,
    FeatureControl,
    PerceptronControl,
    PointwiseHamiltonian,
    SuccessiveApproximation,
    successive_approximation,
)

__all__ = [
    "ControlProblem",
    "CostateSolution",
    "FeatureControl",
    "LearningProblem",
    "LinearQuadraticProblem",
    "MultilevelHistory",
    "NonFiniteObjective",
    "PerceptronControl",
    "PointwiseHamiltonian",
    "SuccessiveApproximation",
    "TrainedControl",
    "costate",
    "costate_equation",
    "data_term",
    "gradient",
    "hamiltonian",
    "objective",
    "successive_approximation",
    "train_multilevel",
]
