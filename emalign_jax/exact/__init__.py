"""Certificates, guarantees, the equilibrium set and alignment fits, in NumPy float64 and HiGHS.

Payoffs are computed independently of `protocols/`, except for protocols and users without a registered check.
"""

from emalign_jax.exact.alignment.fits import Alignment, align
from emalign_jax.exact.certificates.best_responses import BestResponse, best_response
from emalign_jax.exact.certificates.certificate import Certificate, certify
from emalign_jax.exact.checks import (  # noqa: F401 - importing them registers their checks
    comparison,
    conversation,
    pooled,
    selection_conversation,
    selection_quantal,
    selection_rational,
)
from emalign_jax.exact.checks.base import default_tolerance
from emalign_jax.exact.guarantees.conversation_premises import Premises, premises
from emalign_jax.exact.guarantees.coverage_lp import Coverage, coverage, worst_case
from emalign_jax.exact.guarantees.equilibrium_bounds import EquilibriumBounds, equilibrium_bounds
from emalign_jax.exact.guarantees.equilibrium_set import Stability, stability
from emalign_jax.exact.guarantees.market import Market, MarketSolver, MarketValues, market
from emalign_jax.exact.guarantees.optimal_transfers import BestTransfers, best_transfers, least_budget

__all__ = [
    "Alignment",
    "BestResponse",
    "BestTransfers",
    "Certificate",
    "Coverage",
    "EquilibriumBounds",
    "Market",
    "MarketSolver",
    "MarketValues",
    "Premises",
    "Stability",
    "align",
    "best_response",
    "best_transfers",
    "certify",
    "coverage",
    "default_tolerance",
    "equilibrium_bounds",
    "least_budget",
    "market",
    "premises",
    "stability",
    "worst_case",
]
