"""Payoffs as functions of the belief, their concave envelope, and what an agent alone would tell: for figures."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification.by_user import belief_lps, concavify
from emalign_jax.exact.concavification.lattice import simplex_grid
from emalign_jax.exact.concavification.problems import monopoly_problem
from emalign_jax.exact.responses import by_agent
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser

NUDGE = 1e-6  # from where responses change to either side
STEEPEST = 1e-3  # of the upward part of a face's normal: steeper ones stand on the boundary of the simplex


class BeliefValues(NamedTuple):
    """At N beliefs over x_B.

    belief:   [N, XB]
    own:      [N] the expected payoff of the agent, in whose favour ties are broken
    user:     [N] the user's value
    response: [XA, N, A] the distribution over actions
    """

    belief: Float[np.ndarray, "N XB"]
    own: Float[np.ndarray, "N"]
    user: Float[np.ndarray, "N"]
    response: Float[np.ndarray, "XA N A"]


class Split(NamedTuple):
    """Beliefs [S, XB], their probabilities [S], by which their mean is the prior, and the numbers [S] of messages."""

    belief: Float[np.ndarray, "S XB"]
    chance: Float[np.ndarray, "S"]
    number: Int[np.ndarray, "S"]


def belief_values(game: ReducedGame, user: AbstractUser, agent: int, belief: Float[np.ndarray, "N XB"]) -> BeliefValues:
    """The user, who knows its x_A, responds to each belief over x_B. Every x_B must be possible.

    game, user: as the user perceives the game (`reduce_for`), and the user that acts on it
    """
    sent = belief / game.mass.sum(0)

    def weigh(payoff):
        return np.einsum("nb,xbk->xnk", sent, payoff)

    response = by_agent(user, game, lambda x: np.einsum("nb,...xbk->...xnk", sent, x))[agent]
    own, value = ((response * weigh(payoff)).sum((0, 2)) for payoff in (game.agents[agent], game.welfare))
    return BeliefValues(belief, own, value, response)


def beliefs_of_interest(game: ReducedGame, user: AbstractUser, agent: int, about: int) -> Float[np.ndarray, "N XB"]:
    """A lattice of about so many beliefs, and those at which the user's response changes, with one on either side."""
    prior = np.asarray(game.mass).sum(0)[None]
    changes = belief_lps(monopoly_problem(game, agent, user), prior[None]).list_corners()[0]
    towards = np.eye(prior.shape[1])[:, None] * NUDGE + changes * (1 - NUDGE)
    points = np.concatenate([simplex_grid(prior.shape[1], about), changes, *towards, prior])
    return np.unique(np.round(points, 12), axis=0)


class Faces(NamedTuple):
    """The concave envelope of values at beliefs: the numbers [F, XB] of the beliefs at the corners of its faces, and
    their normals [F, XB], where values go from 0 to 1."""

    corners: Int[np.ndarray, "F XB"]
    normal: Float[np.ndarray, "F XB"]


def upper_faces(belief: Float[np.ndarray, "N XB"], value: Float[np.ndarray, "N"]) -> Faces:
    """The faces of the concave envelope."""
    from scipy.spatial import ConvexHull

    size = max(float(np.ptp(value)), 1e-12)
    points = np.column_stack([belief[:, :-1], (value - value.min()) / size])
    below = np.append(np.full(belief.shape[1] - 1, 1 / belief.shape[1]), -1.0)  # a hull needs a volume
    hull = ConvexHull(np.vstack([points, below]))
    upper = hull.equations[:, -2] > STEEPEST
    return Faces(hull.simplices[upper].astype(int), hull.equations[upper, :-1])


def best_split(game: ReducedGame, user: AbstractUser, agent: int) -> Split:
    """What the agent would tell if it were alone, by the belief LP (section 5.3 of docs/model.md)."""
    prior = np.asarray(game.mass).sum(0)
    best = concavify(monopoly_problem(game, agent, user), prior[None])
    return split(prior, best.scheme[0])


def split(prior: Float[np.ndarray, "XB"], scheme: Float[np.ndarray, "XB M"]) -> Split:
    """The beliefs that messages which are sent leave."""
    joint = (scheme * prior[:, None]).T
    chance = joint.sum(1)
    sent = chance > 1e-12
    return Split(joint[sent] / chance[sent, None], chance[sent], np.flatnonzero(sent))
