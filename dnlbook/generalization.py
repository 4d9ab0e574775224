"""Generalization of flows: budgets, the complexity of their classes, bounds and certificates.

The one address of the part on generalization; each name is documented in the file that defines it.
"""

from dnlbook.bounds import DepthTable, RecursionBound, depth_limit
from dnlbook.budgets import Budget, BudgetedNet, project_, project_rows, row_norms
from dnlbook.certificates import (
    Certificate,
    LossSpec,
    certificate,
    confidence,
    posterior_certificate,
)
from dnlbook.complexities import Complexity, RademacherBound, Support, massart
from dnlbook.rademacher import (
    RademacherEstimate,
    all_signs,
    empirical_rademacher,
    exact_rademacher_linear,
    linear_suprema,
    mean_abs_sum,
    random_signs,
)
from dnlbook.structural import StructuralBound, StructuralComplexity

__all__ = [
    "Budget",
    "BudgetedNet",
    "Certificate",
    "Complexity",
    "DepthTable",
    "LossSpec",
    "RademacherBound",
    "RademacherEstimate",
    "RecursionBound",
    "StructuralBound",
    "StructuralComplexity",
    "Support",
    "all_signs",
    "certificate",
    "confidence",
    "depth_limit",
    "empirical_rademacher",
    "exact_rademacher_linear",
    "linear_suprema",
    "massart",
    "mean_abs_sum",
    "posterior_certificate",
    "project_",
    "project_rows",
    "random_signs",
    "row_norms",
]
