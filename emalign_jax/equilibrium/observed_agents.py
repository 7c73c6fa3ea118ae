"""Certificates of agents whose messages were counted: how far from best they are, and what the user loses by it."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsIndex

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import solve
from emalign_jax.exact.certificates.certificate import BRACKET, Certificate, certify, flatten_games
from emalign_jax.exact.checks.base import default_tolerance
from emalign_jax.exact.checks.examination import relative
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.games.game import Game, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import POSITIVE, integer, number
from emalign_jax.internal.validation import on_host
from emalign_jax.play import GradientPlay
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.observed_schemes import ObservedSchemes, schemes_from_counts
from emalign_jax.protocols.schemes import check_shape
from emalign_jax.result import Batched
from emalign_jax.users.base import AbstractUser


class ObservedCertificate(Batched):
    """What counts of messages prove of the agents who sent them.

    Intervals [2, ...] hold the lower and the upper limit, quantiles over draws of the posterior; they are NaN where a
    draw has no certificate.

    Attributes:
        observed: the posterior of the schemes, `ObservedSchemes`.
        mean: the `Certificate` of its mean. The value of agent i's best response to the others' mean schemes lies
            between mean.agents + mean.gain_lower and mean.agents + mean.gain_upper.
        draws: [n, ...] the certificates of the draws.
        user: [2, ...] of the user's value.
        agents: [2, ..., K] of the agents' payoffs.
        gain: [2, ..., K] of the deviation gains, from lower bounds to upper bounds, in units of utility.
        relative_gain: [2, ..., K] the same as shares of the payoff range.
        user_after: [..., K] the user's value if agent i alone turns to its best response; NaN where that was not found.
        equilibrium: what the search for an equilibrium finds from the mean, a `Solution`; its `result` says what is
            proved.

    Example:
        >>> counts = [[[90, 10], [5, 95]]]
        >>> observed = em.certify_counts(em.catalog.judge(), counts, em.Selection(), em.RationalUser(), draws=20)
        >>> round(float(observed.user_after[0]), 3)  # the best response to a judge is worth no more than silence
        0.7

    Source: docs/guides/observed_agents.md.
    """

    observed: ObservedSchemes
    mean: Certificate
    draws: Certificate = eqx.field(metadata={"leading": 1})
    user: Float[np.ndarray, "2 *batch"]
    agents: Float[np.ndarray, "2 *batch K"]
    gain: Float[np.ndarray, "2 *batch K"]
    relative_gain: Float[np.ndarray, "2 *batch K"]
    user_after: Float[np.ndarray, "*batch K"]
    equilibrium: Solution

    _code: ClassVar[str | None] = None

    def _headline(self) -> dict[str, Any]:
        return {"user": self.mean.user, "largest relative gain": np.nanmax(self.mean.relative_gain, initial=0)}

    @property
    def ok(self) -> Any:
        """[...] whether no deviation from the mean schemes is known to gain more than the tolerance."""
        return self.mean.ok

    @property
    def result_names(self) -> Any:
        """[...] the names of the codes of the certificate of the mean."""
        return self.mean.result_names

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        """The columns of `emalign certify --counts`; in long form limits of the user's values have no list of two."""
        own, mean = self.observed, self.mean
        limits = {"user_interval": self.user, "loss_interval": (mean.full_information - self.user)[::-1]}
        ends = {f"{name[:-8]}{end}": x[n] for name, x in limits.items() for n, end in enumerate(("low", "high"))}
        both = {name: np.moveaxis(x, 0, -1) for name, x in limits.items()}
        certified = mean._columns(long)
        same = ("user_value", "no_information", "full_information", "guarantee", "agent_payoffs", "result", "message")
        return {name: certified[name] for name in same} | (ends if long else both) | {
            "agents": np.asarray(mean.agents.shape[-1]),
            "loss": mean.full_information - mean.user,
            "equilibrium": self.equilibrium.user,
            "equilibrium_result": self.equilibrium.result_names,
            "calls": own.counts.sum((-2, -1)),
            "unseen_states": own.unseen.sum(-1).astype(float),
            "best_response": mean.agents + mean.gain_lower,
            "best_response_upper": mean.agents + mean.gain_upper,
            "gain_low": self.gain[0],
            "gain_high": self.gain[1],
            "relative_gain": mean.relative_gain,
            "relative_gain_low": self.relative_gain[0],
            "relative_gain_high": self.relative_gain[1],
            "user_after": self.user_after,
        }  # fmt: skip


def certify_counts(
    games: Game,
    counts,
    protocol: AbstractProtocol,
    user: AbstractUser,
    *,
    prior: float = 1.0,
    level: float = 0.95,
    draws: int = 200,
    key: jax.Array | SupportsIndex = 0,
    tolerance: float | None = None,
    lp: str = "auto",
    progress=None,
) -> ObservedCertificate:
    """Certify agents whose messages were counted.

    Their deviation gains and what they cost the user come with credible intervals. Gains are never negative, so that
    few counts make gains look large: an interval says what is plausible after these counts, not that an agent errs. Its
    lower limit falls as counts grow where the agent is at its best response.

    Args:
        games: [...] games.
        counts: [..., K, XB, M] how often each agent sent each message by what it knew; batch axes are broadcast.
        protocol: how the user talks to the agents.
        user: how the user acts.
        prior, level: as in `schemes_from_counts`.
        draws: profiles drawn from the posterior, all certified at once.
        key: of the draws, a jax key or an integer seed.
        tolerance, lp, progress: as in `certify`.

    Returns:
        `ObservedCertificate`.

    Raises:
        ValueError: as `schemes_from_counts` and `certify`.

    Example:
        >>> counts = [[[90, 10], [5, 95]]]
        >>> em.certify_counts(em.catalog.judge(), counts, em.Selection(), em.RationalUser(), draws=20).gain.shape
        (2, 1)

    Source: docs/guides/observed_agents.md.
    """
    games, protocol, user, key, progress = on_host(
        games=games, protocol=protocol, user=user, key=key, progress=progress
    )
    observed, draws = schemes_from_counts(counts, prior=prior, level=level), integer("draws", draws, 2)
    tolerance = number("tolerance", default_tolerance(protocol, user) if tolerance is None else tolerance, *POSITIVE)
    check_shape(games, observed.schemes.shape, protocol, "counts")
    try:
        batch = np.broadcast_shapes(games.batch_shape, observed.schemes.shape[:-3])
    except ValueError:
        own = list(observed.schemes.shape[:-3])
        raise ValueError(f"counts: batch axes {own} do not fit those of the games, {list(games.batch_shape)}") from None
    games = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), flatten_games(games, batch))
    setting = {"tolerance": tolerance, "lp": lp}
    mean = certify(games, observed.schemes, protocol, user, **setting)
    drawn = observed.sample(key, draws)
    drawn = drawn.reshape(draws, *(1,) * (len(batch) + 4 - drawn.ndim), *drawn.shape[1:])  # one draw for all games
    drawn = certify(games, drawn, protocol, user, progress=progress, **setting)
    low, high, ranges = drawn.gain_lower, drawn.gain_upper, drawn.payoff_range
    shares = _interval(relative(low, ranges), relative(high, ranges), level)
    start = _with_messages(observed.schemes, games, protocol)
    start = np.broadcast_to(start, (*batch, *start.shape[-3:]))
    observed = observed.broadcast_to(batch)
    return ObservedCertificate(
        observed, mean, drawn, _interval(drawn.user, drawn.user, level), _interval(drawn.agents, drawn.agents, level),
        _interval(low, high, level), shares, _after(games, start, protocol, user, tolerance, lp),
        solve(games, protocol, user, GradientPlay(tolerance=tolerance), key=key, start=start, lp=lp),
        labels=games.labels,
    )  # fmt: skip


def _interval(low: Float[np.ndarray, "n *shape"], high: Float[np.ndarray, "n *shape"], level: float) -> np.ndarray:
    """[2, ...] quantiles over draws, outwards to a draw, as upper bounds may be infinite; NaN if any draw is NaN."""
    last, missing = len(low) - 1, np.isnan(low).any(0) | np.isnan(high).any(0)
    least = np.sort(low, 0)[int(np.floor((1 - level) / 2 * last))]
    most = np.sort(high, 0)[int(np.ceil((1 + level) / 2 * last))]
    return np.where(missing, np.nan, np.stack([least, most]))


def _with_messages(schemes: np.ndarray, games: Game, protocol: AbstractProtocol) -> np.ndarray:
    """`schemes` with as many messages, never sent, as best responses may need; in a conversation messages are given."""
    more = 0 if protocol.conversation is not None else max(0, protocol.messages(games) - schemes.shape[-1])
    return np.pad(schemes, [(0, 0)] * (schemes.ndim - 1) + [(0, more)])


def _after(games: Game, schemes, protocol, user, tolerance: float, lp: str) -> Float[np.ndarray, "*batch K"]:
    """The user's value after the best response of each agent alone."""
    batch, K = schemes.shape[:-3], schemes.shape[-3]
    flat, profiles = flatten_games(games, batch), schemes.reshape(-1, *schemes.shape[-3:])
    modules = [batching.flatten(module, batch) for module in (protocol, user)]
    sound = (faults(flat) == "").reshape(-1)
    found, sizes = np.full((len(profiles), K), np.nan), {"messages": profiles.shape[-1], "rows": profiles.shape[-2]}
    checks = make_checks(reduce_game(flat, np), sound, *modules, lp=lp, count=len(profiles), **sizes)
    asked = np.flatnonzero(sound)
    for first in range(0, len(asked), checks.at_once):
        at = asked[first : first + checks.at_once]
        examined, form = checks.examine(at, profiles[at], BRACKET * tolerance), checks.form_of(at)
        for i in range(K):
            each = np.full(len(at), i)
            moved, solved = profiles[at], np.isfinite(examined.worst)
            moved[solved, i] = checks.best_responses(at[solved], moved[solved], examined.rows(solved), each[solved])
            fits = np.isfinite(moved).all((1, 2, 3)) & solved
            now = checks.after_move(at[fits], moved[fits], examined.rows(fits), each[fits])
            found[at[fits], i] = form.user_unit[fits] * now.user + form.user_zero[fits]
        checks.release(at)
    return found.reshape(*batch, K)
