"""A public report of the user's features, before the agents talk."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emalign_jax.games.game import Game
from emalign_jax.games.labels import paired
from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, check_share, logit


class Reporting(AbstractMechanism):
    """Before the agents talk, the user makes a public report r of x_A.

    r = x_A with probability `share`, otherwise r is drawn uniformly. The user commits to the share, which is the same
    for all games. Under the mechanism agents see (x_B, r) and the user sees (x_A, r), so that the user knows what
    messages depend on, and all certificates hold for the new game. XA and XB both grow by the factor XA, and agents
    need more messages. With share 0 the report is public noise.

    Args:
        start: the share to start from.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> mechanism, game = em.mechanisms.Reporting(), em.catalog.what_to_ask(bits=2)
        >>> games = jax.tree.map(lambda x: x[None], game.labelled(None))
        >>> mechanism.apply(mechanism.init(games), games, em.Pooled(), em.QuantalUser(5.0))[0].prior.shape
        (1, 4, 8, 2)

    Source: section 6.8 of docs/model.md.
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
        reports = games.names("user_features")
        labels = games.labels and games.labels.replace(
            user_features=paired(reports, ", says ", reports),
            agent_features=paired(games.names("agent_features"), ", told ", reports),
        )
        changed = Game(prior, games.user_utility, games.agent_utilities, check="shapes", labels=labels)
        return changed, protocol, user

    def describe(self, params):
        return {"share": jax.nn.sigmoid(params["share"])}

    def check(self, games, protocol, user):
        if games.user_features < 2:
            raise ValueError("reporting: expected games with XA >= 2, there is nothing to report with XA = 1")
