"""Games from tables of real utilities: answers scored by many, or ratings of items (docs/guides/market.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.games.game import LARGEST_UTILITY, PRIOR_SUM_TOLERANCE, Game, ReducedGame
from emalign_jax.games.labels import Labels
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import choice, integer, number, shown
from emalign_jax.internal.validation import as_float_array

OWN_MEAN = "own-mean"
COPIES = 3  # of the dense prior, while a Game is made and checked


@dataclasses.dataclass(frozen=True)
class UtilityTable:
    """What the user and the agents think of the answers to n prompts: a market in which y = x_B is the prompt.

    Attributes:
        user: [n, A] the user's utility of each answer.
        agents: [n, K, A] the agents' utilities.
        topic: [n] x_A, what the user knows of the prompt: 0, 1, ...
        prior: [n] how likely each prompt is.
        names: [K] of the agents, if they have any.
        actions: [A] of the answers, if they have any.

    Example:
        >>> table = em.utility_table([1.0, 5.0], [[2.0], [4.0]], accept=3)
        >>> table.agents.shape, table.actions
        ((2, 1, 2), ('take', 'leave'))

    Source: docs/guides/market.md.
    """

    user: Float[np.ndarray, "n A"]
    agents: Float[np.ndarray, "n K A"]
    topic: Int[np.ndarray, "n"]
    prior: Float[np.ndarray, "n"]
    names: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()

    def game(self) -> Game:
        """The game, with its dense prior [XA, n, n]. Raises `ValueError` where that does not fit into memory."""
        n, XA = len(self.prior), int(self.topic.max()) + 1
        memory.require(COPIES * 8 * XA * n * n, f"user_utility: a prior of {XA} topics and {n} prompts")
        prior = np.zeros((XA, n, n))
        prior[self.topic, np.arange(n), np.arange(n)] = self.prior
        labels = Labels(agents=self.names or None, actions=self.actions or None)
        return Game(prior, self.user.T, self.agents.transpose(1, 2, 0), labels=labels if labels.given() else None)

    def reduced(self) -> ReducedGame:
        """The same game without y, for sizes at which the dense prior would be too large."""
        n, XA = len(self.prior), int(self.topic.max()) + 1
        mass = np.zeros((XA, n))
        mass[self.topic, np.arange(n)] = self.prior
        agents = mass[:, :, None] * self.agents.transpose(1, 0, 2)[:, None]
        user = mass[:, :, None] * self.user
        return ReducedGame(mass, user, agents, user)


def game_from_table(
    user_utility: Any,
    scores: Any,
    *,
    accept: float | int | str | None = None,
    topic: Sequence | np.ndarray | None = None,
    prior: Any = None,
    order: str = "random",
    seed: int = 0,
    names: Sequence[str] = (),
) -> Game:
    """A game from a table of real utilities: answers that many score, or items that many rate.

    Answers: n prompts with A answers each. The outcome, and what the agents see, is the prompt; the user's action is
    the position of an answer. Positions are drawn at random, so that a user without information gets a random answer.
    Ratings (with `accept`): n items, which the user takes (worth the rating less the threshold) or leaves (worth 0).

    Args:
        user_utility: [n, A] of answers, [n] of ratings.
        scores: [n, K, A] of answers, [n, K] of ratings: the agents' own utilities.
        accept: the threshold of ratings, a number for all, or "own-mean", the mean of each rater under the prior.
        topic: [n] x_A, what the user knows of the prompt (any labels); by default nothing.
        prior: [n] how likely each prompt is; by default all are alike.
        order: of answers: "random", or "given" to keep columns as they are.
        seed: of the random order.
        names: [K] of the agents, which become labels of the game.

    Raises:
        ValueError: names the argument and the rule. The dense prior of a large table may not fit into memory:
            `utility_table` takes the same arguments, and its `reduced()` is the same market for `em.market`.

    Example:
        >>> game = em.game_from_table([[1.0, 0.0], [0.0, 2.0]], [[[3.0, 0.0]], [[0.0, 1.0]]], order="given")
        >>> game.prior.shape, game.agents
        ((1, 2, 2), 1)
        >>> em.game_from_table([1.0, 5.0], [[2.0], [4.0]], accept=3).user_utility.tolist()  # take, leave
        [[-2.0, 2.0], [0.0, 0.0]]

    Source: the market of arXiv 2509.15090 on a table; docs/guides/market.md.
    """
    more: dict[str, Any] = {"topic": topic, "prior": prior, "order": order, "seed": seed, "names": names}
    return utility_table(user_utility, scores, accept=accept, **more).game()


def utility_table(
    user_utility: Any,
    scores: Any,
    *,
    accept: float | int | str | None = None,
    topic: Sequence | np.ndarray | None = None,
    prior: Any = None,
    order: str = "random",
    seed: int = 0,
    names: Sequence[str] = (),
) -> UtilityTable:
    """The table behind `game_from_table`, for markets that are too large for a `Game`.

    Args:
        user_utility, scores, accept, topic, prior, order, seed, names: as in `game_from_table`.

    Returns:
        A `UtilityTable`; its `reduced()` is the market for `em.market`.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> em.utility_table([[1.0, 0.0], [0.0, 2.0]], [[[3.0, 0.0]], [[0.0, 1.0]]]).reduced().mass.tolist()
        [[0.5, 0.5]]
    """
    choice("order", order, ("random", "given"))
    integer("seed", seed, 0)
    if isinstance(accept, str):
        choice("accept", accept, (OWN_MEAN,))
    elif accept is not None:
        accept = number("accept", accept, "a number or own-mean", np.isfinite)
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names: expected a list of words, got {shown(names)}")
    axes = ("n", "A") if accept is None else ("n",)
    user = _numbers("user_utility", user_utility, axes)
    agents = _numbers("scores", scores, (axes[0], "K", *axes[1:]))
    n, K = agents.shape[:2]
    if (n, *agents.shape[2:]) != user.shape:
        raise ValueError(f"scores: shape {list(agents.shape)} does not go with user_utility of {list(user.shape)}")
    if names and len(names) != K:
        raise ValueError(f"names: expected K = {K}, got {len(names)}")
    chance = np.full(n, 1 / n) if prior is None else _numbers("prior", prior, ("n",))
    if len(chance) != n or (chance < 0).any() or abs(chance.sum() - 1) > PRIOR_SUM_TOLERANCE:
        raise ValueError(f"prior: expected {n} numbers >= 0 that sum to 1, got {len(chance)} of sum {chance.sum():g}")
    label = np.zeros(n, int) if topic is None else _topics(topic, n)
    if accept is not None:
        user, agents = (_taken(x, accept, chance) for x in (user[:, None], agents))
        user = user[:, 0]
    elif user.shape[1] < 2:
        raise ValueError("user_utility: expected at least 2 answers to each prompt, got 1; for ratings say accept")
    elif order == "random":
        place = np.random.default_rng(seed).permuted(np.tile(np.arange(user.shape[1]), (n, 1)), axis=1)
        user = np.take_along_axis(user, place, 1)
        agents = np.take_along_axis(agents, place[:, None], 2)
    return UtilityTable(user, agents, label, chance, tuple(names), () if accept is None else ("take", "leave"))


def _taken(ratings: Float[np.ndarray, "n P"], accept: float | int | str, prior: Float[np.ndarray, "n"]) -> np.ndarray:
    """[n, P, 2]: what it is worth to take each item, and to leave it."""
    threshold = prior @ ratings if isinstance(accept, str) else accept
    return np.stack([ratings - threshold, np.zeros_like(ratings)], -1)


def _topics(topic: Any, n: int) -> Int[np.ndarray, "n"]:
    """The number of each label among those that there are."""
    try:
        found = np.asarray(topic)
        if found.dtype == object and all(isinstance(one, str) for one in found.ravel()):
            found = found.astype(str)
    except ValueError:  # nested lists of different lengths
        found = np.empty(0)
    if isinstance(topic, np.ma.MaskedArray) or found.shape != (n,) or found.dtype.kind not in "biufU":
        raise ValueError(f"topic: expected {n} labels, text or numbers, got {shown(topic)}")
    return np.unique(found, return_inverse=True)[1]


def _numbers(name: str, value: Any, axes: tuple[str, ...]) -> np.ndarray:
    """`value` as float64 of these axes, none of them empty, all of it finite."""
    found = np.asarray(as_float_array(name, value), np.float64)
    if found.ndim != len(axes) or 0 in found.shape:
        raise ValueError(f"{name}: expected shape [{', '.join(axes)}] with no empty axis, got {list(found.shape)}")
    bad = ~(abs(found) < LARGEST_UTILITY)
    if bad.any():
        at = tuple(int(k) for k in np.argwhere(bad)[0])
        rule = f"must be finite and below {LARGEST_UTILITY:g}"
        raise ValueError(f"{name}[{', '.join(map(str, at))}] is {found[at]}: it {rule}")
    return found
