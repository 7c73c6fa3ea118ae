"""How the user talks to the agents: one file a protocol."""

from emalign_jax.protocols.base import AbstractProtocol, Payoffs, options_of
from emalign_jax.protocols.comparison import Comparison
from emalign_jax.protocols.conversation import Conversation
from emalign_jax.protocols.pooled import Pooled
from emalign_jax.protocols.sampled_conversation import SampledConversation, SampledGradient, SampledPayoffs
from emalign_jax.protocols.selection import Selection

__all__ = [
    "AbstractProtocol",
    "Comparison",
    "Conversation",
    "Payoffs",
    "Pooled",
    "SampledConversation",
    "SampledGradient",
    "SampledPayoffs",
    "Selection",
    "options_of",
]
