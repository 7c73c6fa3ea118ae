"""How a belief becomes an action: one file a user."""

from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.perception import AbstractPerception, BaseRateNeglect, Conservative, SubjectivePrior
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser
from emalign_jax.users.sparsemax import SparsemaxUser

__all__ = [
    "AbstractPerception", "AbstractUser", "BaseRateNeglect", "Conservative", "FixedReplies", "Options", "QuantalUser",
    "RationalUser", "SparsemaxUser", "SubjectivePrior",
]  # fmt: skip
