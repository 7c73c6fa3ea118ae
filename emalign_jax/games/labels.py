"""Words for what a game numbers: its agents, the user's actions, outcomes, and the features that they see."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from emalign_jax.internal.arguments import shortened, shown

# A label stands in columns of tables.
LONGEST = 60
# What stands for number n where there is no label; of features and outcomes the bare number.
PLAIN = {"actions": "action {}", "agents": "agent {}"}


@dataclasses.dataclass(frozen=True, init=False)
class Labels:
    """Words for actions, outcomes, agents and the values of features, for `em.Game(..., labels=...)`.

    Labels are shown and never computed with, and a batch of games has one set of them. They are static: games with
    different labels have different tree structures, so that `game.labelled(None)` is needed before such games are
    stacked by `jax.tree.map`.

    Args:
        actions: [A] a short line of text each, in the order of the game's arrays; None: numbers are shown.
        outcomes: [Y] as `actions`.
        agents: [K] as `actions`.
        user_features: [XA] as `actions`.
        agent_features: [XB] as `actions`.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> labels = em.Labels(actions=("acquit", "convict"), agents=("prosecutor", "defender"))
        >>> labels.replace(agents=None).given()
        {'actions': ('acquit', 'convict')}
    """

    actions: tuple[str, ...] | None = None
    outcomes: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    user_features: tuple[str, ...] | None = None
    agent_features: tuple[str, ...] | None = None

    def __init__(self, actions=None, outcomes=None, agents=None, user_features=None, agent_features=None):
        given = dict(zip(FIELDS, (actions, outcomes, agents, user_features, agent_features), strict=True))
        for name, words in given.items():
            object.__setattr__(self, name, None if words is None else _words(name, words))

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise `ValueError` if the number of labels of a field is not that of the game.

        Args:
            sizes: the game's number of agents, actions, ..., by field.
        """
        for name, words in self.given().items():
            if len(words) != sizes[name]:
                raise ValueError(f"labels: {name} has {len(words)}, the game has {sizes[name]} {name}")

    def given(self) -> dict[str, tuple[str, ...]]:
        """The fields that have labels, with their labels."""
        return {name: words for name in FIELDS if (words := getattr(self, name)) is not None}

    def replace(self, **changes) -> Labels:
        """The same labels but for the fields in `changes`; None takes those of a field away."""
        return dataclasses.replace(self, **changes)


FIELDS = tuple(field.name for field in dataclasses.fields(Labels))


def _words(name: str, words: Any) -> tuple[str, ...]:
    if not isinstance(words, list | tuple):
        raise ValueError(f"labels: {name}: expected a list of words, got {shown(words)}")
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"labels: {name}: expected words, got {shown(word)}")
        if not (0 < len(word) <= LONGEST and word.isprintable() and word.strip() == word):
            raise ValueError(
                f"labels: {name}: expected a line of 1 to {LONGEST} letters each, without spaces at its ends, got "
                f"{shortened(ascii(word))}"
            )
    return tuple(map(str, words))


def paired(first: Sequence[str], between: str, second: Sequence[str]) -> tuple[str, ...]:
    """Labels of all pairs, the first as the slow index, cut where they are too long."""
    return tuple(f"{one}{between}{other}"[:LONGEST].rstrip() for one in first for other in second)


def plain_labels(name: str, count: int) -> tuple[str, ...]:
    """What stands for labels where there are none: "agent 0", "agent 1"; outcomes and features are "0", "1"."""
    return tuple(PLAIN.get(name, "{}").format(n) for n in range(count))
