"""The check of protocols and users without a registered check: it searches for profitable deviations.

Lower bounds of gains are attained: each candidate is evaluated in float64 by the protocol's own `payoffs`. The search
excludes no deviation, so that the upper bounds are infinite and no profile is CERTIFIED (UNREFUTED at best).
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation
from emalign_jax.exact.checks.deviation_search import Ascent, search
from emalign_jax.games.game import Game, ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE
from emalign_jax.protocols.base import options_of
from emalign_jax.protocols.batched_payoffs import compiled
from emalign_jax.protocols.standard_units import raw_form, standard_form

RANDOM_STARTS = 6
# Profiles in one call of the protocol; the last call is padded.
PROFILES_AT_ONCE = 64


class GenericCheck(AbstractCheck):
    """Lower bounds by gradient ascent from the present scheme, silence, full revelation, the agent's schemes as a
    monopolist, the other agents' schemes and random schemes. Payoffs are computed in the units of the game, because an
    unknown protocol may depend on units; ascents run in standard units, for which their step sizes are made.
    """

    exact_responses = False
    finds_monopolists = False

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._searched: tuple[np.ndarray, dict[int, list[np.ndarray]]] = np.empty(0), {}
        self._alone: dict[int, list[np.ndarray]] = {}  # By agent: schemes found in the game without the others.
        self._least = np.full(len(self.game.agents), np.inf)  # Of the payoffs of each agent that were evaluated.
        self._greatest = -self._least

    @staticmethod
    def form_of(game, protocol, user, lossless):
        return raw_form(game, protocol, user)

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        protocol.check(games, messages)
        if not protocol.exact_payoffs:
            raise ValueError(
                f"protocol: payoffs of {type(protocol).__name__} are estimates and cannot be certified; take "
                "verify=False, or a Conversation that is small enough"
            )

    def payoffs(self, schemes):
        value, agents = self._evaluate(schemes[None])
        return float(value[0]), agents[0]

    def _evaluate(self, profiles: Float[np.ndarray, "P K rows M"]) -> tuple[np.ndarray, np.ndarray]:
        """User values [P] and agents' payoffs [P, K] by the protocol itself, in float64."""
        found = []
        for at in range(0, len(profiles), PROFILES_AT_ONCE):
            some = profiles[at : at + PROFILES_AT_ONCE]
            size = 1 if len(profiles) == 1 else PROFILES_AT_ONCE
            padded = np.concatenate([some, np.repeat(some[-1:], size - len(some), 0)])
            with jax.enable_x64(True):
                one = jax.tree.map(lambda x: np.asarray(x, np.float64), (self.game, padded, self.protocol, self.user))
                found.append([np.asarray(x)[: len(some)] for x in compiled("payoffs", *one)[:2]])
        value, agents = (np.concatenate(x) for x in zip(*found, strict=True))
        known = np.isfinite(agents)
        self._least = np.minimum(self._least, np.where(known, agents, np.inf).min(0))
        self._greatest = np.maximum(self._greatest, np.where(known, agents, -np.inf).max(0))
        return value, agents

    @classmethod
    def prepare(cls, checks, profiles, bracket=None, tolerance=None, progress=lambda done: None):
        cls._find_monopolists([(check, schemes) for check, schemes in zip(checks, profiles, strict=True)])
        asked = []
        for check, schemes in zip(checks, profiles, strict=True):
            if not np.array_equal(check._searched[0], schemes):
                check._searched = schemes.copy(), {}
                setting = standard_form(check.game, check.protocol, check.user)
                asked += [(check, Ascent(setting, schemes, i, check._starts(schemes, i))) for i in range(len(schemes))]
        for (check, ascent), rules in zip(asked, _search([ascent for _, ascent in asked]), strict=True):
            check._searched[1][ascent.agent] = [*ascent.starts, *rules]

    @classmethod
    def _find_monopolists(cls, pairs: list[tuple[Any, np.ndarray]]) -> None:
        """Search the schemes of each agent in the game without the others, where the protocol has such a game."""
        asked = []
        for check, schemes in pairs:
            for i in range(len(schemes)):
                if i in check._alone:
                    continue
                check._alone[i] = []
                game = check.game._replace(agents=check.game.agents[[i]])
                _, rows, M = schemes.shape
                if len(schemes) > 1 and _has_rows(check.protocol, game, rows, M):
                    silent, *starts = _usual_starts(rows, M, i)
                    setting = standard_form(game, check.protocol, check.user)
                    asked.append(((check, i), Ascent(setting, silent[None], 0, [silent, *starts])))
        # The protocol is not ours, and need not work with one agent.
        with contextlib.suppress(Exception):
            for ((check, i), _), rules in zip(asked, _search([ascent for _, ascent in asked]), strict=True):
                check._alone[i] = rules[::2]

    def _starts(self, schemes, agent: int) -> list[Float[np.ndarray, "rows M"]]:
        usual = _usual_starts(schemes.shape[1], schemes.shape[2], agent)
        return [schemes[agent], *usual[:2], *self._alone[agent], *np.delete(schemes, agent, 0), *usual[2:]]

    def deviations(self, schemes, agents, bracket=None):
        self.prepare([self], [schemes])
        return [self._best(schemes, i) for i in agents]

    def _best(self, schemes, agent: int) -> Deviation:
        rules = np.array(self._searched[1][agent])
        profiles = np.repeat(schemes[None], len(rules), 0)
        profiles[:, agent] = rules
        paid = self._evaluate(profiles)[1][:, agent]
        best = int(np.where(np.isfinite(paid), paid, -np.inf).argmax())
        if not np.isfinite(paid[best]):
            return Deviation(np.nan, np.inf, schemes[agent], "no payoff is finite")
        return Deviation(float(paid[best]), np.inf, rules[best])

    def monopolist(self, agent, sign=1.0):
        raise ValueError(
            f"start: {type(self.protocol).__name__} has no exact check, which monopolist starts need; take "
            'start="random" or schemes'
        )

    @property
    def payoff_range(self):
        """Largest minus smallest evaluated payoff of each agent: at most the true range, so that relative gains are not
        underestimated."""
        seen = np.maximum(self._greatest - self._least, 0)  # -inf where nothing was evaluated.
        return np.where(seen <= NEGLIGIBLE_RANGE * self.stakes, 0.0, seen)

    def informed(self, informed):
        if informed not in self._informed:
            mass, user, agents, welfare = self.game

            def pool(x):
                return x if informed else x.sum(1, keepdims=True)

            with jax.enable_x64(True):
                sent = np.asarray(pool(mass[..., None]))[..., 0]
                acting = jax.tree.map(jnp.asarray, self.user.acting)
                options, *favours = (options_of(acting, pool, np.asarray(own), sent) for own in (user, *agents))
                responses = [np.asarray(acting.respond(options, favour), np.float64) for favour in favours]
            paid = np.array([(q * pool(own)).sum() for q, own in zip(responses, agents, strict=True)])
            self._informed[informed] = float((responses[0] * pool(welfare)).sum()), paid
        return self._informed[informed]


def _usual_starts(rows: int, messages: int, agent: int) -> list[Float[np.ndarray, "rows M"]]:
    """Silence, full revelation and random schemes."""
    silent, revealing = np.eye(messages)[np.zeros(rows, int)], np.eye(messages)[np.arange(rows) % messages]
    random = np.random.default_rng(agent).dirichlet(np.full(messages, 0.7), (RANDOM_STARTS, rows))
    return [silent, revealing, *random]


def _has_rows(protocol: Any, game: ReducedGame, rows: int, messages: int) -> bool:
    """Whether an agent's scheme has so many rows in this game, of which the protocol sees the sizes."""
    K, _, _, A = game.agents.shape
    sizes = Game(game.mass[..., None], np.zeros((A, 1)), np.zeros((K, A, 1)), check="shapes")
    try:
        protocol.check(sizes, messages)
        return protocol.rows(sizes, messages) == rows
    except Exception:  # The protocol is not ours, and need not work with one agent.
        return False


def _search(ascents: list[Ascent]) -> list[list[Float[np.ndarray, "rows M"]]]:
    if not ascents:
        return []
    (XA, XB, A), (K, _, M) = np.shape(ascents[0].setting.game.user), ascents[0].schemes.shape
    return search(ascents, cells=K * XA * XB * M * A)
