"""Schemes of agents that were observed: counts of their messages, and what is then known of the schemes.

Row x_B of an agent's scheme has a Dirichlet prior with the same weight on every message, so that its posterior after
counts n is Dirichlet(n + prior). `counts_from_agent` makes the counts of any function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.internal.arguments import BETWEEN, POSITIVE, integer, number, shortened, shown
from emalign_jax.internal.validation import as_float_array, as_key
from emalign_jax.result import Batched

# Agents that answer in numbers answer in smaller ones: each number below the largest is a message.
MOST_MESSAGES = 10_000


class ObservedSchemes(Batched):
    """What counts of messages say of schemes; float64, on the host.

    Attributes:
        schemes: [..., K, XB, M] the mean of the posterior.
        lower: [..., K, XB, M] the lower credible limit of each entry alone (of its Beta distribution).
        upper: [..., K, XB, M] the upper one.
        unseen: [..., K, XB] rows without any count: their mean is uniform, which says nothing of the agent.
        counts: [..., K, XB, M] as given.
        prior: the weight of every message in the Dirichlet prior of a row.
        level: the probability between the limits.

    Example:
        >>> observed = em.schemes_from_counts([[[8, 2], [0, 10]]])
        >>> observed.sample(0, 100).shape
        (100, 1, 2, 2)

    Source: docs/guides/observed_agents.md.
    """

    schemes: Float[np.ndarray, "*batch K XB M"]
    lower: Float[np.ndarray, "*batch K XB M"]
    upper: Float[np.ndarray, "*batch K XB M"]
    unseen: Bool[np.ndarray, "*batch K XB"]
    counts: Float[np.ndarray, "*batch K XB M"]
    prior: float
    level: float

    _code: ClassVar[str | None] = None

    def _headline(self) -> dict[str, Any]:
        return {"messages counted": self.counts.sum(), "level": self.level}

    def broadcast_to(self, batch: tuple[int, ...]) -> ObservedSchemes:
        """The same for every game of a batch of this shape."""
        own = len(self.batch_shape)
        whole = {name: getattr(self, name) for name in ("schemes", "lower", "upper", "unseen", "counts")}
        return self.replace(**{name: np.broadcast_to(x, (*batch, *x.shape[own:])) for name, x in whole.items()})

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        counted = {"calls": self.counts.sum((-2, -1)), "unseen_states": self.unseen.sum(-1)}
        return counted | {name: np.full(self.batch_shape, getattr(self, name)) for name in ("prior", "level")}

    def sample(self, key: jax.Array | SupportsIndex, n: int) -> Float[np.ndarray, "n *batch K XB M"]:
        """Draws of all schemes from the posterior, [n, ..., K, XB, M].

        Args:
            key: a jax key, or an integer seed.
            n: the number of draws.
        """
        draws = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
        weights, shape = self.counts + self.prior, (integer("n", n, 1), *self.counts.shape)
        # By logarithms, as gammas of small weights underflow: log G(a) = log G(a + 1) + log(U) / a.
        logs = np.log(draws.standard_gamma(weights + 1, shape)) + np.log1p(-draws.random(shape)) / weights
        drawn = np.exp(logs - logs.max(-1, keepdims=True))
        return drawn / drawn.sum(-1, keepdims=True)


def schemes_from_counts(counts, *, prior: float = 1.0, level: float = 0.95) -> ObservedSchemes:
    """Schemes from how often each agent sent each message, by what the agent knew.

    Args:
        counts: [..., K, XB, M] whole numbers >= 0.
        prior: the weight of every message in the Dirichlet prior of a row: 1 is uniform over distributions, .5
            Jeffreys'.
        level: the probability between `lower` and `upper`.

    Returns:
        `ObservedSchemes`.

    Raises:
        ValueError: for other counts, and for an agent without any.

    Example:
        >>> em.schemes_from_counts([[[8, 2], [0, 10]]]).schemes.round(3).tolist()
        [[[0.75, 0.25], [0.083, 0.917]]]

    Source: docs/guides/observed_agents.md.
    """
    array = np.asarray(as_float_array("counts", counts), np.float64)
    prior, level = number("prior", prior, *POSITIVE), number("level", level, *BETWEEN)
    if array.ndim < 3 or array.shape[-1] < 1:
        raise ValueError(f"counts: expected shape [..., K, XB, M] with M >= 1, got {list(array.shape)}")
    wrong = ~((array >= 0) & (array < np.inf) & (array == np.floor(array)))
    if wrong.any():
        where = [int(x) for x in np.argwhere(wrong)[0]]
        raise ValueError(f"counts{where}: expected a whole number >= 0, got {array[tuple(where)]}")
    unseen = array.sum(-1) == 0
    if unseen.all(-1).any():
        where = [int(x) for x in np.argwhere(unseen.all(-1))[0]]
        raise ValueError(f"counts{where}: nothing is counted of this agent")
    weights = array + prior
    total = weights.sum(-1, keepdims=True)
    if array.shape[-1] == 1:
        lower = upper = np.ones_like(array)
    else:
        from scipy.special import betaincinv  # Imported here because it takes a tenth of a second.

        lower, upper = (betaincinv(weights, total - weights, (1 + end * level) / 2) for end in (-1, 1))
    return ObservedSchemes(weights / total, lower, upper, unseen, array, prior, level)


class AgentCounts(NamedTuple):
    """How often agents gave each answer.

    Attributes:
        counts: [K, XB, M].
        words: the M messages, by number.
        errors: a sentence for each call that failed.

    Example:
        >>> em.counts_from_agent(lambda x: "yes" if x > 1 else "no", 3, 5).words
        ('no', 'yes')
    """

    counts: Int[np.ndarray, "K XB M"]
    words: tuple[Any, ...]
    errors: tuple[str, ...]


def counts_from_agent(
    agent: Callable[[Any], Any] | Sequence[Callable[[Any], Any]],
    states: SupportsIndex | Sequence[Any],
    n: int,
    *,
    words: Sequence[Any] | None = None,
    most_errors: int = 0,
) -> AgentCounts:
    """Ask an agent several times in each state, and count its messages.

    Args:
        agent: a function of what the agent knows that returns a message, an integer from 0 or anything hashable such as
            a word; or a list of such functions, one an agent.
        states: a list of what the agent is told for each x_B, such as prompts; a number XB stands for 0, ..., XB - 1.
        n: calls of each agent in each state.
        words: the messages there are, by number; any other is an error. None: if all messages are integers, an integer
            is its own number; otherwise messages are numbered as they first appear. Agents share the numbers.
        most_errors: how many calls in all may raise an error; they are left out (`AgentCounts.errors`).

    Returns:
        `AgentCounts`: counts [K, XB, M].

    Raises:
        ValueError: names agent, state and call: for what the agent raises after `most_errors` others, and for
            what is no message.

    Example:
        >>> em.counts_from_agent(lambda x: "yes" if x > 1 else "no", 3, 5).counts.tolist()
        [[[5, 0], [5, 0], [0, 5]]]

    Source: docs/guides/observed_agents.md.
    """
    agents: Any = agent if isinstance(agent, list | tuple) else [agent]
    if not agents or any(isinstance(one, type) or not callable(one) for one in agents):
        raise ValueError(f"agent: expected a function of x_B or a list of some, got {shown(agent)}")
    told = states if isinstance(states, list | tuple) else range(integer("states", states, 1))
    if not told:
        raise ValueError("states: expected a number or a list of what agents are told, got an empty list")
    n, most_errors = integer("n", n, 1), integer("most_errors", most_errors, 0)
    said, errors = [], []
    for i, one in enumerate(agents):
        for state, knows in enumerate(told):
            for call in range(n):
                where = f"agent {i}, state {state} ({shortened(knows, 60)}), call {call}"
                try:
                    message = one(knows)
                except Exception as error:
                    errors.append(f"{where}: {type(error).__name__}: {shortened(error)}")
                    if len(errors) > most_errors:
                        raise ValueError(errors[-1]) from error
                    continue
                said.append((i, state, _message(message, where), where))
    numbers = _numbers([message for *_, message, _ in said], words)
    counts = np.zeros((len(agents), len(told), max(len(numbers), 1)), int)
    for i, state, message, where in said:
        if message not in numbers:
            raise ValueError(f"{where}: expected one of words, got {shown(message)}")
        counts[i, state, numbers[message]] += 1
    return AgentCounts(counts, tuple(numbers), tuple(errors))


def _message(message: Any, where: str) -> Any:
    """`message` if it can be counted, integers of NumPy as plain ones."""
    if isinstance(message, np.generic):
        message = message.item()
    if not _countable(message):
        raise ValueError(
            f"{where}: expected an integer from 0 or something hashable such as a word, got {shown(message)}"
        )
    if type(message) is int and not 0 <= message < MOST_MESSAGES:
        raise ValueError(f"{where}: expected an integer from 0 to {MOST_MESSAGES - 1} or a word, got {shown(message)}")
    return message


def _countable(message: Any) -> bool:
    try:
        return message is not None and hash(message) is not None and bool(message == message)
    except TypeError:  # it has no hash
        return False


def _numbers(said: list[Any], words: Sequence[Any] | None) -> dict[Any, int]:
    """The number of each message."""
    if words is not None:
        right = isinstance(words, list | tuple) and words and all(map(_countable, words))
        if not right or len(set(words)) < len(words):
            raise ValueError(f"words: expected a list of different messages, got {shown(words)}")
        return {word: number for number, word in enumerate(words)}
    if said and all(type(message) is int for message in said):
        return {number: number for number in range(max(said) + 1)}
    return {word: number for number, word in enumerate(dict.fromkeys(said))}
