"""How many messages agents may use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, check_not_negative, logit
from emalign_jax.mechanisms.channel import Channel, check_listens


class MessageBudget(AbstractMechanism):
    """A smoothed budget b in (1, M) of messages, the same in all games.

    Message s = 1, 2, ... arrives with probability sigmoid((b + 1/2 - s) / width), the first one always. Otherwise the
    first message arrives in its place, which the user cannot tell from the first message itself. In the limit
    width -> 0 with an integer b, agents have b messages.

    Args:
        start: where b starts, as a share of the way from 1 to M.
        width: of the sigmoid.
        price: of a message, in units of the user's utility; the cost is price * b.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> budget, games = em.mechanisms.MessageBudget(price=0.01), em.catalog.two_users()
        >>> budget.arrives(budget.init(games), em.full_revelation(2, 2, 2)).shape
        (2, 2, 2)

    Source: section 6.8 of docs/model.md.
    """

    name = "messages"

    start: float = setting("start", 0.7, number, *FINITE)
    width: float = setting("width", 0.25, number, *FINITE)
    price: float = setting("price", 0.0, number, *FINITE)

    def __check_init__(self):
        if not 0 < self.start < 1:
            raise ValueError(f"messages: expected a share strictly between 0 and 1 to start from, got {self.start}")
        if not 0 < self.width < np.inf:
            raise ValueError(f"width: expected a finite number > 0, got {self.width}")
        check_not_negative("price", self.price)

    def init(self, games):
        return {"budget": jnp.asarray(logit(self.start))}

    def apply(self, params, games, protocol, user):
        transition = self._transition(params, protocol.messages(games))
        return games, Channel(protocol, jnp.broadcast_to(transition, (games.agents, *transition.shape))), user

    def _transition(self, params, messages: int):
        b = 1 + (messages - 1) * jax.nn.sigmoid(params["budget"])
        passes = jax.nn.sigmoid((b + 0.5 - jnp.arange(1, messages + 1, dtype=b.dtype)) / self.width).at[0].set(1)
        return jnp.diag(passes).at[:, 0].add(1 - passes)

    def describe(self, params):
        return {"budget_share": jax.nn.sigmoid(params["budget"])}

    def cost(self, params, games):
        return jnp.full(games.batch_shape, self.price) * (
            1 + (games.agent_features - 1) * jax.nn.sigmoid(params["budget"])
        )

    def arrives(self, params, schemes):
        return schemes @ self._transition(params, schemes.shape[-1])

    def check(self, games, protocol, user):
        check_listens("messages", protocol)
