"""The exact part: NumPy float64 and HiGHS. It shares no code with play beyond the definition of a game."""

from emalign_jax.exact import comparison, conversation, partner, pooled, selection, selection_quantal  # noqa: F401 - they register their checks
from emalign_jax.exact._base import default_tolerance
from emalign_jax.exact.alignment import Alignment, align
from emalign_jax.exact.best_response import BestResponse, best_response
from emalign_jax.exact.certificate import Certificate, certify
from emalign_jax.exact.coverage import Coverage, coverage, worst_case
from emalign_jax.exact.dynamics import BestResponseDynamics
from emalign_jax.exact.premises import Premises, premises
from emalign_jax.exact.stability import Stability, stability
from emalign_jax.exact.transfers import BestTransfers, best_transfers, least_budget

__all__ = [
    "Alignment",
    "BestResponse",
    "BestResponseDynamics",
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
