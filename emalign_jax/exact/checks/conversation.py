"""Best responses in conversations: found by search where no exact method is known, and bounded by relaxations.

`value` is always attained by a rule with as many messages as the present ones, and evaluated in float64: the number of
messages is part of a conversation. `upper` holds for any number of messages, except for the MILP's bound. Section 5.6
of docs/model.md proves the bounds:

* the belief LP where the user has no say (one round or one reply), as in Pooled: exact if M^R >= XB;
* the persuasion-mechanism LP for a rational user that replies freely, in which each type gets at least its value from
  the other agents alone: exact with one agent, if the user can report x_A and there are enough messages;
* a mixed-integer program for a rational user in small conversations (`conversation_milp.py`);
* a nested concavification where replies follow a fixed rule: exact if M >= XB, and an upper bound in any case;
* the same with replies in the agent's favour, for a user that plans them (`conversation_nests.py`);
* otherwise the relaxation in which the agent sees x_A and is alone with the user.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks import conversation_nests as nests
from emalign_jax.exact.checks.base import WORK, Deviation, register_check
from emalign_jax.exact.checks.conversation_milp import MAX_BINARIES, best_rule, binaries
from emalign_jax.exact.checks.conversation_outcomes import (
    action_distribution,
    is_one_way,
    rule_to_scheme,
    scheme_to_rule,
)
from emalign_jax.exact.checks.conversation_starts import (
    first_messages,
    one_way_rules,
    revealing,
)
from emalign_jax.exact.checks.pooled import MAX_CELLS, PooledCheck
from emalign_jax.exact.checks.searched import SearchedCheck
from emalign_jax.exact.concavification.by_user import concavify
from emalign_jax.exact.concavification.nested import nested_optimum
from emalign_jax.exact.concavification.problems import pooled_problem
from emalign_jax.exact.obedience.persuasion_mechanism import can_report, mechanism_to_rule
from emalign_jax.games import units
from emalign_jax.games.units import LP_ERROR
from emalign_jax.internal.arguments import power
from emalign_jax.protocols import Conversation
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

# Shares of another rule that are mixed into the MILP's rule to avoid ties.
NUDGES = (1e-5, 1e-4)


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
        XB = self.game.mass.shape[1]
        if is_one_way(tree):
            return tree.messages**tree.rounds < XB
        return tree.messages < XB or not self.has_nest(tree)

    def deviations(self, schemes, agents, bracket=None):
        tree = self.protocol.tree(len(schemes), schemes.shape[2])
        found = []
        for i in agents:
            if is_one_way(tree):
                found.append(self._as_one_message(schemes, i, tree, bracket))
            elif len(schemes) == 1 and self.plans_rationally:
                found.append(self._as_mechanism(schemes, tree, bracket))
            else:
                best = self._by_nest(schemes, i, tree, bracket) if self.has_nest(tree) else None
                if best is None:
                    value, rule = self._best_found(schemes, i)
                    best = Deviation(value, max(self._upper(schemes, i, bracket, value), value), rule)
                found.append(best)
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

    def _upper(self, schemes, i, bracket, value: float) -> float:
        width = self._width(i, bracket)
        if width is None:
            return float(self.payoff_bounds[i])
        upper, tree = self.limit(i), self.protocol.tree(len(schemes), schemes.shape[2])
        if self.plans_rationally and len(schemes) > 1:
            upper = min(upper, self._mechanism_bound(i, self._without(schemes, i)))
        if upper > value + width and self.user.plans and len(schemes) > 1 and nests.fits(tree, self.game, self.user):
            nest = nests.free_replies(self.game, schemes, i, tree, self.user)
            upper = min(upper, nested_optimum(*nest, width=width, present=value, work=nests.NEST_WORK).upper)
        return upper

    def _without(self, schemes, i) -> Float[np.ndarray, "XA"]:
        """The value of each type if the user ignores agent i, less the tie tolerance."""
        others = np.delete(schemes, i, axis=0)
        tree = self.protocol.tree(len(others), schemes.shape[2])
        distribution = action_distribution(self.game, others, tree, self.user, self.game.user)
        # The tie tolerance and rounding are subtracted, so that the LP is feasible.
        unit = np.array([units.unit(g[None], x[None]) for g, x in zip(self.game.user, self.likely, strict=True)])
        return (distribution * self.game.user).sum((1, 2)) - (tree.rounds * self.user.tie_tolerance + LP_ERROR) * unit
