"""The sharp guarantee of a game and its dual, the coverage certificate (sections 6.2 and 6.3 of docs/model.md).

Both speak of every profile in which agent i gains at most e_i from switching to full revelation; with e = 0, of every
equilibrium. By duality she gets at least full_information - slack - sum_i weights_i e_i.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.guarantees.bounds import WorstLaw, worst_law, worst_laws
from emalign_jax.exact.responses import by_agent
from emalign_jax.games.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.validation import checked, on_host
from emalign_jax.lp.choice import check_word
from emalign_jax.protocols import AbstractProtocol, Comparison, Conversation, Pooled, Selection
from emalign_jax.protocols.base import declares_revelation
from emalign_jax.protocols.standard_units import StandardForm, standard_form
from emalign_jax.result import Result
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser


class Coverage(NamedTuple):
    """Float64, batch axes lead; NaN where `result` says that a game failed. Where no law pays the agents what they
    would get (her ties when informed go to each of them), V_full is certain: slack 0, no weights or commands (NaN).

    slack:    [...] what full information is worth beyond what the agents' interests secure, >= 0: user value >=
              full_information - slack - sum_i weights_i e_i
    weights:  [..., K] >= 0
    by_cell:  [..., XA, XB] the slack of each cell; they add up to `slack`. With g, G_i of section 1.1 of docs/model.md
              and a* what the user does when x_B is revealed, for every cell and action a
              g(a*) - g(a) <= sum_i weights_i (G_i(a*) - G_i(a)) + by_cell - sum_c commands[a, c] (g(a) - g(c))
    commands: [..., XA, A, A] multipliers >= 0 of her obedience, of playing a rather than c: 0 unless asked for
    full_information: [...] V_full
    result:   [...] a `Result`: CERTIFIED, MALFORMED_GAME or LP_FAILED
    fallback: [...] the batched solver's answer was not proved by its multipliers, and HiGHS did this game
    """

    slack: Float[np.ndarray, "*batch"]
    weights: Float[np.ndarray, "*batch K"]
    by_cell: Float[np.ndarray, "*batch XA XB"]
    commands: Float[np.ndarray, "*batch XA A A"]
    full_information: Float[np.ndarray, "*batch"]
    result: Int[np.ndarray, "*batch"]
    fallback: Bool[np.ndarray, "*batch"]


class _Bound(NamedTuple):
    form: StandardForm
    full: float
    informed: Float[np.ndarray, "K XA XB A"]  # what she does when x_B is revealed, ties as each agent would have them
    law: WorstLaw


def worst_case(
    games: Game,
    gains=0.0,
    user: AbstractUser | None = None,
    protocol: AbstractProtocol | None = None,
    *,
    exact: bool = False,
    lp: str = "auto",
):
    """The least user value [...] of any law over actions that pays every agent what he gets when x_B is revealed, less
    `gains`; a rational user obeys (the default), a quantal one need not.

    gains: what each agent may gain from switching to full revelation, in his utility; a number or [..., K]. With 0 no
        equilibrium is worse for her.
    protocol: Selection() by default, where whoever reveals all is picked. Not Selection with a temperature or
        Comparison of fewer than all, where he may not be, nor Pooled or Conversation with ties="agents", where no
        single law answers for all agents (ValueError).
    exact: derive the LP in rational arithmetic (small games; ValueError beyond).
    lp: "batched" (the LPs of all games together, each answer proved by its multipliers, HiGHS for what fails or is too
        large for that), "highs" (one by one), or "auto": batched for many small games.
    NaN for a malformed game or an LP that HiGHS does not solve; `coverage` says which, and what fell back to HiGHS.
    """
    user = RationalUser() if user is None else user
    bounds, batch = _bounds(games, gains, user, protocol, isinstance(user, RationalUser), exact, lp)
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
    """How well the agents' interests cover hers: the dual of `worst_case`.

    obedience: also count on a rational user's obedience, as `worst_case` does for her: then
        worst_case = full_information - slack - sum_i weights_i e_i, otherwise it is at least that.
    """
    user = RationalUser() if user is None else user
    checked(games=games, gains=gains, user=user, obedience=obedience)
    if obedience and not isinstance(user, RationalUser):
        raise ValueError("obedience: only a RationalUser obeys; leave it False for this user")
    bounds, batch = _bounds(games, gains, user, protocol, obedience, exact, lp)
    K, XA, XB, A = games.agents, games.user_features, games.agent_features, games.actions
    shapes = {"slack": (), "weights": (K,), "by_cell": (XA, XB), "commands": (XA, A, A), "full_information": ()}
    fields = {name: np.full((len(bounds), *shape), np.nan) for name, shape in shapes.items()}
    result, fallback = np.full(len(bounds), Result.MALFORMED), np.zeros(len(bounds), bool)
    for k, bound in enumerate(bounds):
        if bound is None:
            continue
        form, law = bound.form, bound.law
        fallback[k] = law.fallback
        fields["full_information"][k] = form.user_unit * bound.full + form.user_zero
        result[k] = Result.CERTIFIED if np.isfinite(_value(bound)) else Result.FAILED
        if not np.isfinite(law.value):  # nothing is below V_full: no slack, and no weights to speak of
            fields["slack"][k] = fields["by_cell"][k] = form.user_unit * (bound.full - _value(bound))
            continue
        secured = np.einsum("k,kxba,kxba->xb", law.weights, bound.informed, form.game.agents)
        by_cell = (bound.informed[0] * form.game.user).sum(-1) - secured - law.left
        fields["by_cell"][k] = form.user_unit * by_cell
        fields["slack"][k] = form.user_unit * by_cell.sum()
        fields["weights"][k] = law.weights * form.user_unit / form.agent_unit
        fields["commands"][k] = law.commands
    fields = {name: values.reshape((*batch, *shapes[name])) for name, values in fields.items()}
    return Coverage(**fields, result=result.astype(int).reshape(batch), fallback=fallback.reshape(batch))


def _value(bound: _Bound) -> float:
    """In standard units. An infeasible LP means that no equilibrium is worth less than full information: agents whose
    ties she breaks differently when informed cannot all have what they would get, so somebody offers V_full."""
    return bound.full if bound.law.status == "Infeasible" else min(bound.law.value, bound.full)


def _bounds(games: Game, gains, user, protocol, obedience: bool, exact: bool, lp: str):
    protocol = Selection() if protocol is None else protocol
    games, gains, user, protocol = on_host(games=games, gains=gains, user=user, protocol=protocol)
    checked(exact=exact, obedience=obedience)
    check_word(lp)
    if exact and lp == "batched":
        raise ValueError('lp: exact answers are derived from HiGHS\'s: take lp="highs" with exact=True')
    if isinstance(protocol, Selection) and np.max(protocol.temperature) > 0:
        raise ValueError(
            "protocol: the guarantee needs whoever reveals all to be picked, so temperature 0; with a temperature the "
            "guarantee of a given profile is certify(...).guarantee"
        )
    if isinstance(protocol, Comparison) and protocol.compared < games.agents:
        raise ValueError(
            f"protocol: the guarantee needs whoever reveals all to be picked; with compared = {protocol.compared} of "
            f"K = {games.agents} agents she may not even meet him: take Selection(), or compared = {games.agents}"
        )
    if not declares_revelation(protocol, games.agents):
        raise ValueError(
            f"protocol: the guarantee needs whoever reveals all to be heard by the user; {type(protocol).__name__} "
            "does not say so itself (full_revelation_is_heard)"
        )
    if isinstance(protocol, Pooled | Conversation) and user.favours:
        raise ValueError(
            f'user: in {type(protocol).__name__} with ties="agents" no single law answers for all agents; take '
            'ties="lowest", "highest" or "uniform"'
        )
    gains = np.asarray(gains, np.float64)
    if gains.ndim and gains.shape[-1] != games.agents:
        raise ValueError(f"gains: expected a number or a last axis of K = {games.agents}, got {list(gains.shape)}")
    if not ((gains >= 0) & np.isfinite(gains)).all():
        raise ValueError("gains: expected finite numbers >= 0: an agent who would lose by revealing all has gain 0")
    batch = np.broadcast_shapes(games.batch_shape, gains.shape[:-1])
    flat = flatten_games(games, batch)
    gains = np.broadcast_to(gains, (*batch, games.agents)).reshape(-1, games.agents)
    sound = np.broadcast_to(faults(games), batch).reshape(-1) == ""
    good = np.flatnonzero(sound)
    bounds: list[_Bound | None] = [None] * len(sound)
    if len(good):
        reduced = ReducedGame(*(x[good] for x in reduce_game(flat, np)))
        for k, bound in zip(good, _of_sound(reduced, gains[good], user, obedience, exact, lp), strict=True):
            bounds[k] = bound
    return bounds, batch


def _of_sound(reduced: ReducedGame, gains, user, obedience: bool, exact: bool, lp: str) -> list[_Bound]:
    whole = standard_form(reduced, Selection(), user)
    forms, informed = [], []
    for k in range(len(gains)):
        game: Any = ReducedGame(*(x[k] for x in whole.game))
        her, rest = batching.item(whole.user, k), (x[k] for x in whole[3:])
        forms.append(StandardForm(game, whole.protocol, her, *rest))
        informed.append(by_agent(her, game))
    floors = np.einsum("nkxba,nkxba->nk", np.array(informed), whole.game.agents) - gains / whole.agent_unit
    ease = user.tie_tolerance if obedience else None
    if exact:
        of_ties = None if ease is None else 0.0  # true ties alone, as rational numbers have them
        laws = [worst_law(f.game, own, ease=of_ties, exact=True) for f, own in zip(forms, floors, strict=True)]
    else:
        laws = worst_laws(whole.game, floors, ease=ease, lp=lp)
    bounds = []
    for form, law, all_ways, own in zip(forms, laws, informed, floors, strict=True):
        if law.status == "Infeasible" and exact and obedience:  # ties of the informed may be none of rational numbers
            again = worst_law(form.game, own, ease=ease, exact=True)
            law = again._replace(fallback=law.fallback)
        full = float((all_ways[0] * form.game.user).sum())
        bounds.append(_Bound(form, full, all_ways, law))
    return bounds
