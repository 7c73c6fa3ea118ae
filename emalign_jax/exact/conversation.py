"""Deviations in conversations: found by search where no exact method is known, bounded by what more freedom would pay.

`value` is always attained, by a rule with as many messages as the present ones, and evaluated in float64: messages are
part of a conversation, so deviations have no more of them. `upper` holds for any number of messages. It is

* the belief LP where she has nothing to say (one round or one reply), as in Pooled: exact if M^R >= XB;
* for a rational user who replies as she likes, the persuasion-mechanism LP, each type being worth at least what she can
  have of the others: exact with one agent, to whom she can tell her type, and enough messages;
* for a rational user in small conversations also a mixed-integer program, exact for so many messages (`talk_milp.py`);
* otherwise what the agent could have if he saw x_A and all the others told her nothing: for each type the concave
  closure over beliefs (a relaxation: every conversation splits the belief of each type).
"""

from __future__ import annotations

import abc
import functools

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax import units
from emalign_jax.exact import mechanism
from emalign_jax.exact._base import WORK, AbstractCheck, Deviation, register
from emalign_jax.exact.beliefs import monopoly_problem, pooled_problem
from emalign_jax.exact.columns import concavify
from emalign_jax.exact.mechanism import MechanismLP, can_report, rule_of
from emalign_jax.exact.pooled import PooledCheck
from emalign_jax.exact.talk import law_of_actions, spell, unspell
from emalign_jax.exact.talk_milp import MAX_BINARIES, best_rule, binaries
from emalign_jax.game import ReducedGame
from emalign_jax.play.ascent import ascend
from emalign_jax.protocols import Conversation
from emalign_jax.replies import FixedReplies
from emalign_jax.units import IMMATERIAL, LP_ERROR
from emalign_jax.users import QuantalUser, RationalUser

RANDOM_STARTS = 4
POOL = 3  # deviations of an agent that are remembered and tried again at other profiles of the game
RARE = 1e-11  # below this probability of a type, the LPs' tolerances are all there is
RELAXED = 0.02  # how closely a relaxation is solved, as a share of what dictating to one type is worth
NUDGES = (1e-5, 1e-4)
VERIFIED = 2  # of the starts of an ascent, those that ended highest are evaluated in float64


class SearchedCheck(AbstractCheck):
    """Lower bounds by many-start ascent, upper bounds by relaxation."""

    exact_responses = False

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self.strategic = isinstance(user, QuantalUser | RationalUser)  # her replies are her own
        self._searched: tuple[np.ndarray, dict[int, list[np.ndarray]]] = np.empty(0), {}
        self._pool: dict[int, list[tuple[float, np.ndarray]]] = {}
        self._limits: dict[int, float] = {}

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        protocol.check(games, messages)  # rules are small where transcripts are too many
        if isinstance(user, RationalUser):
            mechanism.check_size(games)

    # lower bounds

    @classmethod
    def prepare(cls, checks, profiles, bracket=None, tolerance=None, tell=None):
        asked = []
        for check, schemes in zip(checks, profiles, strict=True):
            if check._is_searched(schemes):
                continue
            check._searched = schemes.copy(), {}
            asked += [(check, schemes, i) for i in range(len(schemes)) if check.needs_search(schemes)]
        by_size: dict[tuple, list] = {}
        for one in asked:
            by_size.setdefault((one[1].shape, np.shape(one[0].game.user)), []).append(one)
        for group in by_size.values():
            _search(group)

    def _is_searched(self, schemes) -> bool:
        return np.array_equal(self._searched[0], schemes)

    def needs_search(self, schemes) -> bool:
        """Whether no exact method finds the best rule with so many messages."""
        return True

    def _best_found(self, schemes, agent: int) -> tuple[float, np.ndarray]:
        """The best rule that was found for `agent`, evaluated here."""
        if not self._is_searched(schemes):
            self.prepare([self], [schemes])
        best = float(self.payoffs(schemes)[1][agent]), schemes[agent]
        pool = [rule for _, rule in self._pool.get(agent, ())]
        for rule in (*self._searched[1].get(agent, ()), *pool):
            if rule.shape == schemes[agent].shape:
                best = max(best, (self._switch(schemes, agent, rule), rule), key=lambda x: x[0])
        if best[1] is not schemes[agent] and not any(best[1] is rule for rule in pool):
            kept = [(best[0], best[1]), *self._pool.get(agent, [])]
            self._pool[agent] = kept[:POOL]
        return best

    def _switch(self, schemes, agent: int, rule) -> float:
        profile = schemes.copy()
        profile[agent] = rule
        return float(self.payoffs(profile, agent)[1][agent])

    @abc.abstractmethod
    def payoffs(self, schemes, agent: int | None = None) -> tuple[float, np.ndarray]:
        """As in every check; `agent`: only his payoff need be right."""

    def monopolist(self, agent, sign=1.0):
        if sign < 0:
            raise ValueError("sign: the worst that a conversation can do to an agent is not searched for")
        alone = self
        if len(self.game.agents) > 1:
            alone = type(self)(self.game._replace(agents=self.game.agents[agent : agent + 1]), self.protocol, self.user)
            alone.messages = self.messages
        return alone.deviations(alone._silent()[None], range(1))[0]

    @classmethod
    def prepare_monopolists(cls, checks):
        cls.prepare(checks, [check._silent()[None] for check in checks])

    def _silent(self) -> Float[np.ndarray, "rows M"]:
        tree = self.protocol.conversation.tree(1, self.messages)
        rule = np.zeros((self.game.mass.shape[1] * tree.information_sets, self.messages))
        rule[:, 0] = 1
        return rule

    # upper bounds

    def limit(self, agent: int) -> float:
        """No conversation, whoever says what, pays him more."""
        if agent not in self._limits:
            if self.plans_rationally:
                self._limits[agent] = self._mechanism_bound(agent)
            else:
                self._limits[agent] = self._sum_by_type(agent)
        return self._limits[agent]

    def _sum_by_type(self, agent: int) -> float:
        total = 0.0
        for share, dictated, problem in self._by_type(agent):
            if problem is not None:
                width = RELAXED * problem.spread  # the relaxation is looser than that
                revealing = np.eye(self.game.mass.shape[1])
                optimum = concavify(problem, revealing, bracket=width or None, work=WORK // 100, rounds=0)
                dictated = min(optimum.upper, dictated) if optimum.optimal else dictated
            total += share * dictated
        return total

    def _by_type(self, agent: int, sign: float = 1.0):
        """For each type, what is known to her alone: its probability, what dictating to her then pays, and the
        problem of telling her something (None for a type too rare to matter)."""
        mass, user, agents = self.game
        for xa, share in enumerate(mass.sum(1)):
            rare = share < RARE
            unit = 1.0 if rare else share
            game = ReducedGame(mass[[xa]] / unit, user[[xa]] / unit, agents[:, [xa]] / unit)
            dictated = float(sign * (sign * game.agents[agent]).max(-1).sum())
            yield unit, dictated, None if rare else monopoly_problem(game, agent, self.user.acting)

    @property
    def plans_rationally(self) -> bool:
        return self.strategic and isinstance(self.user, RationalUser)

    @functools.cached_property
    def mechanism(self) -> MechanismLP:
        """All that a conversation can bring about with a rational user, but for her tie tolerance."""
        return MechanismLP(self.game, nodes=self.protocol.conversation.rounds)

    @functools.cached_property
    def _tolerant(self) -> MechanismLP:
        """With her tie tolerance at every node."""
        return MechanismLP(self.game, ease=self.user.tie_tolerance, nodes=self.protocol.conversation.rounds)

    def _mechanism_bound(self, agent: int, by_type: Float[np.ndarray, "XA"] | None = None) -> float:
        """No mechanism pays him more; what the tie tolerance may add counts where it is more than
        `IMMATERIAL`."""
        own = self.game.agents[agent]
        advice = self.mechanism.best(own, by_type=by_type)
        immaterial = IMMATERIAL * self.payoff_range[agent] + self.negligible[agent] / 2
        if not (advice.optimal and self.user.tie_tolerance * advice.slack_price <= immaterial):
            advice = self._tolerant.best(own, by_type=by_type)
        return advice.value if advice.optimal else float(self.most[agent])

    def _most_paid(self, agent, sign):
        """What one agent can make of a single message, out of many, on a lattice of beliefs, to each type by itself if
        she tells him hers: a unit, no larger than what is attainable, so no gain looks smaller than it is."""
        problems = [(1.0, 0.0, monopoly_problem(self.game, agent, self.user.acting))]
        if not self.strategic and self.user.rule == "truthful":
            problems = self._by_type(agent, sign)
        revealing = np.eye(self.game.mass.shape[1])
        return sum(
            share * (dictated if problem is None else concavify(problem, revealing, sign=sign, rounds=0).value)
            for share, dictated, problem in problems
        )


class ConversationCheck(SearchedCheck):
    """All agents talk to her."""

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        tree = protocol.tree(games.agents, messages)
        if cls._listens(tree):
            PooledCheck.check_size(games, protocol, user, messages**tree.rounds)

    def payoffs(self, schemes, agent=None):
        game, K = self.game, len(schemes)
        tree = self.protocol.tree(K, schemes.shape[2])
        if self.user.favours:  # each payoff is a supremum of its own
            asked = range(K) if agent is None else [agent]
            laws = {i: law_of_actions(game, schemes, tree, self.user, game.agents[i]) for i in asked}
        else:
            law = law_of_actions(game, schemes, tree, self.user, game.agents[0])
            laws = dict.fromkeys(range(K), law)
        paid = np.array([(laws[i] * game.agents[i]).sum() if i in laws else np.nan for i in range(K)])
        return float((next(iter(laws.values())) * game.user).sum()), paid

    def common_law_payoffs(self, schemes):
        if not self.user.favours:
            return self.payoffs(schemes)[1]
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        law = law_of_actions(self.game, schemes, tree, self.of_one_law, self.game.agents[0])
        return np.einsum("xba,ixba->i", law, self.game.agents)

    @property
    def of_one_law(self):
        """The same user with one tie rule for all agents, worth the same to her."""
        if not self.user.favours:
            return self.user
        acting = RationalUser(ties="lowest", tolerance=self.user.acting.tolerance)
        if self.strategic:
            return acting
        return FixedReplies(self.user.rule if self.user.given is None else self.user.given, acting)

    @staticmethod
    def _listens(tree) -> bool:
        """She has nothing to say, so that it is all one long message."""
        return tree.rounds == 1 or tree.replies == 1

    def needs_search(self, schemes) -> bool:
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        return not (self._listens(tree) and tree.messages**tree.rounds >= self.game.mass.shape[1])

    def deviations(self, schemes, agents, bracket=None):
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        present = self.payoffs(schemes)[1]
        found = []
        for i in agents:
            if self._listens(tree):
                found.append(self._as_one_message(schemes, i, tree, present[i], bracket))
            elif len(schemes) == 1 and self.plans_rationally:
                found.append(self._as_mechanism(schemes, tree, present[0], bracket))
            else:
                value, rule = self._best_found(schemes, i)
                found.append(Deviation(value, max(self._upper(schemes, i, bracket), value), rule))
            width = self._width(i, bracket)
            if width is not None and found[-1].upper - found[-1].value > width:
                found[-1] = self._by_program(schemes, i, tree, found[-1], width / 4)
        return found

    def _by_program(self, schemes, i, tree, found: Deviation, gap: float) -> Deviation:
        """The same with the MILP's bound and rule, where it is small enough."""
        acting = self.user.acting
        size = binaries(tree, len(self.game.mass), self.game.user.shape[2], not self.strategic)
        if not isinstance(acting, RationalUser) or size > MAX_BINARIES:
            return found
        upper = found.upper
        for slack in (self.user.tie_tolerance, 0.0):  # for the bound; and where that rule lies on the edge of her tolerance
            best = best_rule(self.game, schemes, i, tree, self.user, slack, gap)
            upper = min(upper, best.upper) if slack == self.user.tie_tolerance else upper
            if best.rule is not None:
                # a tie rule may deny him what the program's ties grant, but not what is beside them
                aside = (schemes[i], *_starts(self, schemes, i)[1:2], np.full_like(best.rule, 1 / tree.messages))
                near = [best.rule, *((1 - share) * best.rule + share * other for other in aside for share in NUDGES)]
                paid = [self._switch(schemes, i, rule) for rule in near]
                if max(paid) > found.value:
                    found = found._replace(value=max(paid), scheme=near[int(np.argmax(paid))])
            if upper - found.value <= 2 * gap or not best.solved:
                break
        return found._replace(upper=max(upper, found.value))

    def _as_one_message(self, schemes, i, tree, present, bracket) -> Deviation:
        """The belief LP of Pooled, with words for messages."""
        words = np.array([unspell(tree, rule) for rule in schemes])
        problem = pooled_problem(self.game, words, i, self.user.acting)
        now = (words[i] * problem.prior[:, None]).T
        optimum = concavify(problem, now, bracket=self._width(i, bracket), work=WORK)
        upper = min(optimum.upper, float(self.most[i]))
        used = optimum.scheme[:, optimum.scheme.max(0) > 0]
        rule = spell(tree, used) if optimum.optimal else None
        if not optimum.optimal:
            return Deviation(np.nan, upper, schemes[i], optimum.status)
        if rule is not None:
            return Deviation(optimum.value, max(upper, optimum.value), rule)
        value, rule = self._best_found(schemes, i)
        return Deviation(value, max(upper, value), rule)

    def _as_mechanism(self, schemes, tree, present, bracket) -> Deviation:
        """One agent, a rational user: exact where she can report her type and he has the words to advise her."""
        advice = self.mechanism.best(self.game.agents[0])
        if not advice.optimal:
            return Deviation(np.nan, np.nan, schemes[0], advice.status)
        best, upper = (present, schemes[0]), self.limit(0)
        if can_report(tree, len(self.game.mass)):
            rule, wide = rule_of(advice.scheme.reshape(self.game.user.shape), tree)
            if wide.messages == tree.messages:
                best = max(best, (self._switch(schemes, 0, rule), rule), key=lambda x: x[0])
        if best[0] < upper - (self._width(0, bracket) or 1e-6 * self.stakes[0]):
            best = max(best, self._best_found(schemes, 0), key=lambda x: x[0])
        return Deviation(best[0], max(upper, best[0]), best[1])

    def _upper(self, schemes, i, bracket) -> float:
        if bracket is None:
            return float(self.most[i])
        upper = self.limit(i)
        if self.plans_rationally and len(schemes) > 1:
            upper = min(upper, self._mechanism_bound(i, self._without(schemes, i)))
        return upper

    def _without(self, schemes, i) -> Float[np.ndarray, "XA"]:
        """What each type can have if she takes no notice of agent i, less her tie tolerance."""
        others = np.delete(schemes, i, axis=0)
        tree = self.protocol.tree(len(others), schemes.shape[2])
        law = law_of_actions(self.game, others, tree, self.user, self.game.user)
        # the tie tolerance, and rounding: what the LP asks for must be within reach
        unit = np.array([units.unit(g[None], x[None]) for g, x in zip(self.game.user, self.likely, strict=True)])
        return (law * self.game.user).sum((1, 2)) - (tree.rounds * self.user.tie_tolerance + LP_ERROR) * unit


@register(Conversation, QuantalUser)
class ConversationQuantal(ConversationCheck):
    """Logit at every node."""


@register(Conversation, RationalUser)
class ConversationRational(ConversationCheck):
    """Backward induction; ties as the user's rule says."""


@register(Conversation, FixedReplies)
class ConversationFixed(ConversationCheck):
    """Her replies are given."""


def _search(asked: list) -> None:
    """Ascents for (check, schemes, agent), all of one size; what ended highest is left in the checks."""
    starts = [_starts(check, schemes, i) for check, schemes, i in asked]
    n = len(starts[0])
    game, protocol, user = (
        _stack([getattr(check, name) for check, _, _ in asked for _ in range(n)])
        for name in ("game", "protocol", "user")
    )
    profiles = np.repeat(np.array([schemes for _, schemes, _ in asked]), n, axis=0)
    agents = np.repeat([i for _, _, i in asked], n)
    profiles[np.arange(len(profiles)), agents] = np.concatenate(starts)
    check, schemes, _ = asked[0]
    tree = check.protocol.conversation.tree(len(schemes), schemes.shape[2])
    XA, _, A = np.shape(check.game.user)
    found = ascend(game, profiles, agents, protocol, user, tree.cells(XA, A))
    payoffs = np.where(np.isfinite(found.payoffs), found.payoffs, -np.inf).reshape(len(asked), n)
    rules = found.schemes.reshape(len(asked), n, *found.schemes.shape[1:])
    for (check, _, i), own, paid in zip(asked, rules, payoffs, strict=True):
        best = np.argsort(-paid, kind="stable")[:VERIFIED]
        check._searched[1][i] = [rule for k in best for rule in (own[k], _sharpened(own[k]))]


def _starts(check: SearchedCheck, schemes, agent: int) -> Float[np.ndarray, "S rows M"]:
    """The present rule, full revelation as far as the messages go, and fixed points all over the simplex."""
    rows, M = schemes.shape[1:]
    tree = check.protocol.conversation.tree(1, M)
    XB = rows // tree.information_sets
    reveal = np.asarray(spell(tree, _partition(XB, M**tree.rounds)))
    random = np.random.default_rng(agent).dirichlet(np.full(M, 0.7), (RANDOM_STARTS, rows))
    return np.concatenate([schemes[agent][None], reveal[None], random])


def _partition(features: int, words: int) -> Float[np.ndarray, "XB S"]:
    S = min(features, words)
    return np.eye(S)[np.arange(features) % S]


def _sharpened(rule: Float[np.ndarray, "rows M"]) -> Float[np.ndarray, "rows M"]:
    """Without the small probabilities that the floor of the logits leaves."""
    kept = np.where(rule < 1e-3 * rule.max(-1, keepdims=True), 0, rule)
    return kept / kept.sum(-1, keepdims=True)


def _stack(items: list):
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)
