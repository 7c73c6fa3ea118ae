"""One agent's problem against fixed schemes of the others, in terms of beliefs (section 5.3 of docs/model.md): a plain
reference for the package's batches of such problems."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.by_user import belief_lps
from emalign_jax.exact.concavification.problems import IMPOSSIBLE, BeliefProblems
from emalign_jax.exact.responses import respond
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser


class BeliefProblem:
    """The problem of one agent with T types t = (x_A, joint message of the others). The user is a RationalUser or, if
    its `is_smooth`, a QuantalUser.

    prior:     [XB] the distribution of x_B
    possible:  [XB] which x_B can occur; there are B of them
    target:    [B] the prior of the possible x_B
    mass:      [B, T] the probability of type t given x_B
    user_payoff, own_payoff: [B, T, A] the user's and the agent's payoffs, per unit of belief
    spread:    the agent's unit of payoff (`units.unit`)
    """

    def __init__(
        self,
        mass: Float[np.ndarray, "T XB"],
        user_payoff: Float[np.ndarray, "T XB A"],
        own_payoff: Float[np.ndarray, "T XB A"],
        user: AbstractUser,
    ):
        self.prior = mass.sum(0)
        self.possible = self.prior > IMPOSSIBLE
        self.user: Any = user
        self.target = self.prior[self.possible]
        forgone = np.where(mass.sum(1) > 0, user.most_forgone * mass.sum(1), 0)
        likely = units.most_likely(user_payoff, forgone, user.tie_tolerance)
        self.spread = float(units.unit(own_payoff, likely))
        mass, user_payoff, own_payoff = (x[:, self.possible] for x in (mass, user_payoff, own_payoff))
        inverse = 1 / self.target
        self.mass = (mass * inverse).T
        shape = (len(self.target), len(mass), own_payoff.shape[-1])
        self.user_payoff = (user_payoff * inverse[:, None]).transpose(1, 0, 2).reshape(shape)
        self.own_payoff = (own_payoff * inverse[:, None]).transpose(1, 0, 2).reshape(shape)

    def payoffs(self, beliefs: Float[np.ndarray, "N B"]) -> tuple[np.ndarray, np.ndarray]:
        """The agent's F and the user's V at each unnormalised belief: [N], [N]."""
        _, user_total, distribution = self.responses(beliefs)
        own_total = (beliefs @ self.own_payoff.reshape(len(self.target), -1)).reshape(distribution.shape)
        return (distribution * own_total).sum((1, 2)), (distribution * user_total).sum((1, 2))

    def goal(self, own: float, user: float) -> Float[np.ndarray, "B TA"]:
        """The payoff own * (agent's) + user * (user's), an argument of `value`, `slope` and `alone`."""
        return (own * self.own_payoff + user * self.user_payoff).reshape(len(self.target), -1)

    def value(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N"]:
        *_, distribution = self.responses(beliefs)
        return (distribution.reshape(len(beliefs), -1) * (beliefs @ goal)).sum(1)

    def slope(self, beliefs: Float[np.ndarray, "N B"], goal: Float[np.ndarray, "B TA"]) -> Float[np.ndarray, "N B"]:
        """The gradient of `value` in the belief, for a quantal user."""
        mass, user_total, distribution = self.responses(beliefs)
        N = len(beliefs)
        per_mass = 1 / np.where(mass > IMPOSSIBLE, mass, np.inf)[..., None]
        mean = (beliefs @ goal).reshape(distribution.shape) * per_mass
        pull = float(self.user.precision) * distribution * (mean - (distribution * mean).sum(-1, keepdims=True))
        return (
            distribution.reshape(N, -1) @ goal.T
            + pull.reshape(N, -1) @ self.user_payoff.reshape(len(self.target), -1).T
            - (pull * user_total * per_mass).sum(-1) @ self.mass.T
        )

    def alone(self, goal: Float[np.ndarray, "B TA"], sign: float = 1.0) -> BeliefProblems:
        """This problem with this goal as a batch of one."""
        B, T, A = self.user_payoff.shape
        user, own = (x.swapaxes(1, 2)[None] for x in (self.user_payoff, goal.reshape(B, T, A)))
        acting = jax.tree.map(lambda x: np.asarray(x)[None], self.user)
        spread, signs = np.array([self.spread]), np.array([sign])
        return BeliefProblems(self.target[None], self.mass[None], user, own, user, spread, signs, acting)

    def responses(self, beliefs: Float[np.ndarray, "N B"]):
        """mass [N, T], the user's total of each action [N, T, A], and the distribution over actions [N, T, A]."""
        B, T, A = self.own_payoff.shape
        mass = beliefs @ self.mass
        user_total = (beliefs @ self.user_payoff.reshape(B, T * A)).reshape(-1, T, A)
        own_total = user_total  # Not used unless ties go to the agent.
        if self.user.favours:
            own_total = (beliefs @ self.own_payoff.reshape(B, T * A)).reshape(-1, T, A)

        user_ahead, own_ahead = (
            functools.partial(_ahead, beliefs, payoff) for payoff in (self.user_payoff, self.own_payoff)
        )
        return mass, user_total, respond(self.user, user_total, mass, user_ahead, own_total, own_ahead)


def _ahead(beliefs: Float[np.ndarray, "N B"], payoff: Float[np.ndarray, "B T A"]) -> Float[np.ndarray, "N T A A"]:
    """The advantages of each action over each other one at each belief and type."""
    B, T, A = payoff.shape
    return (beliefs @ units.advantages(payoff).reshape(B, -1)).reshape(-1, T, A, A)


def pooled_problem(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], agent: int, user: AbstractUser
) -> BeliefProblem:
    """The problem of `agent` against the others' `schemes` in Pooled; with no others, the monopolist's problem."""
    XB, A = game.user.shape[1:]
    weights = np.ones((1, XB))
    for j, scheme in enumerate(schemes):
        if j != agent:
            weights = (weights[:, None, :] * scheme.T[None]).reshape(-1, XB)
    mass = weights[:, None, :] * game.mass  # [N, XA, XB]
    user_payoff = weights[:, None, :, None] * game.user
    own_payoff = weights[:, None, :, None] * game.agents[agent]
    return BeliefProblem(mass.reshape(-1, XB), user_payoff.reshape(-1, XB, A), own_payoff.reshape(-1, XB, A), user)


def monopoly_problem(game: ReducedGame, agent: int, user: AbstractUser) -> BeliefProblem:
    """The problem of `agent` alone with the user: a monopolist, or the picked agent in Selection."""
    return pooled_problem(game, np.empty((0, game.mass.shape[1], 1)), agent, user)


class Concavified(NamedTuple):
    """The optimum of one belief LP; `value` is the agent's payoff, `upper` bounds sign * payoff."""

    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]


def concavify(
    problem: BeliefProblem, beliefs: Float[np.ndarray, "N XB"], *, sign: float = 1.0, value_at_least: float = -np.inf,
    bracket: float | None = None, work: int = 0,
) -> Concavified:  # fmt: skip
    """The agent's best payoff (sign=-1: its worst) over all schemes, by the package's belief LPs."""
    lps = belief_lps(problem.alone(problem.goal(sign, 0.0), sign), beliefs[None, :, problem.possible])
    if np.isfinite(value_at_least):
        lps.restrict(value_at_least, np.inf)
    found = lps.best(np.zeros(1, int), None if bracket is None else np.array([bracket]), work)
    scheme = np.full((len(problem.prior), found.scheme.shape[2]), 1 / found.scheme.shape[2])
    scheme[problem.possible] = found.scheme[0]
    return Concavified(sign * float(found.value[0]), float(found.upper[0]), scheme)
