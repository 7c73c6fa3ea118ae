"""Initial rules of one agent for the search of deviations in a conversation.

With fewer messages than x_B an agent must send the same message at several x_B. Each message has an unnormalised
posterior, and the posteriors of messages that are merged add up. So the best way to merge S messages into fewer is a
partition of their posteriors. It is found exactly for few messages (a recursion over subsets); more messages are first
merged pair by pair. A word is the sequence of an agent's messages in all R rounds; there are M^R words.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.checks.conversation_outcomes import scheme_to_rule
from emalign_jax.exact.concavification.by_user import concavify, payoffs
from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.exact.obedience.persuasion_mechanism import mechanism_to_rule
from emalign_jax.users.conversation_tree import Tree

# The largest number of messages of which all partitions are compared.
MAX_PARTITIONED = 8

# The payoff of unnormalised posteriors, homogeneous of degree one.
PayoffOf = Callable[[Float[np.ndarray, "N B"]], Float[np.ndarray, "N"]]


def silent(tree: Tree, features: int) -> Float[np.ndarray, "rows M"]:
    """The rule that always sends the first message."""
    return np.eye(tree.messages)[np.zeros(features * tree.information_sets, int)]


def revealing(tree: Tree, features: int) -> Float[np.ndarray, "rows M"]:
    """Full revelation, as far as the number of words allows."""
    words = min(features, tree.messages**tree.rounds)
    return _word_rule(tree, np.eye(words)[np.arange(features) % words])


def one_way_rules(problem: BeliefProblems, tree: Tree) -> list[Float[np.ndarray, "rows M"]]:
    """Rules that ignore replies: the partitions of x_B with the largest payoff of the agent and of the user, and the
    agent's optimal scheme with any number of messages, merged into as many as there are words."""
    words, features = tree.messages**tree.rounds, problem.size[0]
    known = np.eye(features)
    best = concavify(problem, known)
    messages = known if np.isnan(best.value[0]) else best.scheme[0]
    agent, user = (lambda beliefs, k=k: payoffs(problem, beliefs[None])[k][0] for k in (0, 1))
    return [
        _word_rule(tree, merge_messages(problem, scheme, words, payoff))
        for scheme, payoff in ((known, agent), (known, user), (messages, agent))
    ]


def first_messages(rules: Float[np.ndarray, "K rows M"], tree: Tree) -> Float[np.ndarray, "K XB M"]:
    """The distributions over messages in the first round."""
    return rules[:, :: tree.information_sets]


def answering_rule(problems: list[BeliefProblems | None], tree: Tree) -> Float[np.ndarray, "rows M"]:
    """The rule that sends the first message until the user has reported x_A, and then the optimal message for x_A.

    problems: the agent's problem for each x_A alone (None for one that is too rare to matter)
    """
    features = next(problem.size[0] for problem in problems if problem is not None)
    told = np.zeros((len(problems), features, tree.messages))
    told[:, :, 0] = 1
    for xa, problem in enumerate(problems):
        if problem is not None:
            scheme = merge_messages(
                problem, np.eye(features), tree.messages, lambda x, p=problem: payoffs(p, x[None])[0][0]
            )
            told[xa] = np.pad(scheme, ((0, 0), (0, tree.messages - scheme.shape[1])))
    return mechanism_to_rule(told, tree)[0]


def merge_messages(
    problem: BeliefProblems, scheme: Float[np.ndarray, "XB S"], most: int, payoff: PayoffOf
) -> Float[np.ndarray, "XB W"]:
    """`scheme` with its messages merged into at most `most`, so that `payoff` is largest."""
    beliefs = (scheme * problem.target[0][:, None]).T
    group = groups_of(payoff, beliefs, most)
    return scheme @ np.eye(group.max(initial=0) + 1)[group]


def groups_of(payoff: PayoffOf, beliefs: Float[np.ndarray, "S B"], groups: int) -> Int[np.ndarray, "S"]:
    """The partition of `beliefs` into at most `groups` groups with the largest sum of payoffs: the number of each
    belief's group."""
    group = np.arange(len(beliefs))
    if len(beliefs) <= groups:
        return group
    whole = beliefs.copy()
    merged = _merge_pairs(payoff, whole, max(groups, MAX_PARTITIONED))
    group = merged[group]
    if group.max() + 1 <= groups:
        return group
    parts = np.array([beliefs[group == g].sum(0) for g in range(group.max() + 1)])
    return _partition(payoff, parts, groups)[group]


def _merge_pairs(payoff: PayoffOf, beliefs: Float[np.ndarray, "S B"], most: int) -> Int[np.ndarray, "S"]:
    """Merge the two beliefs that lose least, again and again, until there are at most `most`."""
    S = len(beliefs)
    group, alive = np.arange(S), np.ones(S, bool)
    if most < S:
        value = payoff(beliefs)
        merged = payoff((beliefs[:, None] + beliefs).reshape(S * S, -1)).reshape(S, S)
    while alive.sum() > most:
        gain = np.where(np.triu(np.outer(alive, alive), 1), merged - value[:, None] - value, -np.inf)
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        beliefs[a] += beliefs[b]
        group[group == b], alive[b] = a, False
        value[a] = merged[a, b]
        merged[a] = merged[:, a] = payoff(beliefs + beliefs[a])
    return np.unique(group, return_inverse=True)[1]


class _Subsets(NamedTuple):
    """The subsets of S elements, as bits.

    sets, subsets: [P] pairs of a set and a subset that contains the set's lowest element, in order of the set
    first:         [N] the first pair of each nonempty set
    """

    sets: Int[np.ndarray, "P"]
    subsets: Int[np.ndarray, "P"]
    first: Int[np.ndarray, "N"]


@functools.cache
def _subsets(S: int) -> _Subsets:
    every = np.arange(1 << S)
    inside = (every & ~every[:, None]) == 0  # [set, subset]
    lowest = every & -every
    sets, subsets = np.nonzero(inside & ((every & lowest[:, None]) > 0))
    return _Subsets(sets, subsets, np.searchsorted(sets, every[1:]))


def _partition(payoff: PayoffOf, beliefs: Float[np.ndarray, "S B"], groups: int) -> Int[np.ndarray, "S"]:
    """The best partition, by the largest payoff of each set of beliefs in at most 1, 2, ... groups."""
    S = len(beliefs)
    sets, subsets, first = _subsets(S)
    bits = (np.arange(1 << S)[:, None] >> np.arange(S)) & 1
    value = np.concatenate([[0.0], payoff(bits[1:] @ beliefs)])
    best = [np.where(np.arange(1 << S) == 0, 0.0, -np.inf)]
    for _ in range(groups):
        split = value[subsets] + best[-1][sets ^ subsets]
        best.append(np.maximum(best[-1], np.concatenate([[0.0], np.maximum.reduceat(split, first)])))
    left, group = (1 << S) - 1, np.zeros(S, int)
    for g in range(groups, 0, -1):
        if left and best[g][left] > best[g - 1][left]:
            own = subsets[sets == left]
            taken = own[(value[own] + best[g - 1][left ^ own]).argmax()]
            group[bits[taken] == 1] = g - 1
            left ^= taken
    return np.unique(group, return_inverse=True)[1]


def _word_rule(tree: Tree, scheme: Float[np.ndarray, "XB S"]) -> Float[np.ndarray, "rows M"]:
    rule = scheme_to_rule(tree, scheme)
    assert rule is not None
    return rule
