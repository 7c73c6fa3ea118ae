"""The premises of the paper's results about conversations, measured at a given profile, and the bound that follows.

Proposition 4 (section 6.6 of docs/model.md). Let e_i be agent i's gain from switching to the rule of a perfectly
aligned agent alone (full revelation where M^R >= XB), eta_i the mean error of the expected utilities that the user
learns after that switch, L the user's precision, and |sum_i w_i U_i + c - u| <= eps. Then

    V >= V_full - W0((A-1)/e) / L - 2 eps - sum_i w_i (e_i + spread_i L eta_i / 2),

with V_full the value of knowing x_B to a rational user, and W0 Lambert's function (section 3.2 of docs/model.md).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.checks.base import AbstractCheck, Deviation, make_check
from emalign_jax.exact.checks.conversation_outcomes import action_distribution, conversation_outcome, scheme_to_rule
from emalign_jax.exact.guarantees.bounds import theorem_bound
from emalign_jax.games.game import Game, ReducedGame, faults, possible_utilities, reduce_game
from emalign_jax.internal.validation import on_host
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import believed_prior
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.result import Batched, Result
from emalign_jax.result.batched import stacked
from emalign_jax.users.base import AbstractUser

# In the user's unit of payoff. A value this close to V_full counts as V_full.
LEARNS_TOLERANCE = 1e-6


class Premises(Batched):
    """How nearly the premises of the theorem on conversations hold at a profile; float64, NaN where `result` is bad.

    Let r be the rule of an agent alone with the user whose utility is the user's.

    Attributes:
        aligned_value: [...] the user's value in a conversation with that agent alone under rule r.
        full_information: [...] V_full under the user's own response rule.
        learns: [...] whether the user learns the best action from rule r: aligned_value = V_full.
        total_variation: [...] over pairs of agents, the largest total variation distance between the distributions
            over actions (averaged over x_A, x_B) after one or the other switches to r.
        eta: [..., K] mean error of the expected utilities learnt after agent i's switch, in units of u.
        switch_gain: [..., K] e_i: agent i's gain from switching to r, in units of U_i.
        user: [...] V at the profile.
        bound: [...] a lower bound of V (proposition 4); a rational user's choice may jump, so there agent
            i's shortfall from its payoff under full revelation replaces e_i + spread_i L eta_i / 2.
        regret: [...] W0((A-1)/e) / L, part of the bound; 0 for a rational user.
        result: [...] CERTIFIED, MALFORMED or FAILED.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> found = em.premises(game, honest, em.Pooled(), em.RationalUser())
        >>> bool(found.learns), float(found.user), bool(found.bound <= found.user)
        (True, 1.0, True)

    Source: section 6.6 of docs/model.md.
    """

    aligned_value: Float[np.ndarray, "*batch"]
    full_information: Float[np.ndarray, "*batch"]
    learns: Bool[np.ndarray, "*batch"]
    total_variation: Float[np.ndarray, "*batch"]
    eta: Float[np.ndarray, "*batch K"]
    switch_gain: Float[np.ndarray, "*batch K"]
    user: Float[np.ndarray, "*batch"]
    bound: Float[np.ndarray, "*batch"]
    regret: Float[np.ndarray, "*batch"]
    result: Int[np.ndarray, "*batch"]

    _names: ClassVar[dict[str, str]] = {"user": "user_value"}

    def _headline(self) -> dict[str, Any]:
        return {"user": self.user, "bound": self.bound, "full information": self.full_information}


def premises(games: Game, schemes, protocol: AbstractProtocol, user: AbstractUser) -> Premises:
    """Measure how nearly the premises of the theorem on conversations hold at given profiles.

    A malformed game makes only its own row NaN.

    Args:
        games: [...] games.
        schemes: [..., K, rows, M], or a `Solution`; batch axes are broadcast.
        protocol: a `Conversation`, or `Pooled`.
        user: how the user acts.

    Returns:
        `Premises`.

    Raises:
        ValueError: for other protocols, wrong shapes and sizes, and for a given reply rule that does not fit a
            conversation with one agent.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> float(em.premises(game, honest, em.Pooled(), em.RationalUser()).total_variation)  # there is no other agent
        0.0

    Source: section 6.6 of docs/model.md.
    """
    games, schemes, protocol, user = on_host(games=games, schemes=schemes, protocol=protocol, user=user)
    conversation: Any = protocol.as_conversation
    if conversation is None:
        raise ValueError(f"protocol: expected Conversation or Pooled, got {type(protocol).__name__}")
    schemes = check_schemes(games, schemes, conversation)
    M = schemes.shape[-1]
    conversation.check(games, M)
    user.check(games, conversation, M)
    user.check(games.of_one_agent, conversation, M)
    batch = np.broadcast_shapes(games.batch_shape, schemes.shape[:-3])
    flat = flatten_games(games, batch)
    profiles = np.broadcast_to(schemes, (*batch, *schemes.shape[-3:])).reshape(-1, *schemes.shape[-3:])
    bad = np.broadcast_to(faults(games), batch).reshape(-1) != ""
    broken = ~np.isfinite(profiles).all((1, 2, 3))
    if believed_prior(flat, conversation, user, np) is not None:
        raise ValueError(
            f"user: the premises are of users who read beliefs as they are, got {type(user).__name__}: proposition 4 "
            "bounds what a user loses by its errors, not by misread beliefs"
        )
    reduced = reduce_game(flat, np)
    rows: list[Premises] = [_failed(games.agents, Result.MALFORMED) for _ in bad]
    sound = np.flatnonzero(~bad & ~broken)
    aligned = reduced._replace(agents=np.asarray(reduced.user)[:, None])
    tree = conversation.tree(1, M)
    enough = M**conversation.rounds >= games.agent_features
    revealing: Any = scheme_to_rule(tree, np.eye(games.agent_features)) if enough else None
    for at in range(0, len(sound), AbstractCheck.games_at_once):
        some = sound[at : at + AbstractCheck.games_at_once]
        alone = [make_check(aligned, k, conversation, user, M) for k in some]
        if not enough:
            type(alone[0]).prepare_monopolists(alone)
        for one, k in zip(alone, some, strict=True):
            check = make_check(reduced, k, conversation, user, M)
            found = Deviation(0.0, 0.0, revealing) if enough else one.monopolist(0)
            if found.status == "Optimal":
                rows[k] = _measure(flat[k], check, one.payoffs(found.scheme[None])[0], found.scheme, profiles[k])
            else:
                rows[k] = _failed(games.agents, Result.FAILED)
    return stacked(rows, batch, _failed(games.agents, Result.MALFORMED)).replace(labels=games.labels)


def _measure(game: Game, check, aligned_value, rule, profile) -> Premises:
    K, reduced = len(profile), check.game
    tree = check.protocol.tree(K, profile.shape[2])
    value, paid = check.payoffs(profile)
    full = check.informed(True)[0]
    distributions, eta, gains = [], np.zeros(K), np.zeros(K)
    for i in range(K):
        switched = profile.copy()
        switched[i] = rule
        outcome = conversation_outcome(reduced, switched, tree, check.user_with_common_ties, reduced.agents[0])
        distributions.append(outcome.distribution())
        eta[i] = _error(reduced, outcome)
        own = action_distribution(reduced, switched, tree, check.user, reduced.agents[i])
        gains[i] = max(float((own * reduced.agents[i]).sum()) - paid[i], 0.0)
    distance = max((_variation(reduced, a, b) for a in distributions for b in distributions), default=0.0)
    unit, zero, units = check.form[3:6]
    # Theorem 1 needs the payoffs of all agents under one distribution over actions.
    regret, short = 0.0, np.maximum(check.informed(True)[1] - check.common_response_payoffs(profile), 0)
    precision = check.user.acting.logit_precision
    if precision is not None:
        from scipy.special import lambertw  # Imported here because it takes a tenth of a second.

        regret = float(lambertw((reduced.user.shape[2] - 1) / np.e).real / precision)
        happens = reduced.mass > 0
        spread = (np.ptp(reduced.agents, axis=-1)[:, happens] / reduced.mass[happens]).max(-1, initial=0.0)
        short = gains + spread * float(precision) * eta / 2
    most = float(np.asarray(reduced.user).max(-1).sum())
    user_utility, agent_utilities = possible_utilities(game)
    agent_utilities = agent_utilities / np.reshape(units, (-1, 1, 1))
    bound = unit * theorem_bound(user_utility / unit, agent_utilities, most - regret, short).value + zero
    numbers = (
        unit * aligned_value + zero, unit * full + zero, aligned_value >= full - LEARNS_TOLERANCE * check.scale,
        distance, unit * eta, units * gains, unit * value + zero, bound, unit * regret, int(Result.CERTIFIED),
    )  # fmt: skip
    return Premises(*(np.asarray(x) for x in numbers))


def _error(game: ReducedGame, outcome) -> float:
    """E max_a |E[u(a) | x_A, transcript] - E[u(a) | x_A, x_B]|."""
    mass = np.asarray(game.mass)
    known = game.user / np.where(mass > 0, mass, 1)[..., None]  # [XA, XB, A]
    sent = mass @ outcome.message_probability.T  # [XA, T]
    total = np.tensordot(game.user, outcome.message_probability, (1, 1)).swapaxes(1, 2)  # [XA, T, A]
    learnt = total / np.where(sent > 0, sent, 1)[..., None]
    error = np.abs(learnt[:, :, None] - known[:, None]).max(-1)  # [XA, T, XB]
    probabilities = outcome.reply_probability, outcome.message_probability, mass
    return float(np.einsum("xt,tb,xb,xtb->", *probabilities, error, optimize=True))


def _variation(game: ReducedGame, one, other) -> float:
    """Total variation distance between two distributions over actions, averaged over x_A and x_B."""
    return float((np.abs(one - other).sum(-1) * game.mass).sum() / 2)


def _failed(K: int, result: Result) -> Premises:
    nan, many = np.nan, np.full(K, np.nan)
    return Premises(*(np.asarray(x) for x in (nan, nan, False, nan, many, many, nan, nan, nan, int(result))))
