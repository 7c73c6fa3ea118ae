"""Small random games in float64, schemes to try in them, and the exact check of one game."""

import itertools

import jax.numpy as jnp
import numpy as np

import emalign_jax as em
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.internal import batching

FIELDS = "prior", "user_utility", "agent_utilities"


def random_game(seed, K=2, XA=1, XB=3, A=3, Y=None, matching=0.0, shared=0.0):
    """x_B tells of y. The user wants action y besides, by `matching`; agents have `shared` of the user's utility."""
    rng = np.random.default_rng(seed)
    Y = XB if Y is None else Y
    prior = rng.dirichlet(np.ones(XA * XB * Y)).reshape(XA, XB, Y) * (0.1 + np.eye(XB, Y))
    user, own = matching * np.eye(A, Y) + rng.normal(size=(A, Y)), rng.normal(size=(K, A, Y))
    return em.Game(prior / prior.sum(), user, shared * user + own)


def with_share(games, share):
    """The games in which `share` [...] of u is added to what agents want, a function of jax."""
    more = games.agent_utilities + share[..., None, None, None] * games.user_utility[..., None, :, :]
    return em.Game(*jnp.broadcast_arrays(games.prior), games.user_utility, more, check="shapes")


def batch_of(games):
    return em.Game(*(np.stack([getattr(game, name) for game in games]) for name in FIELDS))


def reduced(game):
    return em.reduce_game(game, np)


def check(game, protocol, user):
    """What the package has to examine profiles of this game."""
    return check_for(protocol, user)(reduced(game), protocol, user)


def checks(games, protocol, user, *, messages=None, lp="highs"):
    """What the package has to examine profiles of a batch of games, or of one game as a batch of one."""
    games = games if games.batch_shape else em.Game(*(np.asarray(getattr(games, name))[None] for name in FIELDS))
    M = messages or protocol.messages(games)
    sizes = {"messages": M, "rows": protocol.rows(games, M), "lp": lp, "count": len(games.prior)}
    modules = (batching.flatten(module, games.batch_shape) for module in (protocol, user))
    return make_checks(reduced(games), np.ones(len(games.prior), bool), *modules, **sizes)


def deterministic(XB, M):
    for messages in itertools.product(range(M), repeat=XB):
        yield np.eye(M)[list(messages)]


def padded(*schemes):
    """One profile of schemes with any numbers of messages."""
    M = max(scheme.shape[1] for scheme in schemes)
    return np.stack([np.pad(scheme, ((0, 0), (0, M - scheme.shape[1]))) for scheme in schemes])


def switched(schemes, agent, scheme):
    """The profile in which `agent` plays `scheme`, with as many messages as needed."""
    return padded(*schemes[:agent], scheme, *schemes[agent + 1 :])


def fields_of(game):
    """The arrays of a game, on the host."""
    return np.asarray(game.prior), np.asarray(game.user_utility), np.asarray(game.agent_utilities)
