"""The sharp guarantee of a game and its dual, the coverage certificate (sections 6.2 and 6.3 of docs/model.md).

Both hold for every profile in which agent i gains at most e_i from switching to full revelation; with e = 0, for every
equilibrium. By duality the user's value is at least full_information - slack - sum_i weights_i e_i.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.guarantees.bounds import WorstDistribution, worst_distribution, worst_distributions
from emalign_jax.exact.responses import by_agent, is_known
from emalign_jax.games.game import Game, ReducedGame, faults
from emalign_jax.internal import batching
from emalign_jax.internal.validation import checked, on_host
from emalign_jax.lp.choice import check_word
from emalign_jax.protocols import AbstractProtocol, Selection
from emalign_jax.protocols.base import declares_revelation, reduce_for
from emalign_jax.protocols.standard_units import StandardForm, standard_form
from emalign_jax.result import Batched, Result
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser


class Coverage(Batched):
    """How well the agents' interests cover the user's; float64, NaN where `result` says that a game failed.

    If no distribution over actions pays every agent what full revelation pays it (possible where ties of the informed
    user go to each agent), V_full is certain: slack is 0, weights and commands are NaN.

    Attributes:
        slack: [...] >= 0, in units of u; user value >= full_information - slack - sum_i weights_i e_i.
        weights: [..., K] multipliers w >= 0.
        by_cell: [..., XA, XB] the slack of each cell; its sum is `slack`. With g, G_i of section 1.1 of docs/model.md
            and a* the action of the informed user, for every cell and action a,
            `g(a*) - g(a) <= sum_i weights_i (G_i(a*) - G_i(a)) + by_cell - sum_c commands[a, c] (g(a) - g(c))`.
        commands: [..., XA, A, A] multipliers >= 0 of the user's obedience, of playing a rather than c; 0 unless asked
            for.
        full_information: [...] V_full.
        result: [...] a `Result`: CERTIFIED, MALFORMED or FAILED.
        fallback: [...] whether HiGHS solved the LP because the batched solver's answer was not proved.

    Example:
        >>> found = em.coverage(em.catalog.biased_advisers())
        >>> float(found.slack), float(found.full_information)
        (0.0, 1.0)

    Source: section 6.3 of docs/model.md.
    """

    slack: Float[np.ndarray, "*batch"]
    weights: Float[np.ndarray, "*batch K"]
    by_cell: Float[np.ndarray, "*batch XA XB"]
    commands: Float[np.ndarray, "*batch XA A A"]
    full_information: Float[np.ndarray, "*batch"]
    result: Int[np.ndarray, "*batch"]
    fallback: Bool[np.ndarray, "*batch"]

    _names: ClassVar[dict[str, str]] = {"slack": "coverage_slack"}

    def _headline(self) -> dict[str, Any]:
        return {"slack": self.slack, "full information": self.full_information}


class _Bound(NamedTuple):
    form: StandardForm
    full: float
    least: float  # the least of the user's values with full information, if ties go to one agent or another
    informed: Float[np.ndarray, "K XA XB A"]  # the informed user's actions, with ties in favour of each agent
    worst: WorstDistribution


def worst_case(
    games: Game,
    gains=0.0,
    user: AbstractUser | None = None,
    protocol: AbstractProtocol | None = None,
    *,
    exact: bool = False,
    lp: str = "auto",
):
    """The least user value in any equilibrium, as far as payoffs under full revelation bound it.

    It is the least over all distributions over actions that pay every agent at least its payoff under full revelation
    less `gains`; no equilibrium is worth less if `gains` is 0.

    Args:
        games: [...] games.
        gains: the most that each agent gains from switching to full revelation, in units of its utility; a number or
            [..., K].
        user: RationalUser() by default. Obedience constraints are imposed for a rational user only.
        protocol: Selection() by default. In the protocol an agent that reveals x_B must be heard
            (`full_revelation_is_heard`).
        exact: derive the LP in rational arithmetic (small games).
        lp: "batched" (the LPs of all games together; HiGHS solves those that are too large or whose answers are not
            proved by their multipliers), "highs" (one by one) or "auto" (batched for many small games).

    Returns:
        [...] in units of u; NaN for a malformed game and where HiGHS does not solve the LP (`coverage` says which).

    Raises:
        ValueError: for a protocol in which revealing may not be heard (Selection with a temperature, Comparison of
            fewer than all agents), for Pooled and Conversation with ties="agents", and for games too large for `exact`.

    Example:
        >>> [round(float(em.worst_case(game)), 3) for game in (em.catalog.judge(), em.catalog.biased_advisers())]
        [0.7, 1.0]

    Source: section 6.2 of docs/model.md.
    """
    user = RationalUser() if user is None else user
    checked(user=user)
    bounds, batch = _bounds(games, gains, user, protocol, user.plain.obeys, exact, lp)
    values = [np.nan if b is None else float(b.form.user_unit * _value(b) + b.form.user_zero) for b in bounds]
    return np.array(values).reshape(batch)


def coverage(
    games: Game,
    gains=0.0,
    user: AbstractUser | None = None,
    protocol: AbstractProtocol | None = None,
    *,
    obedience: bool = False,
    exact: bool = False,
    lp: str = "auto",
) -> Coverage:
    """How well the agents' interests cover the user's: the dual of `worst_case`.

    Args:
        games, gains, user, protocol, exact, lp: as in `worst_case`.
        obedience: also impose a rational user's obedience constraints, as `worst_case` does: then
            worst_case = full_information - slack - sum_i weights_i e_i, otherwise worst_case is at least that.

    Returns:
        A `Coverage`.

    Raises:
        ValueError: as `worst_case`.

    Example:
        >>> found = em.coverage(em.catalog.judge(), obedience=True)
        >>> round(float(found.full_information - found.slack), 3)  # `worst_case`
        0.7

    Source: section 6.3 of docs/model.md.
    """
    user = RationalUser() if user is None else user
    checked(games=games, gains=gains, user=user, obedience=obedience)
    if obedience and not user.plain.obeys:
        raise ValueError("obedience: only a RationalUser obeys; leave it False for this user")
    bounds, batch = _bounds(games, gains, user, protocol, obedience, exact, lp)
    K, XA, XB, A = games.agents, games.user_features, games.agent_features, games.actions
    shapes = {"slack": (), "weights": (K,), "by_cell": (XA, XB), "commands": (XA, A, A), "full_information": ()}
    fields = {name: np.full((len(bounds), *shape), np.nan) for name, shape in shapes.items()}
    result, fallback = np.full(len(bounds), Result.MALFORMED), np.zeros(len(bounds), bool)
    for k, bound in enumerate(bounds):
        if bound is None:
            continue
        form, worst = bound.form, bound.worst
        fallback[k] = worst.fallback
        fields["full_information"][k] = form.user_unit * bound.full + form.user_zero
        result[k] = Result.CERTIFIED if np.isfinite(_value(bound)) else Result.FAILED
        if not np.isfinite(worst.value):  # Infeasible: V_full is certain.
            fields["slack"][k] = fields["by_cell"][k] = form.user_unit * (bound.full - _value(bound))
            continue
        secured = np.einsum("k,kxba,kxba->xb", worst.weights, bound.informed, form.game.agents)
        by_cell = (bound.informed[0] * form.game.welfare).sum(-1) - secured - worst.cell_values
        fields["by_cell"][k] = form.user_unit * by_cell
        fields["slack"][k] = form.user_unit * by_cell.sum()
        fields["weights"][k] = worst.weights * form.user_unit / form.agent_unit
        fields["commands"][k] = worst.commands * (form.user_unit / form.perceived_unit)
    fields = {name: values.reshape((*batch, *shapes[name])) for name, values in fields.items()}
    return Coverage(**fields, result=result.astype(int).reshape(batch), fallback=fallback.reshape(batch),
        labels=games.labels,
    )  # fmt: skip


def _value(bound: _Bound) -> float:
    """The least user value, in standard units. Where the LP is infeasible no equilibrium is worth less than V_full
    (section 6.2 of docs/model.md)."""
    return bound.least if bound.worst.status == "Infeasible" else min(bound.worst.value, bound.least)


def _bounds(games: Game, gains, user, protocol, obedience: bool, exact: bool, lp: str):
    protocol = Selection() if protocol is None else protocol
    games, gains, user, protocol = on_host(games=games, gains=gains, user=user, protocol=protocol)
    checked(exact=exact, obedience=obedience)
    check_word(lp)
    if exact and lp == "batched":
        raise ValueError('lp: exact answers are derived from HiGHS\'s: take lp="highs" with exact=True')
    if reason := why_no_bound(games, user, protocol):
        raise ValueError(reason)
    gains = np.asarray(gains, np.float64)
    if gains.ndim and gains.shape[-1] != games.agents:
        raise ValueError(f"gains: expected a number or a last axis of K = {games.agents}, got {list(gains.shape)}")
    if not ((gains >= 0) & np.isfinite(gains)).all():
        raise ValueError("gains: expected finite numbers >= 0 (0 for an agent that would lose by revealing x_B)")
    batch = np.broadcast_shapes(games.batch_shape, gains.shape[:-1])
    flat = flatten_games(games, batch)
    gains = np.broadcast_to(gains, (*batch, games.agents)).reshape(-1, games.agents)
    sound = np.broadcast_to(faults(games), batch).reshape(-1) == ""
    good = np.flatnonzero(sound)
    bounds: list[_Bound | None] = [None] * len(sound)
    if len(good):
        user = batching.flatten(user, batch)
        reduced = reduce_for(flat, protocol, user, np).at(good)
        plain = jax.tree.map(lambda x: x[good], user.plain)
        for k, bound in zip(good, _of_sound(reduced, gains[good], plain, obedience, exact, lp), strict=True):
            bounds[k] = bound
    return bounds, batch


def why_no_bound(games: Game, user: AbstractUser, protocol: AbstractProtocol) -> str:
    """The reason why no bound of all equilibria is known with this user and protocol; "" if there is one."""
    if not declares_revelation(protocol, games.agents):
        return f"protocol: {protocol.why_unheard(games.agents)}"
    if protocol.as_conversation is not None and user.favours:
        return (
            f'user: in {type(protocol).__name__} with ties="agents" agents are paid under different distributions over '
            'actions: take ties="lowest", "highest" or "uniform"'
        )
    if not is_known(user.plain):
        return f"user: bounds of all equilibria know QuantalUser and RationalUser, got {type(user.plain).__name__}"
    return ""


def _of_sound(reduced: ReducedGame, gains, user, obedience: bool, exact: bool, lp: str) -> list[_Bound]:
    whole = standard_form(reduced, Selection(), user)
    forms, informed = [], []
    for k in range(len(gains)):
        game: Any = whole.game.at(k)
        user_k, rest = batching.item(whole.user, k), (x[k] for x in whole[3:])
        forms.append(StandardForm(game, whole.protocol, user_k, *rest))
        informed.append(by_agent(user_k, game))
    floors = np.einsum("nkxba,nkxba->nk", np.array(informed), whole.game.agents) - gains / whole.agent_unit
    tie_tolerance = user.tie_tolerance if obedience else None
    if exact:
        exact_ties = None if tie_tolerance is None else 0.0
        answers = [
            worst_distribution(f.game, own, tie_tolerance=exact_ties, exact=True)
            for f, own in zip(forms, floors, strict=True)
        ]
    else:
        answers = worst_distributions(whole.game, floors, tie_tolerance=tie_tolerance, lp=lp)
    bounds = []
    for form, worst, by_agent_k, own in zip(forms, answers, informed, floors, strict=True):
        if worst.status == "Infeasible" and exact and obedience:
            # Actions that the informed user treats as tied may differ as rational numbers.
            again = worst_distribution(form.game, own, tie_tolerance=tie_tolerance, exact=True)
            worst = again._replace(fallback=worst.fallback)
        each = (by_agent_k * form.game.welfare).sum((1, 2, 3))
        full = float(each[0])
        # Ties of what a user perceives need not be ties of what the user gets.
        bounds.append(_Bound(form, full, float(each.min()) if form.game.is_perceived else full, by_agent_k, worst))
    return bounds
