"""Rules of one agent from which the search of deviations in a conversation sets out, found without any ascent.

With fewer messages than x_B an agent must say the same at several of them. What is said in one word is a belief, and
beliefs add up: the best way to say what S messages say in fewer words is a partition of them, found exactly for a few
messages (a recursion over subsets) and by merging pairs for more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.checks.conversation_outcomes import scheme_to_rule
from emalign_jax.exact.concavification.beliefs import BeliefProblem
from emalign_jax.exact.concavification.column_generation import concavify
from emalign_jax.exact.obedience.persuasion_mechanism import mechanism_to_rule
from emalign_jax.users.conversation_tree import Tree

EXACTLY = 8  # messages whose partitions are all looked at; of more, pairs are merged first

Worth = Callable[[Float[np.ndarray, "N B"]], Float[np.ndarray, "N"]]  # of beliefs, homogeneous of degree one


def silent(tree: Tree, features: int) -> Float[np.ndarray, "rows M"]:
    """The rule that always says the first message."""
    return np.eye(tree.messages)[np.zeros(features * tree.information_sets, int)]


def revealing(tree: Tree, features: int) -> Float[np.ndarray, "rows M"]:
    """Full revelation, as far as there are words for it."""
    words = min(features, tree.messages**tree.rounds)
    return _spelt(tree, np.eye(words)[np.arange(features) % words])


def telling(problem: BeliefProblem, tree: Tree) -> list[Float[np.ndarray, "rows M"]]:
    """Rules that take no notice of replies: the partitions of x_B that are worth most to the agent and to the user, and
    the agent's best messages of any number, put into as many words as there are."""
    words, features = tree.messages**tree.rounds, len(problem.prior)
    known = np.eye(features)
    best = concavify(problem, known)
    messages = best.scheme if best.optimal else known
    agent, user = (lambda beliefs, k=k: problem.payoffs(beliefs)[k] for k in (0, 1))
    return [
        _spelt(tree, in_words(problem, scheme, words, worth))
        for scheme, worth in ((known, agent), (known, user), (messages, agent))
    ]


def first_words(rules: Float[np.ndarray, "K rows M"], tree: Tree) -> Float[np.ndarray, "K XB M"]:
    """What is said in the first round."""
    return rules[:, :: tree.information_sets]


def answering(problems: list[BeliefProblem | None], tree: Tree) -> Float[np.ndarray, "rows M"]:
    """The rule that listens, and tells each user feature in the last round what pays the agent most to tell it alone.

    problems: of telling one user feature something (None for one that is too rare to matter)
    """
    features = next(len(problem.prior) for problem in problems if problem is not None)
    told = np.zeros((len(problems), features, tree.messages))
    told[:, :, 0] = 1
    for xa, problem in enumerate(problems):
        if problem is not None:
            scheme = in_words(problem, np.eye(features), tree.messages, lambda x, p=problem: p.payoffs(x)[0])
            told[xa] = np.pad(scheme, ((0, 0), (0, tree.messages - scheme.shape[1])))
    return mechanism_to_rule(told, tree)[0]


def in_words(
    problem: BeliefProblem, scheme: Float[np.ndarray, "XB S"], words: int, worth: Worth
) -> Float[np.ndarray, "XB W"]:
    """`scheme` with at most so many messages: some of them said in one word, so that `worth` loses least."""
    beliefs = (scheme * problem.prior[:, None]).T[:, problem.possible]
    group = grouped(worth, beliefs, words)
    return scheme @ np.eye(group.max(initial=0) + 1)[group]


def grouped(worth: Worth, beliefs: Float[np.ndarray, "S B"], groups: int) -> Int[np.ndarray, "S"]:
    """The group of each belief, in at most so many groups, with the largest sum of what groups are worth."""
    group = np.arange(len(beliefs))
    if len(beliefs) <= groups:
        return group
    whole = beliefs.copy()
    merged = _merge_pairs(worth, whole, max(groups, EXACTLY))
    group = merged[group]
    if group.max() + 1 <= groups:
        return group
    parts = np.array([beliefs[group == g].sum(0) for g in range(group.max() + 1)])
    return _partition(worth, parts, groups)[group]


def _merge_pairs(worth: Worth, beliefs: Float[np.ndarray, "S B"], most: int) -> Int[np.ndarray, "S"]:
    """Merge the two that lose least, again and again, until there are at most so many."""
    S = len(beliefs)
    group, alive = np.arange(S), np.ones(S, bool)
    if most < S:
        value = worth(beliefs)
        together = worth((beliefs[:, None] + beliefs).reshape(S * S, -1)).reshape(S, S)
    while alive.sum() > most:
        gain = np.where(np.triu(np.outer(alive, alive), 1), together - value[:, None] - value, -np.inf)
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        beliefs[a] += beliefs[b]
        group[group == b], alive[b] = a, False
        value[a] = together[a, b]
        together[a] = together[:, a] = worth(beliefs + beliefs[a])
    return np.unique(group, return_inverse=True)[1]


class _Subsets(NamedTuple):
    """Of S things as bits: each set and, in order, its subsets with the lowest bit; `first` of each set's."""

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


def _partition(worth: Worth, beliefs: Float[np.ndarray, "S B"], groups: int) -> Int[np.ndarray, "S"]:
    """The best partition, by the most that each set of them is worth in 1, 2, ... groups."""
    S = len(beliefs)
    sets, subsets, first = _subsets(S)
    bits = (np.arange(1 << S)[:, None] >> np.arange(S)) & 1
    value = np.concatenate([[0.0], worth(bits[1:] @ beliefs)])
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


def _spelt(tree: Tree, scheme: Float[np.ndarray, "XB S"]) -> Float[np.ndarray, "rows M"]:
    rule = scheme_to_rule(tree, scheme)
    assert rule is not None
    return rule
