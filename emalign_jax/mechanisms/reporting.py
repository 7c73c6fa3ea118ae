"""How much of what she knows the user tells the agents."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emalign_jax.games.game import Game
from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, check_share, logit


class Reporting(AbstractMechanism):
    """Before the agents talk she makes a public report r of x_A: with probability `share` r = x_A, else r is drawn at
    random. One share for all games; she commits to it.

    Under the mechanism the game is another one: the agents see (x_B, r), and she (x_A, r), as she knows what she
    reported; the law of r given x_A is the garbling. That is the sound reading: if agents saw a report that she forgot,
    she would misread what depends on it. All certificates then apply as they are. Sizes grow by XA on both sides, and
    agents need more messages. At share 0 the report is a public coin.
    """

    name = "reporting"

    start: float = setting("start", 0.5, number, *FINITE)

    def __check_init__(self):
        check_share("reporting", self.start)

    def init(self, games):
        return {"share": jnp.asarray(logit(self.start))}

    def apply(self, params, games, protocol, user):
        share, (*batch, XA, XB, Y) = jax.nn.sigmoid(params["share"]), games.prior.shape
        report = share * jnp.eye(XA) + (1 - share) / XA  # [x_A, r]
        joint = games.prior[..., :, None, :, None, :] * report[:, :, None, None, None]  # [x_A, r, x_B, 1, y]
        joint = joint * jnp.eye(XA)[None, :, None, :, None]  # [x_A, r, x_B, r', y], r' = r
        prior = joint.reshape(*batch, XA * XA, XB * XA, Y)
        return Game(prior, games.user_utility, games.agent_utilities, check="shapes"), protocol, user

    def describe(self, params):
        return {"share": jax.nn.sigmoid(params["share"])}

    def check(self, games, protocol, user):
        if games.user_features < 2:
            raise ValueError("reporting: the user knows nothing she could report, XA = 1")
