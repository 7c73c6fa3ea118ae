"""`solve`: the search for equilibria, in blocks of games."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.equilibrium.search import Search
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.trajectory import as_long
from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.checks.base import check_for, default_tolerance
from emalign_jax.games.game import Game
from emalign_jax.internal import batching, processors
from emalign_jax.internal.arguments import integer
from emalign_jax.internal.validation import checked, on_host
from emalign_jax.lp.choice import check_word
from emalign_jax.play import GradientPlay, Implicit, SmoothPlay, Unrolled, differentiable
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import check_schemes, check_shape
from emalign_jax.result import Derivative, FoundBy, Result
from emalign_jax.users.base import AbstractUser

STARTS = ("random", "monopolist")
# Games searched together: enough for long arrays, few enough for memory to stay flat.
GAMES_AT_ONCE = 4096
# On a CPU blocks of so many games are searched side by side, because half of the work is NumPy's, which uses one core.
FEWEST_AT_ONCE = 256


def solve(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: AbstractSolver | SmoothPlay | None = None,
    *,
    key: jax.Array | SupportsIndex | None = None,
    starts: int = 1,
    start: Any = None,
    messages: int | None = None,
    first: int = 0,
    of: int | None = None,
    verify: bool = True,
    lp: str = "auto",
    progress=None,
    record: bool = False,
    differentiation: Implicit | Unrolled | None = None,
) -> Solution:
    """Search for an equilibrium of each game.

    A game usually has many equilibria; a search finds one for each start. A malformed game gets a result code and costs
    only its own row.

    Args:
        games: [...] games.
        protocol: how the user talks to the agents.
        user: how the user acts.
        solver: `GradientPlay` (the default), whose results are checked and moved on by exact best responses, or
            `BestResponseDynamics`, exact from the first step; with `differentiation` a `SmoothPlay`.
        key: a jax key or an integer seed, needed for random starts; game i's start depends on (key, start, i) alone.
        starts: the number of starts of each game.
        start: "random", "monopolist" (each agent's best response with no rival; key not needed for it), or schemes
            [..., K, XB, M] to go on from (with a leading axis of starts if there are several). None is "monopolist" in
            Selection and Comparison where results are checked, elsewhere "random". Starts after the first are random.
        messages: M; by default enough for every scheme that an agent can want.
        first: number of the first game, on which random starts depend: a batch may be solved in blocks.
        of: the number of games in all blocks, on which `lp` "auto" depends, so that a game's result is that of the
            whole batch; None: the number of games at hand.
        verify: check exactly and move stuck games by best responses; False returns what play ended with.
        lp: how best responses in Selection with a rational user, and guarantees, are found, see `certify`.
        progress: called as progress(name of the stage, games done in it, games in it).
        record: keep the `Trajectory` of every search; takes time and memory, and changes no result.
        differentiation: `Implicit()` or `Unrolled()` finds smoothed equilibria with `SmoothPlay` instead: pure JAX, to
            be used under jit, vmap and grad, with derivatives by games, protocol, user and solver. Nothing is verified
            (`certify` the schemes afterwards); `derivative` says SMOOTH, or why it cannot be trusted.

    Returns:
        A `Solution`; with starts > 1 a starts axis leads the batch axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> game = em.catalog.prosecutor_against_defender()
        >>> found = em.solve(game, em.Selection(), em.RationalUser(), key=0)
        >>> em.Result(int(found.result)).name, round(float(found.user), 3)  # competition reveals everything
        ('CERTIFIED', 1.0)

    Source: section 4.8 of docs/model.md.
    """
    games, protocol, user, solver = checked(games=games, protocol=protocol, user=user, solver=solver)
    key, start, differentiation = checked(key=key, start=start, differentiation=differentiation)
    checked(verify=verify, progress=progress, record=record)
    check_word(lp)
    starts, first = integer("starts", starts, 1), integer("first", first, 0)
    of = None if of is None else integer("of", of, 0)
    messages = None if messages is None else integer("messages", messages, 1)
    if differentiation is not None or isinstance(solver, SmoothPlay):
        if record:
            raise ValueError("record: a differentiable search keeps no trajectory; leave it False")
        return _solve_smooth(games, protocol, user, solver, differentiation, key, starts, start, messages, first)
    on_host(games=games, protocol=protocol, user=user, key=key, start=start)
    start = default_start(protocol, verify) if start is None else start
    solver = GradientPlay() if solver is None else solver
    tolerance = default_tolerance(protocol, user) if solver.tolerance is None else solver.tolerance
    given = None if isinstance(start, str) else check_schemes(games, start, protocol, "start")
    if given is None and start not in STARTS:
        raise ValueError(f"start: expected {' or '.join(STARTS)} or an array of schemes, got {start!r}")
    if key is None and given is None and (start == "random" or starts > 1):
        raise ValueError("key: random starts need one: a seed such as key=0, or jax.random.key(0)")
    if not verify and solver.verifies:
        raise ValueError(f"verify: {type(solver).__name__} consists of exact checks; leave it True with this solver")
    if key is None:
        key = jax.random.key(0)
    M = given.shape[-1] if given is not None else messages or protocol.messages(games)
    alone = given is None and start == "monopolist"
    check_sizes(games, protocol, user, M, alone=alone, exactly=verify or alone)
    if given is not None and starts > 1 and given.shape[:-3][:1] != (starts,):
        raise ValueError(
            f"start: with starts = {starts} given schemes need a leading axis of {starts}, got {list(given.shape)}"
        )
    solver = dataclasses.replace(solver, tolerance=tolerance)
    shape = games.batch_shape
    flat, modules = flatten_games(games, shape), [batching.flatten(module, shape) for module in (protocol, user)]
    many = len(flat.prior)
    words = {"starts": starts, "messages": M, "of": max(of or 0, many), "lp": lp, "verify": verify, "record": record}
    if given is not None:
        whole = (starts, *shape, *given.shape[-3:])
        given = np.broadcast_to(given, whole).reshape(starts, many, *given.shape[-3:])

    stop, tell = processors.stoppable(progress)

    def search_block(some: slice) -> Solution:
        protocol, user = jax.tree.map(lambda x: x[some], modules)
        search = Search(flat[some], protocol, user, solver, key, first=first + some.start, progress=tell, **words)
        pending = search.begin(start if given is None else given[:, some])
        return _searched(search, pending, given is not None or start == "monopolist")

    # A search that tells of its progress takes one block after the other.
    threads = processors.side_by_side() if progress is None else 1
    number = -(-max(many, 1) // (GAMES_AT_ONCE * threads)) * threads  # A batch of no games has one block.
    together = max(FEWEST_AT_ONCE, -(-many // number)) if threads > 1 else GAMES_AT_ONCE
    blocks = [slice(at, at + together) for at in range(0, max(many, 1), together)]
    parts = [part for _, part in processors.as_done(processors.like_here(search_block), blocks, threads, stop)]
    return _joined(parts, starts, shape, games.labels)


def default_start(protocol: AbstractProtocol, verify: bool) -> str:
    """The word for the first start of a search, in Python and in specifications, where none is given."""
    return protocol.first_start if verify else "random"


def _searched(search: Search, pending, on_purpose: bool) -> Solution:
    """The search from the first profiles. on_purpose: whether they may be equilibria themselves."""
    if search.verify and on_purpose and len(pending):
        pending = search.examine(pending, FoundBy.START)
    rounds, (alone, copies) = search.solver.rounds(search), search.solver.copies(search)
    attempt = 0
    while attempt < rounds and len(pending):
        if attempt == alone:
            copies = min(copies, rounds - attempt)
            pending, rounds = search.split(pending, copies), attempt + math.ceil((rounds - attempt) / copies)
        pending = search.solver.improve(search, pending, attempt)
        if attempt >= alone:
            pending = search.without_settled(pending)
        attempt += 1
    return search.solution()


def _joined(parts: list[Solution], starts: int, shape: tuple[int, ...], labels: Any) -> Solution:
    """The solutions of successive blocks of games as one."""
    batch = (starts, *shape) if starts > 1 else shape

    def join(*columns):
        one = [column.reshape((starts, len(column) // starts, *column.shape[1:])) for column in columns]
        whole = np.concatenate(one, 1)
        return whole.reshape((*batch, *whole.shape[2:]))

    kept = [part.trajectory for part in parts if part.trajectory is not None]
    longest = max((one.user.shape[1] for one in kept), default=0)
    for n, one in enumerate(kept):  # of all parts or of none
        parts[n] = parts[n].replace(trajectory=as_long(one, longest))
    stats: dict[str, int] = {}
    for part in parts:
        stats |= {name: stats.get(name, 0) + count for name, count in part.stats.items()}
    found = jax.tree.map(join, *(part.replace(stats={}) for part in parts))
    for kind, codes in ((Result, found.result), (FoundBy, found.found_by)):
        counts = {code.name.lower(): int((codes == code).sum()) for code in kind}
        stats |= {name: count for name, count in counts.items() if count}
    return _named(found.replace(stats=stats), starts, labels)


def _named(found: Solution, starts: int, labels: Any) -> Solution:
    """The solution and what is in it, which know of the axis of starts and of the labels."""
    said: dict[str, Any] = {"starts": starts, "labels": labels}
    parts = {name: part for name in ("certificate", "trajectory") if (part := getattr(found, name)) is not None}
    return found.replace(**said, **{name: part.replace(**said) for name, part in parts.items()})


def _solve_smooth(games, protocol, user, solver, differentiation, key, starts, start, messages, first) -> Solution:
    solver = SmoothPlay() if solver is None else solver
    differentiation = Implicit() if differentiation is None else differentiation
    differentiable.check(protocol, user, solver)
    if start is None or isinstance(start, str):
        if start not in (None, "random"):
            raise ValueError(f'start: with differentiation expected "random" or an array of schemes, got {start!r}')
        if key is None:
            raise ValueError("key: random starts need one: a seed such as key=0, or jax.random.key(0)")
        M = messages or protocol.messages(games)
        check_sizes(games, protocol, user, M, alone=False, exactly=False)
        start = differentiable.starts_of(games, protocol, key, starts, M, first)
    else:
        check_shape(games, np.shape(start), protocol, "start")
        check_sizes(games, protocol, user, np.shape(start)[-1], alone=False, exactly=False)
        if starts > 1 and np.shape(start)[:-3][:1] != (starts,):
            raise ValueError(f"start: with starts = {starts} given schemes need a leading axis of {starts}")
    schemes, value, paid, derivative = differentiable.solve_smooth(
        games, protocol, user, solver, differentiation, start
    )
    finite = derivative != int(Derivative.NOT_FINITE)
    result = jnp.where(finite, int(Result.UNCHECKED), int(Result.FAILED))
    found_by = jnp.where(finite, int(FoundBy.PLAY), int(FoundBy.NOTHING))
    stats = {"starts": starts}
    return Solution(schemes, value, paid, result, found_by, derivative, stats, starts=starts, labels=games.labels)


def check_sizes(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, messages: int, *, alone: bool, exactly: bool
) -> None:
    """Raise the `ValueError` of whatever cannot be done with games of this size, before any work; values are not read.

    alone: whether monopolists' schemes are needed; exactly: whether exact checks are needed.
    """
    protocol.check(games, messages)
    user.check(games, protocol, messages)
    protocol.check_user(games, user, messages)
    if alone:  # a reply rule that fits all agents may not fit one
        user.check(games.of_one_agent, protocol, messages)
    if exactly:
        check_for(protocol, user).check_size(games, protocol, user, messages)
