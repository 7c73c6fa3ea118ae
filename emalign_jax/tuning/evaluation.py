"""The evaluation of a mechanism: certified equilibria under it, and the user's value in them."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.equilibrium.solver import solve
from emalign_jax.exact import certify
from emalign_jax.exact.certificates import certificate as exact
from emalign_jax.games.game import Game
from emalign_jax.internal import batching
from emalign_jax.internal.validation import as_key, on_host
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.play import SmoothPlay
from emalign_jax.play.differentiable import check, starts_of
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.result import Batched, Result
from emalign_jax.tuning.blocks import equilibria
from emalign_jax.tuning.problem import on_device
from emalign_jax.users.base import AbstractUser


class Evaluation(Batched):
    """What a mechanism is worth in each game.

    Attributes:
        user: [N] the user's value in the equilibrium that was found; NaN where none was.
        cost: [N] the cost of the mechanism.
        gain: [N] upper bound of the largest deviation gain, as a share of the payoff range.
        certificate: the `Certificate`; with a channel, of the messages that arrive.
    """

    user: Float[np.ndarray, "*batch"]
    cost: Float[np.ndarray, "*batch"]
    gain: Float[np.ndarray, "*batch"]
    certificate: exact.Certificate

    _code: ClassVar[str | None] = None

    def _headline(self) -> dict[str, Any]:
        return {"user": self.user, "cost": self.cost, "gain": self.gain}

    @property
    def ok(self) -> Any:
        """[N] whether no deviation is known to gain more than the tolerance."""
        return self.certificate.ok

    @property
    def result_names(self) -> Any:
        """[N] the names of the codes of the certificate."""
        return self.certificate.result_names


def evaluate(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    mechanism: AbstractMechanism | None,
    params: Any,
    solver: SmoothPlay,
    *,
    key: jax.Array | SupportsIndex,
    smooth: bool = False,
    start=None,
    progress=None,
) -> Evaluation:
    """Certified equilibria of games under a mechanism with given parameters.

    Args:
        games: [N] games.
        protocol: how the user talks to the agents.
        user: how the user acts.
        mechanism: None for the games as they are.
        params: the mechanism's parameters, such as `Tuned.params`.
        solver: finds the smoothed equilibria.
        key: a jax key or an integer seed, from which the starts are drawn.
        smooth: whether to certify the smoothed equilibrium itself; otherwise `solve` goes on from it to an equilibrium
            of agents that are not smoothed (not with a channel, where the smoothed equilibrium is kept).
        start: [N, K, XB, M] schemes to start from; random by default.
        progress: as in `solve`.

    Returns:
        Fields user [N], the user's value in the equilibrium that was found; cost [N] of the mechanism; gain [N], an
        upper bound of the largest deviation gain as a share of the payoff range; and certificate, a `Certificate`.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> setting = em.catalog.two_users(), em.Pooled(), em.QuantalUser(5.0)
        >>> em.evaluate(*setting, None, None, em.SmoothPlay(10.0), key=0).user.shape
        (2,)

    Source: section 6.8 of docs/model.md.
    """
    games, protocol, user, mechanism, params, solver = on_host(
        games=games, protocol=protocol, user=user, mechanism=mechanism, params=params, solver=solver
    )
    key, smooth, progress, start = on_host(key=as_key(key), smooth=smooth, progress=progress, start=start)
    start = None if start is None else check_schemes(games, start, field="start")
    if mechanism is not None:
        mechanism.check_params(params)
    if len(games.batch_shape) != 1 or not games.batch_shape[0]:
        raise ValueError(f"games: expected one batch axis, of at least one game, got {list(games.batch_shape)}")
    cost = np.zeros(games.batch_shape)
    under = games, protocol, user
    if mechanism is not None:
        # In a session with x64, games given in float64 are certified as they are given.
        here = on_device(games) if jnp.result_type(float) == jnp.float64 else games
        with np.errstate(over="ignore"):
            cost = np.broadcast_to(np.asarray(mechanism.cost(params, here), np.float64), games.batch_shape)
            under = mechanism.apply(params, here, protocol, user)
    schemes = _smooth(*under, solver, key, start)
    through = mechanism is not None and mechanism.has_channel
    if smooth or through:
        if through and mechanism is not None:
            schemes, under = np.asarray(mechanism.arrives(params, schemes), np.float64), (under[0], protocol, under[2])
        certificate = certify(_in_float64(under[0]), schemes, under[1], under[2])
    else:
        whole = np.where(np.isfinite(schemes), schemes, 1 / schemes.shape[-1])
        solution = solve(_in_float64(under[0]), under[1], under[2], start=whole, progress=progress)
        certificate = solution.certificate
        assert certificate is not None
    ranges = certificate.payoff_range
    gain = np.where(ranges > 0, certificate.gain_upper / np.where(ranges > 0, ranges, 1), 0).max(-1)
    bad = certificate.result >= Result.MALFORMED
    return Evaluation(np.where(bad, np.nan, certificate.user), cost, np.where(bad, np.nan, gain), certificate)


def _smooth(games: Game, protocol, user, solver: SmoothPlay, key, start) -> Float[np.ndarray, "N K rows M"]:
    """Schemes of smoothed equilibria, in float64."""
    check(protocol, user, solver)
    if start is None:
        start = starts_of(games, protocol, key, 1, protocol.messages(games))
    batch, start = games.batch_shape, np.asarray(start)
    with np.errstate(over="ignore"):  # no warning: numbers too large for float32 become infinite
        setting = games, *(batching.flatten(module, batch, jnp) for module in (protocol, user, solver))
        setting = jax.tree.map(jnp.asarray, setting)
    schemes, _, _ = equilibria(len(start), lambda n: (*jax.tree.map(lambda x: x[n], setting), start[n]))
    return np.asarray(schemes, np.float64)


def _in_float64(games: Game) -> Game:
    """`games` as NumPy arrays in float64, with priors that sum to 1."""
    prior, user, agents = (np.asarray(x, np.float64) for x in (games.prior, games.user_utility, games.agent_utilities))
    return Game(prior / prior.sum((-3, -2, -1), keepdims=True), user, agents, check="shapes", labels=games.labels)
