"""Best responses in Selection of one agent, followed by a conversation with that agent.

A rational user: one LP for each best response, as in Selection, over the outcomes of all conversations (the
persuasion-mechanism LP, or the obedience LP where the user has no say). It is exact for any number of messages, if the
user can report x_A. Other users: by nested concavification, where replies are fixed and there is one agent, or the user
is quantal at temperature 0; by the exact method for Selection, where the user has no say; otherwise found by search and
bounded by relaxations, as in conversations.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks import conversation_nests as nests
from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.conversation_outcomes import (
    action_distribution,
    is_one_way,
    rule_to_scheme,
    scheme_to_rule,
)
from emalign_jax.exact.checks.conversation_starts import first_messages
from emalign_jax.exact.checks.searched import SearchedCheck
from emalign_jax.exact.checks.selection_quantal import SelectionQuantal
from emalign_jax.exact.checks.selection_rational import SelectionCheck, SelectionRational
from emalign_jax.exact.concavification.nested import nested_optimum
from emalign_jax.exact.obedience import persuasion_mechanism
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP, can_report, mechanism_to_rule
from emalign_jax.exact.obedience.program import ObedienceLP, check_size
from emalign_jax.exact.responses import SelectionTable, choose
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.protocols import Conversation, Selection
from emalign_jax.users.conversation_tree import Tree
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

# Relative to the agent's unit: how closely the payoff of an agent alone with fixed replies is bounded.
ALONE_GAP = 1e-4
# In the user's unit: by how much more than the others' an agent's rule is to be worth.
MARGIN = 1e-8


def one_agent_outcome(
    check: AbstractCheck, rule: Float[np.ndarray, "rows M"], j: int
) -> tuple[float, Float[np.ndarray, "K"]]:
    """The user's value of a conversation with agent j alone under `rule`, and all agents' payoffs [K] from it."""
    tree = check.protocol.conversation.tree(1, rule.shape[1])
    distribution = action_distribution(check.game, rule[None], tree, check.user, check.game.agents[j])
    return float((distribution * check.game.welfare).sum()), np.einsum("xba,ixba->i", distribution, check.game.agents)


def evaluate(check: AbstractCheck, schemes: Float[np.ndarray, "K rows M"]) -> SelectionTable:
    """Values and payoffs of the conversation with each agent alone."""
    values, payoffs = zip(*(one_agent_outcome(check, rule, j) for j, rule in enumerate(schemes)), strict=True)
    return SelectionTable(np.array(values), np.stack(payoffs, axis=1))


@register_check((Selection, Conversation), RationalUser, counts_welfare=True)
class SelectionConversationRational(SelectionRational):
    stability_applies = False

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        protocol.check(games, messages)
        tree = protocol.conversation.tree(1, messages)
        if is_one_way(tree):
            super().check_size(games, protocol, user, messages)
            return
        if not can_report(tree, games.user_features):
            raise ValueError(
                f"replies: the exact check of Selection and then a conversation needs replies^(rounds - 1) >= XA = "
                f"{games.user_features}, so that the user can report x_A, got {tree.replies}^{tree.rounds - 1}: take "
                "more replies or rounds, or a quantal user"
            )
        persuasion_mechanism.check_size(games)

    sets: Any = None  # All recommendations, under every tie rule.

    @property
    def ties_as_recommended(self):
        return True

    def _model(self, exact=False, tie_tolerance=0.0):
        tree = self._tree
        if is_one_way(tree):
            return ObedienceLP(self.game, exact, tie_tolerance)
        return MechanismLP(self.game, exact, tie_tolerance, nodes=tree.rounds)

    @property
    def _tree(self) -> Tree:
        return self.protocol.conversation.tree(1, self.messages)

    @property
    def most_scheme(self):
        return super().most_scheme if self.game.is_perceived else self._rule(np.eye(self.game.mass.shape[1]))

    def table(self, schemes):
        if self._last is None or not np.array_equal(self._last[0], schemes):
            self._last = schemes.copy(), evaluate(self, schemes)
        return self._last[1]

    def _switch(self, schemes, agent, scheme):
        table = self.table(schemes)
        values, payoffs = table.values.copy(), table.payoffs.copy()
        values[agent], payoffs[:, agent] = one_agent_outcome(self, scheme, agent)
        return float(payoffs[agent] @ choose(values, 0.0, self.scale))

    def _deviate(self, advice):
        if not advice.optimal:
            return Deviation(advice.value, advice.value, advice.scheme, advice.status)
        if is_one_way(self._tree):
            rule = self._rule(advice.scheme)
        else:
            rule = mechanism_to_rule(advice.scheme.reshape(self.game.user.shape), self._tree)[0]
        return Deviation(advice.value, advice.value, rule, advice.status, advice.exact)

    def monopolist(self, agent, sign=1.0):
        found = self._deviate(self.lp.best(sign * self.game.agents[agent]))
        return found._replace(value=sign * found.value, upper=sign * found.upper)

    def _rule(self, scheme) -> np.ndarray:
        """`scheme` as a rule, with more messages per round than the tree has if that is necessary."""
        tree, R = self._tree, self._tree.rounds
        while tree.messages**R < scheme.shape[1]:
            tree = Tree(R, tree.replies, tree.reply_to_all, 1, tree.messages + 1)
        rule = scheme_to_rule(tree, scheme)
        assert rule is not None
        return rule


@register_check((Selection, Conversation), QuantalUser, counts_welfare=True)
@register_check((Selection, Conversation), FixedReplies, QuantalUser, counts_welfare=True)
@register_check((Selection, Conversation), FixedReplies, RationalUser, counts_welfare=True)
class SelectionConversationSearched(SearchedCheck):
    """Best responses by nested concavification or by search, see `searched.py`."""

    def payoffs(self, schemes, agent=None):
        values, payoffs = evaluate(self, schemes)
        chosen = choose(values, float(self.protocol.temperature), self.scale)
        return float(chosen @ values), payoffs @ chosen

    def initial_rules(self, schemes, agent):
        """Also the exact best responses, in one message, to the others' first messages and to their values."""
        found, tree = super().initial_rules(schemes, agent), self._tree
        if len(schemes) > 1 and self.user.acting.is_smooth:
            best = self._one_message.deviations(first_messages(schemes, tree), range(agent, agent + 1))
            if self.protocol.sharp:
                most = np.delete(evaluate(self, schemes).values, agent).max()
                best.append(self._one_message.at_least(agent, most))
            rules = [
                scheme_to_rule(tree, one.scheme[:, one.scheme.max(0) > 0]) for one in best if one.status == "Optimal"
            ]
            found += [rule for rule in rules if rule is not None]
        return found

    def needs_search(self, schemes):
        messages, XB = self._tree.messages, self.game.mass.shape[1]
        if self._one_way is not None:
            return messages**self._tree.rounds < XB
        if len(schemes) > 1:  # A value that is asked for may take one more message.
            exact = self.protocol.sharp and self.user.acting.is_smooth and messages > XB
            return not (exact and self.has_nest(self._tree))
        return messages < XB or not self.has_nest(self._tree)

    def deviations(self, schemes, agents, bracket=None):
        if self._one_way is not None:
            return self._as_one_message(self._one_way, schemes, agents, bracket)
        table, nested = evaluate(self, schemes), self.has_nest(self._tree)
        found: list[Deviation] = []
        for i in agents:
            best = None
            if nested and len(schemes) == 1:
                best = self._by_nest(schemes, i, self._tree, bracket)
            elif nested and self.protocol.sharp and self.user.acting.is_smooth:
                best = self._picked_by_nest(schemes, i, table, bracket)
            if best is None:
                value, rule = self._best_found(schemes, i)
                upper = self._upper(i, bracket)
                best = Deviation(value, max(upper, value), rule)
            found.append(best)
        return found

    def _upper(self, i, bracket) -> float:
        """Of any conversation of the user with one agent, whichever is picked."""
        return float(self.payoff_bounds[i]) if bracket is None else self.limit(i)

    def _picked_by_nest(self, schemes, i, table: SelectionTable, bracket) -> Deviation | None:
        """The best rule against fixed replies of those that are worth as much to the user as the others' rules; None if
        the LP failed. An agent that gives way gets no more, as it may speak as the agent that is picked."""
        others = np.where(np.arange(len(schemes)) == i, -np.inf, table.values)
        tie = VALUE_TIE * self.scale
        nest = nests.fixed_replies(self.game, self._silent()[None], 0, self._tree, self.user, i)
        width = self._width(i, bracket)
        optimum = nested_optimum(
            *nest, width=width, work=nests.NEST_WORK, at_least=others.max() - tie, margin=MARGIN * self.scale
        )
        if np.isnan(optimum.value):
            return None
        rule = nests.to_rule(nest, optimum, self._tree, keep_value=True)
        value, rule = self._better(schemes, i, rule)
        upper = optimum.upper
        if width is None or upper > value + width:
            upper = min(upper, self._upper(i, bracket))
        return Deviation(value, max(upper, value), rule)

    def limit(self, agent):
        """Also, where replies are fixed, what the agent gets alone."""
        if agent not in self._limits and self.has_nest(self._tree):
            nest = nests.fixed_replies(self.game, self._silent()[None], 0, self._tree, self.user, agent)
            width = ALONE_GAP * float(self.stakes[agent])
            upper = nested_optimum(*nest, width=width, work=nests.NEST_WORK).upper
            self._limits[agent] = min(self._sum_by_type(agent), upper)
        return super().limit(agent)

    @property
    def _tree(self) -> Tree:
        return self.protocol.conversation.tree(1, self.messages)

    @functools.cached_property
    def _one_message(self) -> SelectionQuantal:
        """The check of Selection with one message from each agent."""
        return SelectionQuantal(self.game, Selection(self.protocol.temperature), self.user.acting)

    @functools.cached_property
    def _one_way(self) -> SelectionCheck | None:
        """The check of Selection in which a message is a sequence of R messages. None where the user has a say, or that
        check cannot be made."""
        if not is_one_way(self._tree):
            return None
        picks = Selection(self.protocol.temperature)
        if self.user.acting.is_smooth:
            return self._one_message
        try:
            check_size(*np.shape(self.game.user))
            return SelectionRational(self.game, picks, self.user.acting)
        except ValueError:  # Too large, or a positive temperature.
            return None

    def _as_one_message(self, one_way: SelectionCheck, schemes, agents, bracket) -> list[Deviation]:
        """The exact best responses with any number of messages; by search where they need more than there are."""
        words = np.array([rule_to_scheme(self._tree, rule) for rule in schemes])
        found = []
        for i, best in zip(agents, one_way.deviations(words, agents, bracket), strict=True):
            rule = (
                scheme_to_rule(self._tree, best.scheme[:, best.scheme.max(0) > 0])
                if best.status == "Optimal"
                else schemes[i]
            )
            if rule is None:
                value, rule = self._best_found(schemes, i)
                best = best._replace(value=value, upper=max(best.upper, value))
            found.append(best._replace(scheme=rule))
        return found
