"""What all checks of whole batches have in common: the games in standard units, and their benchmarks."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.checks.batch import AbstractChecks
from emalign_jax.exact.checks.one_by_one import OneByOne
from emalign_jax.exact.responses import by_agent
from emalign_jax.games import units
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.protocols.standard_units import StandardForm, likely_actions, standard_form
from emalign_jax.users.base import AbstractUser


class StandardChecks(AbstractChecks):
    """Checks of N games as arrays, in standard units.

    checks: the checks of the same games one by one, of which this takes the setting
    sound:  which games are not malformed; at least one is

    game, users:   the games and their users
    full, none, informed, scale, stakes: as in `Facts`
    most_payoff:   [N, K] upper bounds of the agents' payoffs under any schemes
    """

    def __init__(self, checks: OneByOne, sound: Bool[np.ndarray, "N"]):
        if sound.all() and checks.form is not None:
            self._set(checks.form, checks.user)
            return
        # Malformed games get the numbers of a sound one, so that nothing is computed with NaN; they are never asked of.
        numbers = np.where(sound, np.arange(len(sound)), np.flatnonzero(sound)[0])
        protocol, user = jax.tree.map(lambda x: x[numbers], (checks.protocol, checks.user))
        self._set(standard_form(checks.reduced.at(numbers), protocol, user), checks.user)

    def _set(self, form: StandardForm, user: AbstractUser) -> None:
        """Take these games, protocols and users in standard units; user: in the games' units."""
        self.form: Any = form
        self.user, self.game, self.users = user, self.form.game, self.form.user
        self.at_once, self.K = np.shape(self.game.agents)[:2]
        self.fallback = np.zeros(self.at_once, bool)
        likely = likely_actions(self.game, self.users)
        self.scale = np.asarray(units.unit(self.game.welfare, likely))
        self.stakes = np.asarray(units.unit(self.game.agents, likely[:, None]))
        self.most_payoff = np.asarray(units.attainable(self.game.agents, likely[:, None])[1])
        self.full, self.informed = self._benchmark(lambda x: x)
        self.none, _ = self._benchmark(lambda x: x.sum(-2, keepdims=True))

    def _benchmark(self, pool):
        """The user's value and the agents' payoffs with the information that `pool` leaves of x_B."""
        responses = by_agent(self.users, self.game, pool)
        own = np.moveaxis(pool(self.game.agents), 1, 0)
        return (responses[0] * pool(self.game.welfare)).sum((1, 2, 3)), (responses * own).sum((2, 3, 4)).T

    def _games(self, at) -> Any:
        return self.game.at(at)

    def leaders(self, at, values: Float[np.ndarray, "n K"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """The agents of the largest user values and the best of their rivals (-1: none), the lowest index among
        equals."""
        tie = VALUE_TIE * self.scale[at, None]
        selected = (values >= values.max(1, keepdims=True) - tie).argmax(1)
        others = np.where(np.arange(values.shape[1]) == selected[:, None], -np.inf, values)
        rivals = (others >= others.max(1, keepdims=True) - tie).argmax(1)
        return selected, rivals if values.shape[1] > 1 else np.full(len(at), -1)

    def form_of(self, at):
        return jax.tree.map(lambda x: x[at], self.form._replace(protocol=None, user=None))

    def floors(self, at, schemes, examined):
        return examined.agents
