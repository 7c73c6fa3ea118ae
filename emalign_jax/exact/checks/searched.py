"""Best responses in conversations by search, where no exact method is known, and their upper bounds by relaxations.

`value` is always attained by a rule with as many messages as the present ones, and evaluated in float64: the number of
messages is part of a conversation. `upper` holds for any number of messages (section 5.6 of docs/model.md):

* the persuasion-mechanism LP for a rational user that replies freely, in which each type gets at least its value from
  the other agents alone: exact with one agent, if the user can report x_A and there are enough messages;
* otherwise the relaxation in which the agent sees x_A and is alone with the user.
"""

from __future__ import annotations

import abc
import functools

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks import conversation_nests as nests
from emalign_jax.exact.checks.base import WORK, AbstractCheck, Deviation
from emalign_jax.exact.checks.conversation_outcomes import is_one_way
from emalign_jax.exact.checks.conversation_starts import (
    answering_rule,
    one_way_rules,
    revealing,
    silent,
)
from emalign_jax.exact.checks.deviation_search import Ascent, search
from emalign_jax.exact.concavification.by_user import concavify
from emalign_jax.exact.concavification.nested import nested_optimum
from emalign_jax.exact.concavification.problems import monopoly_problem
from emalign_jax.exact.obedience import persuasion_mechanism
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_TIE_EFFECT
from emalign_jax.users.conversation_tree import Tree

RANDOM_STARTS = 4
# The number of best deviations of an agent that are kept and tried again at other profiles of the game.
POOL = 3
# A type of smaller probability is lost in the tolerances of LPs.
RARE = 1e-11
# Relative to the spread of the agent's payoff: how closely a relaxation is solved.
RELAXATION_GAP = 0.02


class SearchedCheck(AbstractCheck):
    """Best responses by search: lower bounds by ascents from many starts, upper bounds by relaxations; both by nested
    concavification where replies are fixed."""

    exact_responses = False
    revealing_is_picked = True

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._searched: tuple[np.ndarray, dict[int, list[np.ndarray]]] = np.empty(0), {}  # Profile, rules by agent.
        self._pool: dict[int, list[np.ndarray]] = {}  # Good deviations of each agent at other profiles.
        self._initial_rules: dict[int, list[np.ndarray]] = {}  # Of a single agent, with the ends of their ascents.
        self._alone: dict[int, Deviation | None] = {}  # The monopolist's optimum of each agent.
        self._limits: dict[int, float] = {}  # Results of `limit` by agent.

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        protocol.check(games, messages)
        if user.plans and not user.is_smooth:
            persuasion_mechanism.check_size(games)

    # Lower bounds.

    @classmethod
    def prepare(cls, checks, profiles, bracket=None, tolerance=None, progress=None):
        asked = []
        for check, schemes in zip(checks, profiles, strict=True):
            if check._is_searched(schemes):
                continue
            check._searched = schemes.copy(), {}
            if check.needs_search(schemes):
                asked += [(check, schemes, i) for i in range(len(schemes))]
        cls._search(asked)

    @classmethod
    def _search(cls, asked: list[tuple[SearchedCheck, np.ndarray, int]]) -> None:
        """Candidates for the best rule of each agent: initial rules, and the ends of ascents from them."""
        cls._prepare_alone([check for check, schemes, _ in asked if len(schemes) > 1])
        if not asked:
            return
        ascents = [Ascent(check, schemes, i, check._starts(schemes, i)) for check, schemes, i in asked]
        check, schemes, _ = asked[0]
        tree = check.protocol.conversation.tree(len(schemes), schemes.shape[2])
        XA, _, A = np.shape(check.game.user)
        for (check, schemes, i, starts), found in zip(ascents, search(ascents, tree.cells(XA, A)), strict=True):
            check._searched[1][i] = [*starts[1:], *check._initial_rules.get(i, []), *found]
            if len(schemes) == 1 and i not in check._initial_rules:
                # The ascents of a single agent do not depend on its present rule.
                check._initial_rules[i] = [*starts[1:], *found]

    def _is_searched(self, schemes) -> bool:
        return np.array_equal(self._searched[0], schemes)

    def needs_search(self, schemes) -> bool:
        """Whether no exact method finds the best rule with this number of messages."""
        return True

    def _starts(self, schemes, agent: int) -> list[Float[np.ndarray, "rows M"]]:
        """The present rule, initial rules, the monopolist's rule, and random rules, the same for all profiles."""
        if len(schemes) == 1 and agent in self._initial_rules:
            return [schemes[agent]]
        alone = self._alone.get(agent)
        own = [] if alone is None else [alone.scheme]
        _, rows, M = schemes.shape
        random = np.random.default_rng(agent).dirichlet(np.full(M, 0.7), (RANDOM_STARTS, rows))
        return [schemes[agent], *self.initial_rules(schemes, agent), *own, *random]

    def initial_rules(self, schemes, agent: int) -> list[Float[np.ndarray, "rows M"]]:
        """Silence, full revelation as far as the number of messages allows, and good rules of the agent alone."""
        tree = self.protocol.conversation.tree(1, schemes.shape[2])
        features = self.game.mass.shape[1]
        problem = monopoly_problem(self.game, agent, self.user.acting)
        found = [silent(tree, features), revealing(tree, features), *one_way_rules(problem, tree)]
        if tree.rounds > 1 and tree.replies > 1:
            found.append(answering_rule([problem for _, _, problem in self._by_type(agent)], tree))
        return found

    def _best_found(self, schemes, agent: int) -> tuple[float, np.ndarray]:
        """The payoff and rule of the best candidate for `agent`."""
        if not self._is_searched(schemes):
            self.prepare([self], [schemes])
        if agent not in self._searched[1]:
            self._search([(self, schemes, agent)])
        best = float(self.payoffs(schemes)[1][agent]), schemes[agent]
        pool = self._pool.setdefault(agent, [])
        tried = {}
        monopolists = [alone.scheme for alone in self._alone.values() if alone is not None]
        for rule in (*self._searched[1][agent], *np.delete(schemes, agent, 0), *monopolists, *pool):
            if rule.shape == schemes[agent].shape and rule.tobytes() not in tried:
                tried[rule.tobytes()] = rule
                best = max(best, (self._switch(schemes, agent, rule), rule), key=lambda x: x[0])
        if best[1] is not schemes[agent] and not any(np.array_equal(best[1], rule) for rule in pool):
            self._pool[agent] = [best[1], *pool][:POOL]
        return best

    def _switch(self, schemes, agent: int, rule) -> float:
        profile = schemes.copy()
        profile[agent] = rule
        return float(self.payoffs(profile, agent)[1][agent])

    @abc.abstractmethod
    def payoffs(self, schemes, agent: int | None = None) -> tuple[float, np.ndarray]:
        """As `AbstractCheck.payoffs`. agent: the only agent whose payoff is needed; None for all."""

    def monopolist(self, agent, sign=1.0):
        if sign < 0:
            raise ValueError("sign: the worst payoff of an agent in a conversation is not searched for; take sign=1")
        if len(self.game.agents) == 1:
            return self.deviations(self._silent()[None], range(1))[0]
        self._prepare_alone([self])
        alone = self._alone[agent]
        if alone is None:
            raise ValueError("user: a given reply rule to several agents does not apply to a monopolist's conversation")
        return alone

    @classmethod
    def prepare_monopolists(cls, checks):
        cls.prepare(checks, [check._silent()[None] for check in checks])

    @classmethod
    def _prepare_alone(cls, checks: list[SearchedCheck]) -> None:
        """The monopolist's optimum of each agent of these games; None where the given replies are to several agents."""
        asked, alone = [], []
        for check in checks:
            for i in range(0 if check._alone else len(check.game.agents)):
                check._alone[i] = None
                if check._fits_one:
                    asked.append((check, i))
                    alone.append(check._of_one(i))
        if alone:
            cls.prepare_monopolists(alone)
        for (check, i), one in zip(asked, alone, strict=True):
            found = one.monopolist(0)
            check._alone[i] = found if found.status == "Optimal" else None

    def _of_one(self, agent: int) -> SearchedCheck:
        """The same game with this agent alone."""
        check = type(self)(self.game._replace(agents=self.game.agents[[agent]]), self.protocol, self.user)
        check.messages = self.messages
        return check

    @property
    def _fits_one(self) -> bool:
        """Whether the user can also have the conversation with one agent alone."""
        return self.user.plans or self.user.given is None or self.protocol.conversation is not self.protocol

    def _silent(self) -> Float[np.ndarray, "rows M"]:
        return silent(self.protocol.conversation.tree(1, self.messages), self.game.mass.shape[1])

    # Nested concavification.

    def has_nest(self, tree: Tree) -> bool:
        """Whether replies are fixed, and the best rule is that of a nest that is small enough."""
        return not (self.user.plans or is_one_way(tree)) and nests.fits(tree, self.game, self.user)

    def _by_nest(self, schemes, agent: int, tree: Tree, bracket) -> Deviation | None:
        """The best rule against fixed replies; None if the LP failed. `value` is attained with the present number of
        messages, `upper` holds for any number in the last round."""
        nest = nests.fixed_replies(self.game, schemes, agent, tree, self.user)
        width = self._width(agent, bracket)
        optimum = nested_optimum(*nest, width=width, work=nests.NEST_WORK)
        if np.isnan(optimum.value):
            return None
        value, rule = self._better(schemes, agent, nests.to_rule(nest, optimum, tree))
        upper = min(optimum.upper, float(self.payoff_bounds[agent]))
        if width is not None and upper > value + width:
            upper = min(upper, self._sum_by_type(agent))
        return Deviation(value, max(upper, value), rule)

    def _better(self, schemes, agent: int, candidate) -> tuple[float, np.ndarray]:
        """The payoff and rule of the best of the present rule, a candidate and, where one is needed, a search."""
        rules = [schemes[agent], candidate]
        if self.needs_search(schemes):
            rules.append(self._best_found(schemes, agent)[1])
        return max(((self._switch(schemes, agent, rule), rule) for rule in rules), key=lambda x: x[0])

    # Upper bounds.

    def limit(self, agent: int) -> float:
        """An upper bound of the agent's payoff in any conversation, whatever the other agents do."""
        if agent not in self._limits:
            if self.plans_rationally:
                self._limits[agent] = self._mechanism_bound(agent)
            else:
                self._limits[agent] = self._sum_by_type(agent)
        return self._limits[agent]

    def _sum_by_type(self, agent: int) -> float:
        total = 0.0
        for share, chosen, problem in self._by_type(agent):
            if problem is not None:
                width = RELAXATION_GAP * float(problem.spread[0])
                revealing = np.eye(self.game.mass.shape[1])
                optimum = concavify(problem, revealing, bracket=width or None, work=WORK // 100, rough=True)
                chosen = min(float(optimum.upper[0]), chosen)
            total += share * chosen
        return total

    def _by_type(self, agent: int, sign: float = 1.0):
        """For each type x_A: its probability, the agent's payoff if it could choose the action of this type, and the
        agent's problem with this type alone (None for a type too rare to matter)."""
        mass, user, agents, welfare = self.game
        for xa, share in enumerate(mass.sum(1)):
            rare = share < RARE
            unit = 1.0 if rare else share
            game = ReducedGame(mass[[xa]] / unit, user[[xa]] / unit, agents[:, [xa]] / unit, welfare[[xa]] / unit)
            chosen = float(sign * (sign * game.agents[agent]).max(-1).sum())
            yield unit, chosen, None if rare else monopoly_problem(game, agent, self.user.acting, sign)

    @property
    def plans_rationally(self) -> bool:
        return self.user.plans and not self.user.is_smooth

    @functools.cached_property
    def mechanism(self) -> MechanismLP:
        """The outcomes of all conversations with a rational user, without the tie tolerance."""
        return MechanismLP(self.game, nodes=self.protocol.conversation.rounds)

    @functools.cached_property
    def _tolerant(self) -> MechanismLP:
        """The same with the user's tie tolerance at every node."""
        return MechanismLP(self.game, tie_tolerance=self.user.tie_tolerance, nodes=self.protocol.conversation.rounds)

    def _mechanism_bound(self, agent: int, by_type: Float[np.ndarray, "XA"] | None = None) -> float:
        """An upper bound of the agent's payoff in any mechanism worth at least `by_type` to each type. The effect of
        the tie tolerance is included unless it is at most `NEGLIGIBLE_TIE_EFFECT`."""
        own = self.game.agents[agent]
        advice = self.mechanism.best(own, by_type=by_type)
        immaterial = NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] + self.negligible[agent] / 2
        if not (advice.optimal and self.user.tie_tolerance * advice.slack_price <= immaterial):
            advice = self._tolerant.best(own, by_type=by_type)
        return advice.value if advice.optimal else float(self.payoff_bounds[agent])

    def _extreme_payoff(self, agent, sign):
        """The agent's payoff from its best scheme of one round on a lattice of beliefs (for each type by itself, where
        the user reports x_A truthfully). It is attainable, so that relative gains are not underestimated."""
        problems = [(1.0, 0.0, monopoly_problem(self.game, agent, self.user.acting, sign))]
        if not self.user.plans and self.user.rule == "truthful":
            problems = self._by_type(agent, sign)
        revealing = np.eye(self.game.mass.shape[1])
        return sum(
            share * (chosen if problem is None else sign * float(concavify(problem, revealing, rough=True).value[0]))
            for share, chosen, problem in problems
        )
