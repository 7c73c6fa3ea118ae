"""The profiles that a search met on its way, step by step, which `solve` keeps on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.internal.arguments import boolean
from emalign_jax.result import BatchedStarts
from emalign_jax.result.batched import of_codes

if TYPE_CHECKING:
    import pandas as pd

# Profiles are valued together once so many are held, so that memory does not grow with the schemes of all steps.
HELD = 4096


class Trajectory(BatchedStarts):
    """The profiles that a search met, in order; float64 arrays on the host.

    Gradient play is kept every tenth step. The last profile is the one that is returned: the best one met, which may be
    an earlier one of the trajectory once more. Behind the last profile of a game, whose number `steps` says, numbers
    are NaN and codes -1.

    Attributes:
        steps: [...] number of profiles T that were kept of this game.
        move: [..., T] a `Move` a profile: how it came about.
        user: [..., T] the user's value.
        agents: [..., T, K] the agents' payoffs.
        relative_gain: [..., T, K] deviation gains (lower bounds) as shares of the payoff range; NaN where the profile
            was not checked, as between the first and the last step of gradient play.
        holder: [..., T] the agent that the user picks (most often, where the choice is random; the lowest index
            among equals); -1 where all are heard.

    Example:
        >>> setting = em.catalog.two_prosecutors(), em.Selection(), em.RationalUser(), em.BestResponseDynamics()
        >>> found = em.solve(*setting, start=em.full_revelation(2, 2, 2), record=True)
        >>> [em.Move(int(move)).name for move in found.trajectory.move]
        ['START', 'RETURNED']
    """

    steps: Int[np.ndarray, "*batch"]
    move: Int[np.ndarray, "*batch T"]
    user: Float[np.ndarray, "*batch T"]
    agents: Float[np.ndarray, "*batch T K"]
    relative_gain: Float[np.ndarray, "*batch T K"]
    holder: Int[np.ndarray, "*batch T"]

    _code: ClassVar[str | None] = None

    def _headline(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def to_pandas(self, *, long: bool = False) -> pd.DataFrame:
        """A pandas table with a row a game, start and profile that was met, and the columns of trajectories.parquet.

        long: a row an agent more, with its own payoff and gain
        """
        import pandas as pd

        boolean("long", long)
        order = self._order()
        rows = lambda x: x.reshape(len(order), *x.shape[len(self.batch_shape) :])[order]  # noqa: E731
        move = rows(self.move)
        row, step = np.nonzero(move >= 0)
        each = {
            name: rows(x)[row, step]
            for name, x in (("agent_payoffs", self.agents), ("relative_gain", self.relative_gain))
        }
        found = {name: x[row] for name, x in self._numbers(order).items()} | {
            "step": step,
            "move": of_codes("move", move[row, step], "name"),
            "user_value": rows(self.user)[row, step],
            "holder": rows(self.holder)[row, step],
        }
        if not long:
            return pd.DataFrame(found | {name: x.tolist() for name, x in each.items()})
        K = self.agents.shape[-1]
        found = {name: np.repeat(x, K) for name, x in found.items()} | {"agent": np.tile(np.arange(K), len(row))}
        return pd.DataFrame(found | {name: x.reshape(-1) for name, x in each.items()})


class Recorder:
    """Profiles as a search meets them, each noted under its number.

    agents: their number K
    value:  a function of (numbers [n], schemes [n, K, rows, M]) that returns the user's value [n], the agents' payoffs
            [n, K] and the picked agent [n]
    """

    def __init__(
        self, agents: int, value: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    ):
        self._value = value
        self._held: list[tuple[np.ndarray, ...]] = []  # numbers, moves, gains, schemes
        none, nothing, each = np.zeros(0, int), np.zeros(0), np.zeros((0, agents))
        # Numbers, and the columns of a `Trajectory` after `steps`.
        self._valued: list[tuple[np.ndarray, ...]] = [(none, none, nothing, each, each, none)]
        self._before_copies = 0

    def note(self, profiles: Int[np.ndarray, "n"], moves: Any, schemes, relative: Any = np.nan) -> None:
        """The present schemes [n, K, rows, M] of some profiles. moves: codes; relative: gains [n, K] where known."""
        if len(profiles):
            moves = np.broadcast_to(moves, len(profiles)).astype(int)
            self._held.append((profiles, moves, np.broadcast_to(relative, schemes.shape[:2]), schemes))
        if sum(len(noted[0]) for noted in self._held) >= HELD:
            self._settle()

    def _settle(self) -> None:
        if self._held:
            profiles, moves, relative, schemes = (np.concatenate(parts) for parts in zip(*self._held, strict=True))
            user, agents, holder = self._value(profiles, schemes)
            self._valued.append((profiles, moves, user, agents, relative, holder))
            self._held = []

    def copied(self) -> None:
        """From now on higher numbers are of copies of profiles: what was noted before is the past of all of them."""
        self._before_copies = sum(len(noted[0]) for noted in self._valued + self._held)

    def joined(self, place: Int[np.ndarray, "numbers"]) -> None:
        """The profile of each number becomes that of the number `place`; copies at -1 are given up."""
        self._settle()
        profiles, *columns = self._columns()
        owner = np.where(np.arange(len(profiles)) < self._before_copies, profiles, place[profiles])
        self._valued = [(owner[owner >= 0], *(column[owner >= 0] for column in columns))]

    def _columns(self) -> list[np.ndarray]:
        return [np.concatenate(parts) for parts in zip(*self._valued, strict=True)]

    def trajectory(self, count: int) -> Trajectory:
        """The trajectories of profiles 0, ..., count - 1."""
        self._settle()
        profiles, *columns = self._columns()
        order = np.argsort(profiles, kind="stable")
        steps = np.bincount(profiles, minlength=count)
        at = profiles[order], np.arange(len(order)) - np.repeat(np.cumsum(steps) - steps, steps)

        def packed(column):
            empty = np.full((count, steps.max(initial=0), *column.shape[1:]), np.nan if column.dtype == float else -1)
            empty[at] = column[order]
            return empty

        return Trajectory(steps, *map(packed, columns))


def as_long(trajectory: Trajectory, steps: int) -> Trajectory:
    """Trajectories [N, T] with room for at least so many steps."""

    def longer(column):
        more = [(0, 0), (0, max(0, steps - column.shape[1])), *[(0, 0)] * (column.ndim - 2)]
        return np.pad(column, more, constant_values=np.nan if column.dtype == float else -1)

    columns = (trajectory.move, trajectory.user, trajectory.agents, trajectory.relative_gain, trajectory.holder)
    return Trajectory(trajectory.steps, *map(longer, columns))
