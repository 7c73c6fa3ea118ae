"""Values against the number of outcomes."""

import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

COLUMNS = ["no_information", "full_information", "best_monopolist", "worst_equilibrium", "best_equilibrium"]


def cells(N, tilts, actions=3):
    """The actions contain all outcomes."""
    agents = [lambda a, y, tilt=tilt: -((a - (1 + tilt) * y) ** 2) for tilt in tilts]
    grid = (np.arange(actions * N) + 0.5) / (actions * N)
    return em.game_from_functions(lambda a, y: -((a - y) ** 2), agents, actions=grid, outcomes=N)


@pytest.mark.slow
def test_two_silent_agents_by_hand():
    """The mean loss of the middle is (1 - 1/N^2) / 12 if the middle is an action, as it is for odd N."""
    rows = em.values_against_size(lambda N: cells(N, (-0.8, -0.6)), (1, 3, 5, 7))
    assert rows["size"].tolist() == [1, 3, 5, 7]
    silent = [-(1 - 1 / N**2) / 12 for N in rows["size"]]
    for name, expected in zip(COLUMNS, (silent, [0] * 4, silent, silent, [0] * 4), strict=True):
        np.testing.assert_allclose(rows[name], expected, atol=1e-8)
    assert (rows["guarantee"] <= rows["worst_equilibrium"] + 1e-8).all()
    assert {str(kind) for kind in rows.dtypes.iloc[1:]} == {"float64"}


def test_one_agent_alone():
    """The lobbyist of the catalogue, in whose equilibrium the user gets what the monopolist leaves."""
    rows = em.values_against_size(lambda N: em.catalog.lobbying(0.25, N), [3, 5])
    np.testing.assert_allclose(rows["worst_equilibrium"], rows["best_monopolist"])
    np.testing.assert_allclose(rows["worst_equilibrium"], rows["no_information"], atol=1e-8)
    np.testing.assert_allclose(rows["no_information"], [-1 / 6, -1 / 8], atol=1e-12)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"^sizes: expected an integer >= 1, got 0"):
        em.values_against_size(lambda N: cells(N, (0.0,)), [0])
    with pytest.raises(ValueError, match=r"^sizes: expected at least one"):
        em.values_against_size(lambda N: cells(N, (0.0,)), [])
    with pytest.raises(ValueError, match=r"^build: expected a function that gives one Game, got .* for 2"):
        em.values_against_size(lambda N: None, [2])
    with pytest.raises(ValueError, match=r"^build: expected a function that gives one Game"):
        em.values_against_size(lambda N: em.random_games(0, N), [2])
