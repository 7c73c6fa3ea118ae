"""The game: the prior and the utilities (section 1 of docs/model.md).

Letters used for shapes throughout the package:

    ...  batch axes (lead, shared by every field; absent for one game)
    XA   user features          K  agents
    XB   agent features         M  messages an agent
    Y    outcomes               A  actions of the user
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from emalign_jax.games import units
from emalign_jax.games.labels import FIELDS, Labels, plain_labels
from emalign_jax.internal import batching, validation
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.validation import Array, as_float_array

# Utilities must be smaller, so that products of a few of them do not overflow.
LARGEST_UTILITY = 1e100
# Float32 sums of a few hundred cells miss 1 by about 1e-7.
PRIOR_SUM_TOLERANCE = 1e-6
# Products of probabilities and utilities, of one party in one game.
MOST_PRODUCTS = 2**20
# The axes of a field after the batch axes.
CORE = {"prior": 3, "user_utility": 2, "agent_utilities": 3}


class Game(eqx.Module):
    """One game, or a batch of games of the same size.

    NumPy arrays stay NumPy arrays (float64 is kept even where jax would round it), jax arrays stay jax arrays, and
    anything else becomes a NumPy array. Batches are indexed as NumPy arrays are, over their leading axes. Batch axes
    are broadcast, so that games may share a prior or a user.

    Args:
        prior: [..., XA, XB, Y] the joint distribution of (x_A, x_B, y); non-negative, sums to 1.
        user_utility: [..., A, Y] the user's utility of action a at outcome y.
        agent_utilities: [..., K, A, Y] agent i's utility of the user's action.
        check: "values" or "shapes". With "shapes" the values are not checked, so that a malformed game does not stop
            its batch: `solve` and `certify` give it a result code. Under `jit` only shapes are checked.
        labels: `em.Labels`, words for agents, actions, outcomes and features; None: there are none.

    Raises:
        ValueError: names the field, the index and the rule.

    Example:
        >>> game = em.Game(prior=np.full((1, 2, 2), 0.25), user_utility=np.eye(2), agent_utilities=np.eye(2)[None])
        >>> game.agents, game.actions, game.outcomes
        (1, 2, 2)

    Source: section 1 of docs/model.md.
    """

    prior: Float[Array, "*batch XA XB Y"]
    user_utility: Float[Array, "*batch A Y"]
    agent_utilities: Float[Array, "*batch K A Y"]
    labels: Labels | None = eqx.field(static=True, default=None)

    def __init__(self, prior, user_utility, agent_utilities, *, check: str = "values", labels=None):
        choice("check", check, ("values", "shapes"))
        self.prior = as_float_array("prior", prior)
        self.user_utility = as_float_array("user_utility", user_utility)
        self.agent_utilities = as_float_array("agent_utilities", agent_utilities)
        batch = _check_shapes(self)
        for name, core in CORE.items():
            array = getattr(self, name)
            if array.shape[:-core] != batch:  # one prior, or one user, for a batch of games
                xp = jnp if isinstance(array, jax.Array) else np
                setattr(self, name, xp.broadcast_to(array, (*batch, *array.shape[-core:])))
        if labels is not None:
            if not isinstance(labels, Labels):
                raise ValueError(f"labels: expected labels such as em.Labels(agents=(...)), got {shown(labels)}")
            labels.check({name: getattr(self, name) for name in labels.given()})
        self.labels = labels
        if check == "values" and not any(isinstance(x, Tracer) for x in jax.tree.leaves(self)):
            for index, fault in zip(np.ndindex(self.batch_shape), faults(self).ravel(), strict=True):
                if fault:
                    where = f"game {list(index) if len(index) > 1 else index[0]}: " if index else ""
                    raise ValueError(where + fault)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The sizes of the batch axes; () for one game."""
        return self.prior.shape[:-3]

    @property
    def user_features(self) -> int:
        """XA, the number of values of the user's features."""
        return self.prior.shape[-3]

    @property
    def agent_features(self) -> int:
        """XB, the number of values of the agents' features."""
        return self.prior.shape[-2]

    @property
    def outcomes(self) -> int:
        """Y, the number of outcomes."""
        return self.prior.shape[-1]

    @property
    def agents(self) -> int:
        """K, the number of agents."""
        return self.agent_utilities.shape[-3]

    @property
    def actions(self) -> int:
        """A, the number of actions."""
        return self.user_utility.shape[-2]

    @property
    def of_one_agent(self) -> Game:
        """The game of the user and agent 0 alone, for checks of sizes."""
        labels = self.labels and self.labels.replace(agents=(self.labels.agents or ())[:1] or None)
        return Game(self.prior, self.user_utility, self.agent_utilities[..., :1, :, :], check="shapes", labels=labels)

    def labelled(self, labels) -> Game:
        """The same games with other `em.Labels`; None takes them away."""
        if labels is self.labels:
            return self
        return Game(self.prior, self.user_utility, self.agent_utilities, check="shapes", labels=labels)

    def names(self, of: str) -> tuple[str, ...]:
        """The labels of one kind, or "agent 0", "agent 1", ... where there are none.

        Args:
            of: "actions", "outcomes", "agents", "user_features" or "agent_features".
        """
        choice("of", of, FIELDS)
        return getattr(self.labels, of, None) or plain_labels(of, getattr(self, of))

    def __repr__(self) -> str:
        fields = self.prior, self.user_utility, self.agent_utilities
        if not all(len(getattr(x, "shape", ())) > 2 - n % 2 for n, x in enumerate(fields)):  # a tree that was mapped
            return "Game(...)"
        batch, sizes = self.batch_shape, zip(("K", "XA", "XB", "Y", "A"), self._sizes, strict=True)
        count = [f"{' x '.join(f'{n:,}' for n in batch)} game{'' if batch == (1,) else 's'}"] if batch else []
        return f"Game({', '.join([*count, *(f'{letter}={size}' for letter, size in sizes)])})"

    def _repr_html_(self) -> str:
        from emalign_jax.games.shown_in_notebooks import html  # which a program does not need

        return html(self)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.agents, self.user_features, self.agent_features, self.outcomes, self.actions

    def __len__(self) -> int:
        """The number of games along the first batch axis."""
        if not self.batch_shape:
            raise TypeError("this is one game, not a batch: it has no length")
        return self.batch_shape[0]

    def __bool__(self) -> bool:
        return not self.batch_shape or len(self) > 0

    def __iter__(self) -> Iterator[Game]:
        """The games along the first batch axis."""
        if not self.batch_shape:
            raise TypeError("this is one game, not a batch: there is nothing to go through")
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index) -> Game:
        """The games at `index` of the batch axes, as in NumPy: numbers, slices, arrays, masks."""
        parts, core = batching.index_parts(index, self.batch_shape), len(self.batch_shape)
        return jax.tree.map(lambda x: batching.take(x, parts, x.ndim - core), self)


validation.describe(("games", "game"), Game, "a Game such as em.Game(prior, user_utility, agent_utilities)")


class ReducedGame(NamedTuple):
    """All that payoffs, gradients and LPs need of a game; the outcome y is summed out.

    What the user does depends on `mass` and `user`, what it is worth to the user is counted from `welfare`. They differ
    if the user misreads beliefs (section 11 of docs/model.md); otherwise `welfare` is `user`.

    Attributes:
        mass: m [..., XA, XB], the probability of (x_A, x_B), as the user perceives it.
        user: g [..., XA, XB, A], the sum over y of p u, as the user perceives it.
        agents: G [..., K, XA, XB, A], the sum over y of p U_i.
        welfare: [..., XA, XB, A], the sum over y of p u.

    Example:
        >>> reduced = em.reduce_game(em.catalog.judge(), np)
        >>> reduced.mass.tolist(), reduced.user.shape
        ([[0.7, 0.3]], (1, 2, 2))

    Source: section 1.1 of docs/model.md.
    """

    mass: Float[Array, "*batch XA XB"]
    user: Float[Array, "*batch XA XB A"]
    agents: Float[Array, "*batch K XA XB A"]
    welfare: Float[Array, "*batch XA XB A"]

    def at(self, index) -> ReducedGame:
        """The games at `index` of the batch axes."""
        return ReducedGame(*(x[index] for x in self))

    @property
    def is_perceived(self) -> bool:
        """Whether the user misreads what actions are worth, in any of the games; needs NumPy arrays."""
        return not np.array_equal(self.user, self.welfare, equal_nan=True)


def reduce_game(game: Game, xp=jnp, believed: Any = None) -> ReducedGame:
    """The game without its outcome y, which is summed out.

    Payoffs of actions in a cell (x_A, x_B) that differ by rounding alone are made equal (section 4.3 of docs/model.md).

    Args:
        game: a `Game`, with any batch axes.
        xp: `jax.numpy` or `numpy`; with `numpy` sums are made in float64 on the host.
        believed: [..., XA, XB, Y] the joint distribution by which the user reasons; None: the prior of the game.

    Returns:
        A `ReducedGame`.

    Raises:
        ValueError: if `game` is no `Game`.

    Example:
        >>> em.reduce_game(em.catalog.judge(), np).user[0].tolist()  # [XB, A]: guilt has probability .3
        [[0.7, 0.0], [0.0, 0.3]]

    Source: section 1.1 of docs/model.md.
    """
    if not isinstance(game, Game):
        raise ValueError(f"game: expected a Game, got {shown(game)}")
    reduced, user_zero, agents_zero, welfare_zero = centred_game(game, xp, believed)
    with np.errstate(invalid="ignore", over="ignore"):  # malformed games, as in `centred_game`
        user, agents = reduced.user + user_zero[..., None], reduced.agents + agents_zero[..., None]
        welfare = user if believed is None else reduced.welfare + welfare_zero[..., None]
    return ReducedGame(reduced.mass, user, agents, welfare)


class CentredGame(NamedTuple):
    """A reduced game without the payoffs that are common to all actions, which would cost precision.

    game:         payoffs less those of one action, the best one without information.
    user_zero:    [..., XA, XB] the user's totals of that action, as the user perceives them.
    agents_zero:  [..., K, XA, XB] the agents' totals of that action.
    welfare_zero: [..., XA, XB] the user's totals of that action.
    """

    game: ReducedGame
    user_zero: Float[Array, "*batch XA XB"]
    agents_zero: Float[Array, "*batch K XA XB"]
    welfare_zero: Float[Array, "*batch XA XB"]


def centred_game(game: Game, xp=jnp, believed: Any = None) -> CentredGame:
    """As `reduce_game`, with payoffs counted from those of one action: payoff = centred + zero."""
    if xp is np:
        p, u, v = (np.asarray(x, np.float64) for x in (game.prior, game.user_utility, game.agent_utilities))
    else:
        with np.errstate(over="ignore"):  # no warning: numbers too large for float32 become infinite
            p, u, v = (xp.asarray(x) for x in (game.prior, game.user_utility, game.agent_utilities))
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(p, u, v)
        p, u, v = (x.astype(dtype) for x in (p, u, v))
    with np.errstate(invalid="ignore", over="ignore"):  # no warning about 0 * inf in malformed games
        likely = p.sum((-3, -2))
        expected = (likely[..., None, :] * u).sum(-1)
        origin = xp.argmax(expected, -1)[..., None, None]
        welfare, welfare_zero = _sum_out(p, u, origin, xp)
        agents, agents_zero = _sum_out(p[..., None, :, :, :], v, origin[..., None, :, :], xp)
        user, user_zero = welfare, welfare_zero
        if believed is not None:
            p = xp.asarray(believed).astype(p.dtype)
            user, user_zero = _sum_out(p, u, origin, xp)
    return CentredGame(ReducedGame(p.sum(-1), user, agents, welfare), user_zero, agents_zero, welfare_zero)


def _sum_out(p, utility, origin, xp):
    """Totals less those of the action `origin`, [..., XA, XB, A], and the totals of `origin`, [..., XA, XB]."""
    base = xp.take_along_axis(utility, xp.broadcast_to(origin, (*utility.shape[:-2], 1, 1)), -2)
    eps = float(xp.finfo(utility.dtype).eps)

    # Products and sums rather than matrix products, which an accelerator would compute in TF32. On the host, where the
    # products of a game of a thousand states do not fit into memory, a matrix product is as precise.
    def total(of):
        if xp is np and math.prod(p.shape[-3:]) * of.shape[-2] > MOST_PRODUCTS:
            return p @ xp.swapaxes(of, -1, -2)[..., None, :, :]
        return (p[..., None, :] * of[..., None, None, :, :]).sum(-1)

    payoff = total(utility - base)
    rounding = (4 + utility.shape[-1]) * eps * abs(utility - base) + eps * (abs(utility) + abs(base))
    rounding = (abs(p)[..., None, :] * rounding[..., None, None, :, :]).sum(-1)
    merged = units.merge_noise(payoff, rounding, xp)
    if xp is not np:  # numbers made equal keep their own derivatives
        merged = payoff + jax.lax.stop_gradient(merged - payoff)
    return merged, total(base)[..., 0]


def possible_utilities(game: Game) -> tuple[Float[np.ndarray, "*batch A Y"], Float[np.ndarray, "*batch K A Y"]]:
    """The user's utility and the agents', 0 at outcomes that cannot happen; NumPy float64."""
    happens = np.asarray(game.prior).sum((-3, -2)) > 0
    user, agents = (np.asarray(x, np.float64) for x in (game.user_utility, game.agent_utilities))
    return np.where(happens[..., None, :], user, 0), np.where(happens[..., None, None, :], agents, 0)


def faults(game: Game) -> np.ndarray:
    """What is wrong with each game: an object array [...] of sentences, `""` where nothing is."""
    with np.errstate(invalid="ignore"):  # no warning about signaling NaNs
        held = fetch((game.prior, game.user_utility, game.agent_utilities))
        prior, user, agents = (np.asarray(x, np.float64) for x in held)
    found = np.full(game.batch_shape, "", dtype=object)
    with np.errstate(invalid="ignore"):
        total = np.where(np.isfinite(prior), prior, 0).sum((-3, -2, -1), dtype=np.float64)
        checks = (
            ("prior", prior, ~np.isfinite(prior), "must be finite"),
            ("prior", prior, prior < 0, "must not be negative"),
            ("user_utility", user, ~np.isfinite(user), "must be finite"),
            ("agent_utilities", agents, ~np.isfinite(agents), "must be finite"),
            ("user_utility", user, np.abs(user) >= LARGEST_UTILITY, f"must be below {LARGEST_UTILITY:g}"),
            ("agent_utilities", agents, np.abs(agents) >= LARGEST_UTILITY, f"must be below {LARGEST_UTILITY:g}"),
        )
    core = len(game.batch_shape)
    for field, values, bad, rule in checks:
        hit = bad.any(axis=tuple(range(core, bad.ndim)))
        for index in zip(*np.nonzero(np.atleast_1d(hit)), strict=True):
            index = index if core else ()
            if not found[index]:
                cell = tuple(int(x) for x in np.argwhere(bad[index])[0])
                found[index] = f"{field}[{', '.join(map(str, cell))}] is {values[index + cell]}: it {rule}"
    for index in np.ndindex(game.batch_shape):
        if not found[index] and abs(total[index] - 1) > PRIOR_SUM_TOLERANCE:
            found[index] = f"prior sums to {total[index]:.9g}: it must sum to 1 (within {PRIOR_SUM_TOLERANCE:g})"
    return found


def _check_shapes(game: Game) -> tuple[int, ...]:
    """The batch axes, to which all fields can be broadcast."""
    prior, user, agents = game.prior.shape, game.user_utility.shape, game.agent_utilities.shape
    for field, shape, core, case in (
        ("prior", prior, "[..., XA, XB, Y]", "a user who sees nothing"),
        ("user_utility", user, "[..., A, Y]", ""),
        ("agent_utilities", agents, "[..., K, A, Y]", "one agent"),
    ):
        if len(shape) < core.count(","):
            hint = f"; for {case} write {field}[None]" if case and len(shape) == core.count(",") - 1 else ""
            raise ValueError(f"{field}: expected shape {core}, got {list(shape)}{hint}")
    if agents[-3] == 0:
        raise ValueError("agent_utilities: K (axis -3) is 0, a game needs at least one agent")
    for field, shape, core in (("prior", prior, 3), ("user_utility", user, 2), ("agent_utilities", agents, 3)):
        if 0 in shape[-core:]:
            raise ValueError(f"{field}: no axis may be empty, got shape {list(shape)}")
    if user[-1] != prior[-1]:
        raise ValueError(f"user_utility: Y (last axis) is {user[-1]}, but prior has Y = {prior[-1]}")
    if agents[-2:] != user[-2:]:
        raise ValueError(
            f"agent_utilities: last axes [A, Y] are {list(agents[-2:])}, but user_utility has {list(user[-2:])}"
        )
    batches = {"prior": prior[:-3], "user_utility": user[:-2], "agent_utilities": agents[:-3]}
    for one, other in itertools.combinations(batches, 2):
        try:
            np.broadcast_shapes(batches[one], batches[other])
        except ValueError:
            raise ValueError(
                f"{other}: batch axes are {list(batches[other])}, but {one} has {list(batches[one])}"
            ) from None
    return np.broadcast_shapes(*batches.values())
