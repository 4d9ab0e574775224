"""Generalization of flows: budgets, the complexity of their classes, bounds and certificates.

The one address of the part on generalization; each name is documented in the file that defines it.
"""

from dnlbook.bounds import DepthTable, RecursionBound, depth_limit, learned_thresholds_bound
from dnlbook.budgets import Budget, BudgetedNet, project_, project_rows, row_norms
from dnlbook.certificates import (
    Certificate,
    LossSpec,
    certificate,
    confidence,
    posterior_certificate,
)
from dnlbook.comparators import (
    LayerwiseBound,
    LipschitzPathBound,
    NaiveBound,
    ParameterCoverBound,
    PathNormBound,
    SpectralBound,
    path_norm,
)
from dnlbook.complexities import Complexity, RademacherBound, Support, largest_states, massart
from dnlbook.gaps import Gap, WorstCaseGap, generalization_gap, loss_values, mean_interval, worst_case_gap
from dnlbook.rademacher import (
    RademacherEstimate,
    all_signs,
    empirical_rademacher,
    exact_rademacher_linear,
    linear_suprema,
    mean_abs_sum,
    random_signs,
)
from dnlbook.structural import StructuralBound, StructuralComplexity, structural_constant_1d

__all__ = [
    "Budget",
    "BudgetedNet",
    "Certificate",
    "Complexity",
    "DepthTable",
    "Gap",
    "LayerwiseBound",
    "LipschitzPathBound",
    "LossSpec",
    "NaiveBound",
    "ParameterCoverBound",
    "PathNormBound",
    "RademacherBound",
    "RademacherEstimate",
    "RecursionBound",
    "SpectralBound",
    "StructuralBound",
    "StructuralComplexity",
    "Support",
    "WorstCaseGap",
    "all_signs",
    "certificate",
    "confidence",
    "depth_limit",
    "empirical_rademacher",
    "exact_rademacher_linear",
    "generalization_gap",
    "largest_states",
    "learned_thresholds_bound",
    "linear_suprema",
    "loss_values",
    "massart",
    "mean_abs_sum",
    "mean_interval",
    "path_norm",
    "posterior_certificate",
    "project_",
    "project_rows",
    "random_signs",
    "row_norms",
    "structural_constant_1d",
    "worst_case_gap",
]
