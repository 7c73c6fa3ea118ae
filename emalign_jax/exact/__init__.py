"""The exact part: NumPy float64 and HiGHS. It shares no code with play beyond the definition of a game."""

from emalign_jax.exact.alignment.fits import Alignment, align
from emalign_jax.exact.certificates.best_responses import BestResponse, best_response
from emalign_jax.exact.certificates.certificate import Certificate, certify
from emalign_jax.exact.checks import (  # noqa: F401 - they register their checks
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
from emalign_jax.exact.guarantees.equilibrium_set import Stability, stability
from emalign_jax.exact.guarantees.optimal_transfers import BestTransfers, best_transfers, least_budget

__all__ = [
    "Alignment",
    "BestResponse",
    "BestTransfers",
    "Certificate",
    "Coverage",
    "Premises",
    "Stability",
    "align",
    "best_response",
    "best_transfers",
    "certify",
    "coverage",
    "default_tolerance",
    "least_budget",
    "premises",
    "stability",
    "worst_case",
]
