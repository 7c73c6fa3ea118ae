"""Best responses in conversations: found by search where no exact method is known, and bounded by relaxations.

`value` is always attained by a rule with as many messages as the present ones, and evaluated in float64: the number of
messages is part of a conversation. `upper` holds for any number of messages, except for the MILP's bound. Section 5.6
of docs/model.md proves the bounds:

* the belief LP where the user has no say (one round or one reply), as in Pooled: exact if M^R >= XB;
* the persuasion-mechanism LP for a rational user that replies freely, in which each type gets at least its value from
  the other agents alone: exact with one agent, if the user can report x_A and there are enough messages;
* a mixed-integer program for a rational user in small conversations (`conversation_milp.py`);
* otherwise the relaxation in which the agent sees x_A and is alone with the user.
"""

from __future__ import annotations

import abc
import functools

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import WORK, AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.conversation_milp import MAX_BINARIES, best_rule, binaries
from emalign_jax.exact.checks.conversation_outcomes import (
    action_distribution,
    is_one_way,
    rule_to_scheme,
    scheme_to_rule,
)
from emalign_jax.exact.checks.conversation_starts import (
    answering_rule,
    first_messages,
    one_way_rules,
    revealing,
    silent,
)
from emalign_jax.exact.checks.deviation_search import Ascent, search
from emalign_jax.exact.checks.pooled import MAX_CELLS, PooledCheck
from emalign_jax.exact.concavification.by_user import concavify
from emalign_jax.exact.concavification.problems import monopoly_problem, pooled_problem
from emalign_jax.exact.obedience import persuasion_mechanism
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP, can_report, mechanism_to_rule
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import LP_ERROR, NEGLIGIBLE_TIE_EFFECT
from emalign_jax.internal.arguments import power
from emalign_jax.protocols import Conversation
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

RANDOM_STARTS = 4
# The number of best deviations of an agent that are kept and tried again at other profiles of the game.
POOL = 3
# A type of smaller probability is lost in the tolerances of LPs.
RARE = 1e-11
# Relative to the spread of the agent's payoff: how closely a relaxation is solved.
RELAXATION_GAP = 0.02
# Shares of another rule that are mixed into the MILP's rule to avoid ties.
NUDGES = (1e-5, 1e-4)


class SearchedCheck(AbstractCheck):
    """Best responses by search: lower bounds by ascents from many starts, upper bounds by relaxations."""

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


@register_check(Conversation, QuantalUser, counts_welfare=True)
@register_check(Conversation, RationalUser, counts_welfare=True)
@register_check(Conversation, FixedReplies, QuantalUser, counts_welfare=True)
@register_check(Conversation, FixedReplies, RationalUser, counts_welfare=True)
class ConversationCheck(SearchedCheck):
    """A conversation with all agents: a quantal user responds logit at every node, a rational one by backward induction
    and its tie rule, and replies may be given."""

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        tree = protocol.tree(games.agents, messages)
        if is_one_way(tree):
            PooledCheck.check_size(games, protocol, user, messages**tree.rounds)

    def payoffs(self, schemes, agent=None):
        game, K = self.game, len(schemes)
        tree = self.protocol.tree(K, schemes.shape[2])
        if self.user.favours:  # Ties go to the agent whose payoff is computed.
            asked = range(K) if agent is None else [agent]
            distributions = {i: action_distribution(game, schemes, tree, self.user, game.agents[i]) for i in asked}
        else:
            distribution = action_distribution(game, schemes, tree, self.user, game.agents[0])
            distributions = dict.fromkeys(range(K), distribution)
        paid = np.array([(distributions[i] * game.agents[i]).sum() if i in distributions else np.nan for i in range(K)])
        return float((next(iter(distributions.values())) * game.welfare).sum()), paid

    def common_response_payoffs(self, schemes):
        if not self.user.favours:
            return self.payoffs(schemes)[1]
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        distribution = action_distribution(self.game, schemes, tree, self.user_with_common_ties, self.game.agents[0])
        return np.einsum("xba,ixba->i", distribution, self.game.agents)

    @property
    def user_with_common_ties(self):
        """The same user with one tie rule for all agents, which has the same user value."""
        if not self.user.favours:
            return self.user
        acting = RationalUser(ties="lowest", tolerance=self.user.acting.tolerance)
        if self.user.plans:
            return acting
        return FixedReplies(self.user.rule if self.user.given is None else self.user.given, acting)

    def initial_rules(self, schemes, agent):
        """Also good rules against the others' messages (or their first messages, where the user replies)."""
        found, tree = super().initial_rules(schemes, agent), self.protocol.tree(len(schemes), schemes.shape[2])
        said = schemes.shape[2] ** (tree.rounds if is_one_way(tree) else 1)
        if len(schemes) > 1 and power(said, len(schemes) - 1) * self.game.user.size <= MAX_CELLS:
            one_way = is_one_way(tree)
            heard = [rule_to_scheme(tree, rule) for rule in schemes] if one_way else first_messages(schemes, tree)
            problem = pooled_problem(self.game, np.asarray(heard), agent, self.user.acting)
            found += one_way_rules(problem, tree.of_one_agent())
        return found

    def needs_search(self, schemes) -> bool:
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        return not (is_one_way(tree) and tree.messages**tree.rounds >= self.game.mass.shape[1])

    def deviations(self, schemes, agents, bracket=None):
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        found = []
        for i in agents:
            if is_one_way(tree):
                found.append(self._as_one_message(schemes, i, tree, bracket))
            elif len(schemes) == 1 and self.plans_rationally:
                found.append(self._as_mechanism(schemes, tree, bracket))
            else:
                value, rule = self._best_found(schemes, i)
                found.append(Deviation(value, max(self._upper(schemes, i, bracket), value), rule))
            width = self._width(i, bracket)
            if width is not None and found[-1].upper - found[-1].value > width:
                found[-1] = self._by_program(schemes, i, tree, found[-1], width / 4, bracket)
        return found

    def _as_alone(self, schemes, i, found: Deviation, bracket) -> Deviation:
        """`found`, or the rule that the smaller MILP of the agent alone finds, if it pays more."""
        if len(schemes) == 1 or not self._fits_one:
            return found
        one = self._of_one(i)
        rule = one.deviations(one._silent()[None], range(1), bracket)[0].scheme
        paid = self._switch(schemes, i, rule) if rule.shape == schemes[i].shape else -np.inf
        return found._replace(value=paid, upper=max(found.upper, paid), scheme=rule) if paid > found.value else found

    def _by_program(self, schemes, i, tree, found: Deviation, gap: float, bracket) -> Deviation:
        """`found` with the MILP's bound and rule, where the MILP is small enough."""
        acting = self.user.acting
        size = binaries(tree, len(self.game.mass), self.game.user.shape[2], not self.user.plans)
        if acting.is_smooth:
            return found
        if size > MAX_BINARIES:
            return self._as_alone(schemes, i, found, bracket)
        upper = found.upper
        # The tie tolerance gives a valid bound. Its rule may need ties that the user breaks otherwise; then the program
        # with exact ties may find a better one.
        for tie_tolerance in (self.user.tie_tolerance, 0.0):
            best = best_rule(self.game, schemes, i, tree, self.user, tie_tolerance, gap)
            upper = min(upper, best.upper) if tie_tolerance == self.user.tie_tolerance else upper
            if best.rule is not None:
                # In the program ties go to the agent. Under another tie rule nearby rules may pay more.
                revealed = revealing(tree.of_one_agent(), self.game.mass.shape[1])
                others = (schemes[i], revealed, np.full_like(best.rule, 1 / tree.messages))
                near = [best.rule, *((1 - share) * best.rule + share * other for other in others for share in NUDGES)]
                paid = [self._switch(schemes, i, rule) for rule in near]
                if max(paid) > found.value:
                    found = found._replace(value=max(paid), scheme=near[int(np.argmax(paid))])
            if upper - found.value <= 2 * gap or not best.solved:
                break
        return found._replace(upper=max(upper, found.value))

    def _as_one_message(self, schemes, i, tree, bracket) -> Deviation:
        """The belief LP of Pooled; a message is a sequence of R messages."""
        words = np.array([rule_to_scheme(tree, rule) for rule in schemes])
        problem = pooled_problem(self.game, words, i, self.user.acting)
        now = (words[i] * problem.target[0][:, None]).T
        optimum = concavify(problem, now, bracket=self._width(i, bracket), work=WORK)
        best, scheme = float(optimum.value[0]), optimum.scheme[0]
        upper = min(float(optimum.upper[0]), float(self.payoff_bounds[i]))
        if np.isnan(best):
            return Deviation(np.nan, upper, schemes[i], "Failed")
        rule = scheme_to_rule(tree, scheme[:, scheme.max(0) > 0])
        if rule is not None:
            return Deviation(best, max(upper, best), rule)
        value, rule = self._best_found(schemes, i)
        return Deviation(value, max(upper, value), rule)

    def _as_mechanism(self, schemes, tree, bracket) -> Deviation:
        """One agent and a rational user: exact where the user can report x_A and messages suffice to recommend."""
        advice = self.mechanism.best(self.game.agents[0])
        if not advice.optimal:
            return Deviation(np.nan, np.nan, schemes[0], advice.status)
        best, upper = (self.payoffs(schemes)[1][0], schemes[0]), self.limit(0)
        if can_report(tree, len(self.game.mass)):
            rule, wide = mechanism_to_rule(advice.scheme.reshape(self.game.user.shape), tree)
            if wide.messages == tree.messages:
                best = max(best, (self._switch(schemes, 0, rule), rule), key=lambda x: x[0])
        if best[0] < upper - (self._width(0, bracket) or 1e-6 * self.stakes[0]):
            best = max(best, self._best_found(schemes, 0), key=lambda x: x[0])
        return Deviation(best[0], max(upper, best[0]), best[1])

    def _upper(self, schemes, i, bracket) -> float:
        if bracket is None:
            return float(self.payoff_bounds[i])
        upper = self.limit(i)
        if self.plans_rationally and len(schemes) > 1:
            upper = min(upper, self._mechanism_bound(i, self._without(schemes, i)))
        return upper

    def _without(self, schemes, i) -> Float[np.ndarray, "XA"]:
        """The value of each type if the user ignores agent i, less the tie tolerance."""
        others = np.delete(schemes, i, axis=0)
        tree = self.protocol.tree(len(others), schemes.shape[2])
        distribution = action_distribution(self.game, others, tree, self.user, self.game.user)
        # The tie tolerance and rounding are subtracted, so that the LP is feasible.
        unit = np.array([units.unit(g[None], x[None]) for g, x in zip(self.game.user, self.likely, strict=True)])
        return (distribution * self.game.user).sum((1, 2)) - (tree.rounds * self.user.tie_tolerance + LP_ERROR) * unit
