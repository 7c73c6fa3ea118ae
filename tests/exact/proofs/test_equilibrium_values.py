"""The intervals of a proof of the equilibrium set: as far as the stability profile says, from few points, also where
rational arithmetic is needed or impossible."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.proofs import equilibrium_values, evidence, files, verify
from emalign_jax.lp.highs import LPFailed

pytestmark = pytest.mark.host_only


def game_of(game):
    draft = files.draft(game, claims=["equilibrium_set"])
    return verify.Game(draft["game"], None)


def proved(exact):
    """What the verifier accepts of the claim, and the claim."""
    claim = equilibrium_values.Intervals(exact).claim()
    verify.prove_equilibrium_set(exact, claim)
    return float(Fraction(claim["at_least"])), claim


@pytest.mark.parametrize("family", ["opposed", pytest.param("hull", marks=pytest.mark.slow)])
def test_the_claim_ends_at_the_worst_equilibrium(family):
    """The profile of `stability`, from all breakpoints, is the other route."""
    games = em.random_games(jax.random.key(1), 6, family=family, agents=3)
    stable = em.stability(games, lp="highs")
    ends, points = [], []
    for game in games:
        at_least, claim = proved(game_of(game))
        ends.append(at_least)
        points.append(len(claim["values"]))
    spread = stable.full_information - stable.no_information
    assert (np.array(ends) <= stable.worst + 1e-9 * spread + 1e-12).all()
    np.testing.assert_array_less((stable.worst - ends) / spread, 1e-7)
    assert np.mean(points) < 6  # of about 10 breakpoints


@pytest.mark.slow
def test_a_worst_equilibrium_between_the_ends():
    """The gap is linear before its zero, and the claim ends a little below."""
    found = []
    for seed in range(60):
        game = random_game(seed, K=2)
        share = float(em.stability(game).normalise(em.stability(game).worst))
        if 0.02 < share < 0.98:
            at_least, _ = proved(game_of(game))
            found.append(at_least - float(em.stability(game).worst))
    assert found
    assert max(np.abs(found)) < 1e-6


@pytest.mark.parametrize("refused", ["floats", "both", "after the first"])
def test_without_the_floats_the_vertex_is_exact_and_without_both_the_claim_is_shorter(refused, monkeypatch):
    game = em.catalog.prosecutor_against_defender()
    whole, _ = proved(game_of(game))
    assert whole > float(em.stability(game).no_information) + 1e-3

    def fail(*_):
        raise (verify.Unproved if refused == "floats" else LPFailed)("refused")

    if refused == "after the first":
        own = evidence.ObedienceEvidence.distribution
        calls = []

        def some(self, i, low):
            calls.append(i)
            return own(self, i, low) if len(calls) <= 2 else fail()

        monkeypatch.setattr(evidence.ObedienceEvidence, "distribution", some)
    else:
        monkeypatch.setattr(evidence.ObedienceEvidence, "_mended", fail)
    at_least, claim = proved(game_of(game))
    if refused == "floats":
        assert at_least == pytest.approx(whole, abs=1e-7)
    else:
        assert at_least == pytest.approx(float(em.stability(game).no_information), abs=1e-9)
        assert len(claim["values"]) == 1


def test_a_market_of_many_prompts():
    """Rational arithmetic would be too large here; the market's own first zero is the other route."""
    rng = np.random.default_rng(0)
    user = rng.normal(size=(60, 3))
    made = em.utility_table(user, 0.4 * user[:, None] + rng.normal(size=(60, 3, 3))).game()
    at_least, _ = proved(game_of(made))
    assert at_least == pytest.approx(float(em.market(made, without=False).worst), abs=1e-7)


def test_the_root_is_rounded_up():
    for square in (Fraction(2), Fraction(1, 3), Fraction(10) ** 40, Fraction(1, 10**40), Fraction(0)):
        root = evidence.root_above(square)
        assert root * root >= square
        assert root * root <= square * (1 + Fraction(1, 10**20))
