"""Which agents are listed, how often."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, check_not_negative, check_share, logit
from emalign_jax.mechanisms.channel import Channel, check_listens


class Listing(AbstractMechanism):
    """Agent i is listed with probability w_i, independently; an agent that is not listed cannot be heard.

    The user sees which agents are listed: in place of the message of another agent the extra message "not listed"
    arrives. In Selection the user picks an agent by the value of its scheme given how often it is listed. w [K] is the
    same for all games, so agent i must mean the same in all of them (in `random_games` agents are exchangeable, except
    in "opposed").

    Args:
        start: the probability w_i to start from.
        price: of listing an agent with probability 1, in units of the user's utility; the cost is price * sum_i w_i.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> listing, games = em.mechanisms.Listing(start=0.9), em.catalog.two_users()
        >>> [round(float(w), 3) for w in listing.describe(listing.init(games))["listed"]]
        [0.9, 0.9]

    Source: section 6.8 of docs/model.md.
    """

    name = "listing"

    start: float = setting("start", 0.9, number, *FINITE)
    price: float = setting("price", 0.0, number, *FINITE)

    def __check_init__(self):
        check_share("listing", self.start)
        check_not_negative("price", self.price)

    def init(self, games):
        return {"listed": jnp.full(games.agents, logit(self.start))}

    def apply(self, params, games, protocol, user):
        return games, Channel(protocol, self._transition(params, protocol.messages(games))), user

    def _transition(self, params, messages: int):
        w = jax.nn.sigmoid(params["listed"])[:, None, None]
        K = len(params["listed"])
        heard = jnp.broadcast_to(jnp.eye(messages), (K, messages, messages)) * w
        return jnp.concatenate([heard, jnp.broadcast_to(1 - w, (K, messages, 1))], -1)

    def describe(self, params):
        return {"listed": jax.nn.sigmoid(params["listed"])}

    def cost(self, params, games):
        return jnp.full(games.batch_shape, self.price) * jax.nn.sigmoid(params["listed"]).sum()

    def arrives(self, params, schemes):
        return jnp.einsum("...irm,imn->...irn", schemes, self._transition(params, schemes.shape[-1]))

    def check(self, games, protocol, user):
        check_listens("listing", protocol)
