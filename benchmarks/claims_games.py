"""Games made to be hard: stakes far apart, indifferent players, whole numbers. Batches by a NumPy generator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import emalign_jax as em

LEAST, MOST = -7.0, -3.0  # powers of ten between which small stakes are drawn, as shares of the largest


class Size(NamedTuple):
    agents: int = 2
    user_features: int = 1
    agent_features: int = 3
    actions: int = 3
    outcomes: int = 3


def plain(rng, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One game without stakes of its own: x_B tells of y, but not all."""
    K, XA, XB, A, Y = size
    prior = rng.dirichlet(np.ones(XA * XB * Y)).reshape(XA, XB, Y) * (0.1 + np.eye(XB, Y))
    shared = rng.choice([0.0, 0.5, 2.0])
    user = rng.normal(size=(A, Y))
    return prior / prior.sum(), user, shared * user + rng.normal(size=(K, A, Y))


def stack(parts) -> em.Game:
    return em.Game(*(np.array(x) for x in zip(*parts, strict=True)))


def small_state(rng, prior, utility, t):
    """Next to nothing is at stake in one outcome."""
    utility[..., rng.integers(prior.shape[-1])] *= t


def close_pair(rng, prior, utility, t):
    """Two actions are nearly the same."""
    a, c = rng.permutation(utility.shape[-2])[:2]
    utility[..., a, :] = utility[..., c, :] + t * rng.normal(size=utility[..., c, :].shape)


def rare_state(rng, prior, utility, t):
    """One outcome next to never happens."""
    prior[..., rng.integers(prior.shape[-1])] *= t


def disaster(rng, prior, utility, t):
    """One action is a disaster in one outcome."""
    utility[..., rng.integers(utility.shape[-2]), rng.integers(prior.shape[-1])] -= 1 / t


def rare_disaster(rng, prior, utility, t):
    """The same, in an outcome as rare as it is bad."""
    y = rng.integers(prior.shape[-1])
    utility[..., rng.integers(utility.shape[-2]), y] -= 1 / t
    prior[..., y] *= t


NEAR = [small_state, close_pair, rare_state, disaster, rare_disaster]


def near_ties(rng, count: int, size: Size) -> em.Game:
    """Games in which the stakes of some outcome or pair of actions are 1e-7 to 1e-3 of the largest, for the user, the
    agents or all of them."""
    parts = []
    for n in range(count):
        prior, user, agents = plain(rng, size)
        t = 10 ** rng.uniform(LEAST, MOST)
        make = NEAR[n % len(NEAR)]
        who = (n // len(NEAR)) % 3
        if who != 1:
            make(rng, prior, user, t)
        if who != 0:
            for own in agents:
                make(rng, prior, own, t)
        parts.append((prior / prior.sum(), user, agents))
    return stack(parts)


def constant(rng, prior, A):
    """The same for all actions, whatever it is."""
    return np.repeat(rng.normal(size=(1, prior.shape[-1])), A, 0)


def in_expectation(rng, prior, A):
    """Actions differ in every outcome, and in expectation, whatever x_A and x_B are, by rounding alone."""
    cells = prior.reshape(-1, prior.shape[-1])
    nothing = np.linalg.svd(cells)[2][-1]
    assert abs(cells @ nothing).max() < 1e-15, "the prior has no such direction"
    return np.outer(rng.normal(size=A), nothing) + rng.normal(size=prior.shape[-1])


def in_a_cell(rng, prior, A):
    """Indifferent in the outcome that one x_B stands for, but not elsewhere."""
    utility = rng.normal(size=(A, prior.shape[-1]))
    utility[:, 0] = utility[0, 0]
    return utility


def in_tenths(rng, prior, A):
    """.1 + .2 - .3 of something."""
    return np.outer(rng.integers(-3, 4, A).astype(float), [1, 1, -1, 0]) + rng.integers(-3, 4, 4)


def indifferent(rng, count: int, size: Size) -> em.Game:
    """Games in which the user, one agent or all are indifferent: always, in expectation, or in some cells."""
    parts = []
    kinds = [constant, in_expectation, in_a_cell, in_tenths]
    for n in range(count):
        make, who = kinds[n % 4], (n // 4) % 4
        K, XA, XB, A, _ = size = size._replace(outcomes=4)
        prior, user, agents = plain(rng, size)
        if make is in_expectation:  # what x_A tells of y it tells by x_B: then few directions are known
            of_pair = rng.dirichlet(np.ones(XA * XB)).reshape(XA, XB)
            prior = of_pair[..., None] * rng.dirichlet(np.ones(4), XB)
        if make is in_a_cell:
            prior[:, 0, 1:] = 0  # x_B = 0 reveals y = 0
            prior[:, 1:, 0] = 0
        if make is in_tenths:  # x_B tells whether y is 3
            prior = np.array([[0.1, 0.2, 0.3, 0.0], *[[0.0, 0.0, 0.0, 0.4]] * (XB - 1)])
            prior[1:] /= XB - 1
            prior = prior * rng.dirichlet(np.ones(XA))[:, None, None]
        prior /= prior.sum()
        if who in (0, 3):
            user = make(rng, prior, A)
        for k in range(K):
            if who in (2, 3) or (who == 1 and k == 0):
                agents[k] = make(rng, prior, A)
        parts.append((prior, user, agents))
    return stack(parts)


def whole(rng, count: int, size: Size) -> em.Game:
    """Small whole numbers, priors with small denominators: ties everywhere, copies of actions among them."""
    K, XA, XB, A, Y = size
    parts = []
    for n in range(count):
        weights = rng.integers(0, 4, (XA, XB, Y))
        weights[0, 0, 0] += 1
        user, agents = rng.integers(-2, 3, (A, Y)), rng.integers(-2, 3, (K, A, Y))
        if n % 3 == 1:
            user[-1] = user[0]
        if n % 3 == 2:
            agents[:, -1] = agents[:, 0]
        parts.append((weights / weights.sum(), user.astype(float), agents.astype(float)))
    return stack(parts)


def with_impossible(rng, games: em.Game) -> tuple[em.Game, em.Game]:
    """The games with one more outcome, which cannot happen: utilities 0 there, and 1e6 to 1e99 either way."""
    prior, user, agents = (np.asarray(x, np.float64) for x in (games.prior, games.user_utility, games.agent_utilities))
    at = rng.integers(user.shape[-1] + 1)
    prior, user, agents = (np.insert(x, at, 0.0, -1) for x in (prior, user, agents))
    huge_user, huge_agents = user.copy(), agents.copy()
    for utility in (huge_user, huge_agents):
        shape = utility[..., at].shape
        utility[..., at] = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(6, 99, shape)
    return em.Game(prior, user, agents), em.Game(prior, huge_user, huge_agents)
