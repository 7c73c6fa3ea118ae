"""Selection of a partner, then a conversation with him.

A rational user: one LP a best response, as in Selection, over all that a conversation with her can bring about (the
persuasion-mechanism LP; the obedience LP where she only listens). It is exact for any number of messages, where she can
tell an agent her type. Other users: as in conversations, found by search and bounded by relaxation; where they only
listen, by the exact method for Selection.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.conversation import SearchedCheck
from emalign_jax.exact.checks.conversation_outcomes import law_of_actions, spell, unspell
from emalign_jax.exact.checks.conversation_starts import first_words
from emalign_jax.exact.checks.selection_quantal import SelectionQuantal
from emalign_jax.exact.checks.selection_rational import SelectionCheck, SelectionRational
from emalign_jax.exact.obedience import persuasion_mechanism
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP, can_report, rule_of
from emalign_jax.exact.obedience.program import ObedienceLP, check_size
from emalign_jax.exact.responses import SelectionTable, choose
from emalign_jax.protocols import Conversation, Selection
from emalign_jax.users.conversation_tree import Tree
from emalign_jax.users.fixed_replies import FixedReplies
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser


def column(check: AbstractCheck, rule: Float[np.ndarray, "rows M"], j: int) -> tuple[float, Float[np.ndarray, "K"]]:
    """Her value of talking with agent j alone under `rule`, and all agents' payoffs then."""
    tree = check.protocol.conversation.tree(1, rule.shape[1])
    law = law_of_actions(check.game, rule[None], tree, check.user, check.game.agents[j])
    return float((law * check.game.user).sum()), np.einsum("xba,ixba->i", law, check.game.agents)


def evaluate(check: AbstractCheck, schemes: Float[np.ndarray, "K rows M"]) -> SelectionTable:
    values, payoffs = zip(*(column(check, rule, j) for j, rule in enumerate(schemes)), strict=True)
    return SelectionTable(np.array(values), np.stack(payoffs, axis=1))


@register_check((Selection, Conversation), RationalUser)
class PartnerRational(SelectionRational):
    @classmethod
    def check_size(cls, games, protocol, user, messages):
        """Raise `ValueError` for sizes the LPs cannot do."""
        protocol.check(games, messages)
        tree = protocol.conversation.tree(1, messages)
        if _listens(tree):
            super().check_size(games, protocol, user, messages)
            return
        if not can_report(tree, games.user_features):
            raise ValueError(
                f"replies: the exact check of Selection and then a conversation needs replies^(rounds - 1) >= XA = "
                f"{games.user_features}, so that she can tell her type, got {tree.replies}^{tree.rounds - 1}: take "
                "more replies or rounds, or a quantal user"
            )
        persuasion_mechanism.check_size(games)

    sets: Any = None  # every recommendation: what other tie rules rule out is not known here

    @property
    def recommends(self):
        return True

    def _model(self, exact=False, ease=0.0):
        tree = self._tree
        if _listens(tree):
            return ObedienceLP(self.game, exact, ease)
        return MechanismLP(self.game, exact, ease, nodes=tree.rounds)

    def deviations(self, schemes, agents, bracket=None):
        found = super().deviations(schemes, agents, bracket)
        return found if self.user.ties == "agents" else [
            self._attained(schemes, i, d) for i, d in zip(agents, found, strict=True)
        ]  # fmt: skip

    @property
    def _tree(self) -> Tree:
        return self.protocol.conversation.tree(1, self.messages)

    @property
    def most_scheme(self):
        return self._rule(np.eye(self.game.mass.shape[1]))

    def table(self, schemes):
        if self._last is None or not np.array_equal(self._last[0], schemes):
            self._last = schemes.copy(), evaluate(self, schemes)
        return self._last[1]

    def _switch(self, schemes, agent, scheme):
        table = self.table(schemes)
        values, payoffs = table.values.copy(), table.payoffs.copy()
        values[agent], payoffs[:, agent] = column(self, scheme, agent)
        return float(payoffs[agent] @ choose(values, 0.0, self.scale))

    def _deviate(self, advice):
        if not advice.optimal:
            return Deviation(advice.value, advice.value, advice.scheme, advice.status)
        if _listens(self._tree):
            rule = self._rule(advice.scheme)
        else:
            rule = rule_of(advice.scheme.reshape(self.game.user.shape), self._tree)[0]
        return Deviation(advice.value, advice.value, rule, advice.status, advice.exact)

    def monopolist(self, agent, sign=1.0):
        found = self._deviate(self.lp.best(sign * self.game.agents[agent]))
        return found._replace(value=sign * found.value, upper=sign * found.upper)

    def _rule(self, scheme) -> np.ndarray:
        """`scheme` told in R rounds, with more messages a round than the tree has if that takes them."""
        tree, R = self._tree, self._tree.rounds
        while tree.messages**R < scheme.shape[1]:
            tree = Tree(R, tree.replies, tree.reply_to_all, 1, tree.messages + 1)
        rule = spell(tree, scheme)
        assert rule is not None
        return rule


def _listens(tree: Tree) -> bool:
    return tree.rounds == 1 or tree.replies == 1


class PartnerSearched(SearchedCheck):
    """Deviations by search: see `conversation.py`."""

    def payoffs(self, schemes, agent=None):
        values, payoffs = evaluate(self, schemes)
        chosen = choose(values, float(self.protocol.temperature), self.scale)
        return float(chosen @ values), payoffs @ chosen

    def openings(self, schemes, agent):
        """And the exact answer in one message to the others' first words, and to what they are worth."""
        found, tree = super().openings(schemes, agent), self._tree
        if len(schemes) > 1 and isinstance(self.user.acting, QuantalUser):
            best = self._one_message.deviations(first_words(schemes, tree), range(agent, agent + 1))
            if self.protocol.sharp:
                most = np.delete(evaluate(self, schemes).values, agent).max()
                best.append(self._one_message.at_least(agent, most))
            rules = [spell(tree, one.scheme[:, one.scheme.max(0) > 0]) for one in best if one.status == "Optimal"]
            found += [rule for rule in rules if rule is not None]
        return found

    def needs_search(self, schemes):
        return self._spoken is None or self._tree.messages**self._tree.rounds < self.game.mass.shape[1]

    def deviations(self, schemes, agents, bracket=None):
        if self._spoken is not None:
            return self._as_one_message(self._spoken, schemes, agents, bracket)
        table = evaluate(self, schemes).payoffs
        found = []
        for i in agents:
            value, rule = self._best_found(schemes, i)
            upper = float(self.game.agents[i].max(-1).sum())
            if bracket is not None:
                upper = max(self.limit(i), np.delete(table[i], i).max(initial=-np.inf))
            found.append(Deviation(value, max(upper, value), rule))
        return found

    @property
    def _tree(self) -> Tree:
        return self.protocol.conversation.tree(1, self.messages)

    @functools.cached_property
    def _one_message(self) -> SelectionQuantal:
        """Selection by what is said in one message."""
        return SelectionQuantal(self.game, Selection(self.protocol.temperature), self.user.acting)

    @functools.cached_property
    def _spoken(self) -> SelectionCheck | None:
        """Selection with words for messages, where the user has nothing to say and that can be checked."""
        if not _listens(self._tree):
            return None
        picks = Selection(self.protocol.temperature)
        if isinstance(self.user.acting, QuantalUser):
            return self._one_message
        try:
            check_size(*np.shape(self.game.user))
            return SelectionRational(self.game, picks, self.user.acting)
        except ValueError:  # too large, or a soft choice
            return None

    def _as_one_message(self, spoken: SelectionCheck, schemes, agents, bracket) -> list[Deviation]:
        """The exact method for any number of messages; a search only where its answer takes more than there are."""
        words = np.array([unspell(self._tree, rule) for rule in schemes])
        found = []
        for i, best in zip(agents, spoken.deviations(words, agents, bracket), strict=True):
            rule = spell(self._tree, best.scheme[:, best.scheme.max(0) > 0]) if best.status == "Optimal" else schemes[i]
            if rule is None:
                value, rule = self._best_found(schemes, i)
                best = best._replace(value=value, upper=max(best.upper, value))
            found.append(best._replace(scheme=rule))
        return found


@register_check((Selection, Conversation), QuantalUser)
class PartnerQuantal(PartnerSearched):
    """Logit at every node of the conversation with the agent she picks."""


@register_check((Selection, Conversation), FixedReplies, QuantalUser)
@register_check((Selection, Conversation), FixedReplies, RationalUser)
class PartnerFixed(PartnerSearched):
    """Her replies are given."""
