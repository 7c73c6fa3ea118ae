"""How a belief becomes an action: one file a user."""

from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser
from emalign_jax.users.sparsemax import SparsemaxUser

__all__ = ["AbstractUser", "FixedReplies", "Options", "QuantalUser", "RationalUser", "SparsemaxUser"]
