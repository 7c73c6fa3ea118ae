"""Schemes that come near a supremum under a tie rule which breaks ties otherwise than recommended.

Proposition 6 (section 10 of docs/model.md): a little of a belief at which the rule plays it is mixed into each
recommendation, and x_B are revealed as far as they are left over. How little is bounded by what the user may lose by
it: an agent who is worth less than a rival is not picked.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.obedience import recommendations
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.rational import RationalUser

MOST = 1e-6  # of a scheme that is mixed in


class Witness:
    """Of one game in standard units; beliefs are found when they are needed, and kept.

    sets: the recommendations that the rule follows somewhere (`recommendations.played`).
    """

    def __init__(self, game: ReducedGame, user: RationalUser, sets: Bool[np.ndarray, "R XA A"]):
        self.sets, self._rule = sets, recommendations.Rule(game, user)
        payoff = np.asarray(game.user)
        self._user = recommendations.spread(payoff, sets)
        short = recommendations.spread((payoff < payoff.max(-1, keepdims=True)).astype(float), sets)
        self._beliefs: dict[int, np.ndarray] = {}
        self._best = short == 0  # [XB, R] whether all that is recommended is best there

    def _belief(self, r: int) -> Float[np.ndarray, "XB"]:
        """Of probability 0 if there is none."""
        if r not in self._beliefs:
            found = self._rule.belief(self.sets[r])
            self._beliefs[r] = np.zeros(len(self._user)) if found is None else found
        return self._beliefs[r]

    def _favourites(self, own: Float[np.ndarray, "XB R"]) -> Float[np.ndarray, "XB R"]:
        """Of the recommendations that cost the user nothing, the one that pays the agent most, for each x_B."""
        return np.eye(len(self.sets))[np.where(self._best, own, -np.inf).argmax(1)]

    def at_the_most(self, own: Float[np.ndarray, "XB R"]) -> Float[np.ndarray, "XB R"] | None:
        """The law that pays most of those that are worth V_full to the user; None if there is none."""
        return self._favourites(own) if self._best.any(1).all() else None

    def followed(
        self, law: Float[np.ndarray, "XB R"], own: Float[np.ndarray, "XB R"], room: float, own_room: float
    ) -> Float[np.ndarray, "XB R"]:
        """A law near `law` that the rule follows. own: the agent's payoffs; room, own_room: what it may cost the user
        and the agent at most."""
        rest = self._favourites(own)
        mixed = np.zeros_like(law)
        for r in np.flatnonzero((law + rest).any(0)):
            mixed[:, r] = self._belief(int(r))
        most = mixed.sum(1).max()
        if not most > 0:
            return law
        mixed = mixed / most
        mixed += (1 - mixed.sum(1, keepdims=True)) * rest
        costs = ((self._user * (law - mixed)).sum(), room), ((own * (law - mixed)).sum(), own_room)
        share = min([MOST, *(most / cost for cost, most in costs if cost > most)])
        return (1 - share) * law + share * mixed
