"""Mechanisms: what a user, a platform or a regulator can set, with parameters that optax can tune."""

from emalign_jax.mechanisms.base import MECHANISMS, AbstractMechanism, Several
from emalign_jax.mechanisms.budget import MessageBudget
from emalign_jax.mechanisms.listing import Listing
from emalign_jax.mechanisms.precision import UserPrecision
from emalign_jax.mechanisms.reporting import Reporting
from emalign_jax.mechanisms.temperature import SelectionTemperature
from emalign_jax.mechanisms.transfers import Transfers

__all__ = [
    "MECHANISMS",
    "AbstractMechanism",
    "Listing",
    "MessageBudget",
    "Reporting",
    "SelectionTemperature",
    "Several",
    "Transfers",
    "UserPrecision",
]
