"""Small games hard for the exact methods: ties, features of probability 0, agents who are copies or opposites.

`HARD[name]` is one `Game` of float64 arrays. Numbers come from NumPy's generator with fixed seeds.
"""

import numpy as np

import emalign_jax as em


def _prior(rng, XA, XB, Y):
    """x_B tells of y, but not all."""
    prior = rng.dirichlet(np.ones(XA * XB * Y)).reshape(XA, XB, Y) * (0.1 + np.eye(XB, Y))
    return prior / prior.sum()


def _game(seed=0, K=3, XA=1, XB=3, Y=3, A=3):
    rng = np.random.default_rng(seed)
    return _prior(rng, XA, XB, Y), rng.normal(size=(A, Y)), rng.normal(size=(K, A, Y))


def _bits(seed, K=3, XA=1, XB=3, A=3):
    """Utilities 0 or 1 and a uniform prior over (x_A, x_B), with x_B = y: ties everywhere."""
    rng = np.random.default_rng(seed)
    prior = np.repeat(np.eye(XB)[None], XA, 0) / (XA * XB)
    return prior, rng.integers(0, 2, (A, XB)).astype(float), rng.integers(0, 2, (K, A, XB)).astype(float)


def _never(seed, user: bool):
    """One x_B (or x_A) has probability 0."""
    prior, u, U = _game(seed, XA=2)
    if user:
        prior[1] = 0
    else:
        prior[:, 1] = 0
    return prior / prior.sum(), u, U


def _cases():
    prior, u, U = _game(1)
    yield from ((f"ties everywhere {seed}", _bits(seed)) for seed in range(4))
    yield from ((f"ties everywhere, XA = 2, {seed}", _bits(seed, XA=2, A=2)) for seed in range(2))
    yield "all actions equal for the user", (prior, np.zeros((3, 3)), U)
    yield "two actions that differ in nothing", (prior, u[[0, 1, 1]], U[:, [0, 1, 1]])
    yield "zero-probability x_B", _never(2, user=False)
    yield "zero-probability x_A", _never(2, user=True)
    yield "zero-probability outcome", (np.diag([0.6, 0.4, 0.0])[None], u, U)
    yield "one x_B has all the mass", (np.eye(3)[None, :1].repeat(3, 1) * np.eye(3)[:, :1], u, U)
    yield "duplicated agents", (prior, u, U[[0, 0, 1, 1]])
    yield "three copies of one agent", (prior, u, U[[0, 0, 0]])
    yield "agent = user", (prior, u, np.stack([U[0], u, U[1]]))
    yield "agent = -user", (prior, u, np.stack([U[0], -u]))
    yield "all agents = -user", (prior, u, np.stack([-u, -u]))
    yield "an aligned agent and an opposite one", (prior, u, np.stack([u, -u]))
    yield "agent = -user, alone", (prior, u, -u[None])
    yield "agent without a stake", (prior, u, np.stack([U[0], np.zeros((3, 3)), np.ones((3, 1)) * [1.0, -2.0, 5.0]]))
    yield "no agent has a stake", (prior, u, np.zeros((2, 3, 3)))
    yield "worthless information", (prior, u + np.array([[0.0], [20.0], [0.0]]), U)
    yield "worthless: x_B is noise", (np.full((1, 3, 3), 1 / 9), u, U)
    yield "tied when informed", (np.eye(2)[None] / 2, [[0, 0], [0, 1]], [[[1, 0], [0, 0]], [[0, 0], [1, 0]]])
    yield "tied when informed, 3 actions", (np.diag([0.3, 0.7])[None], [[1, 0], [1, 0], [0, 1]], _rows(3, 2, 3, 2))
    yield "XA = 2", _game(3, XA=2)
    yield "XA = 2, K = 1", _game(4, XA=2, K=1)
    yield "K = 1", _game(5, K=1)
    yield "K = 1 with ties", _bits(5, K=1)
    yield "single action", _game(6, A=1)
    yield "single x_B", _game(7, XB=1)
    yield "single x_B and action", _game(8, XB=1, A=1)
    yield "single outcome", _game(9, Y=1)
    yield "scales far apart", (prior, 1e3 * u, np.array([1e-4, 1.0, 1e4])[:, None, None] * U)
    yield "nearly opposed", (prior, u, np.stack([u + 1e-3 * U[0], -u + 1e-3 * U[1]]))
    for name in ("two_prosecutors", "prosecutor_against_defender", "biased_advisers", "pharma_market"):
        game = getattr(em.catalog, name)()
        yield name, (game.prior, game.user_utility, game.agent_utilities)


def _rows(seed, *shape):
    return np.random.default_rng(seed).integers(0, 3, shape).astype(float)


HARD = {name: em.Game(*(np.asarray(part, np.float64) for part in parts)) for name, parts in _cases()}
