"""Schemes that come near a supremum under a tie rule other than "as recommended".

Proposition 6 (section 10 of docs/model.md): into the belief of each recommendation a small share of a belief is mixed
at which the tie rule plays that recommendation; what is left over of each x_B is revealed. The share is bounded by the
loss of user value that it causes, because an agent worth less to the user than a rival is not picked.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.obedience import recommendations
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.rational import RationalUser

MAX_SHARE = 1e-6


class AttainingSchemes:
    """Such schemes of one game in standard units. Beliefs are computed at first use and kept.

    sets: [R, XA, A] the recommendations that the tie rule plays at some belief (`recommendations.played`).
    """

    def __init__(self, game: ReducedGame, user: RationalUser, sets: Bool[np.ndarray, "R XA A"]):
        self.sets, self._rule = sets, recommendations.Rule(game, user)
        payoff = np.asarray(game.user)
        self._user = recommendations.spread(np.asarray(game.welfare), sets)
        short = recommendations.spread((payoff < payoff.max(-1, keepdims=True)).astype(float), sets)
        self._beliefs: dict[int, np.ndarray] = {}
        self._best = short == 0  # [XB, R] whether all recommended actions are best for the user at x_B.

    def _belief(self, r: int) -> Float[np.ndarray, "XB"]:
        """A belief at which the tie rule plays recommendation r; zeros if there is none."""
        if r not in self._beliefs:
            found = self._rule.belief(self.sets[r])
            self._beliefs[r] = np.zeros(len(self._user)) if found is None else found
        return self._beliefs[r]

    def _favourites(self, own: Float[np.ndarray, "XB R"]) -> Float[np.ndarray, "XB R"]:
        """One-hot, for each x_B: of the recommendations that are best for the user, the agent's favourite."""
        return np.eye(len(self.sets))[np.where(self._best, own, -np.inf).argmax(1)]

    def fully_informing(self, own: Float[np.ndarray, "XB R"]) -> Float[np.ndarray, "XB R"] | None:
        """The distribution over recommendations that pays the agent most among those worth V_full to the user; None if
        there is none. own: the agent's payoffs."""
        return self._favourites(own) if self._best.any(1).all() else None

    def near(
        self, distribution: Float[np.ndarray, "XB R"], own: Float[np.ndarray, "XB R"], room: float, own_room: float
    ) -> Float[np.ndarray, "XB R"]:
        """A distribution over recommendations near `distribution` that the tie rule plays.

        own:            the agent's payoffs
        room, own_room: the largest loss of the user's value and of the agent's payoff
        """
        rest = self._favourites(own)
        mixed = np.zeros_like(distribution)
        for r in np.flatnonzero((distribution + rest).any(0)):
            mixed[:, r] = self._belief(int(r))
        most = mixed.sum(1).max()
        if not most > 0:
            return distribution
        mixed = mixed / most
        mixed += (1 - mixed.sum(1, keepdims=True)) * rest
        costs = ((self._user * (distribution - mixed)).sum(), room), ((own * (distribution - mixed)).sum(), own_room)
        share = min([MAX_SHARE, *(most / cost for cost, most in costs if cost > most)])
        return (1 - share) * distribution + share * mixed
