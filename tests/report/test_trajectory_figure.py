"""The figure of a trajectory shows its numbers."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import emalign_jax as em

pytestmark = pytest.mark.host_only


def solution(steps=(4, 2), certificate=None):
    """Two games of two agents, by hand."""
    nan = np.nan
    kept = em.Trajectory(
        np.array(steps),
        np.array([[0, 1, 2, 4], [0, 4, -1, -1]]),
        np.array([[0.1, 0.4, 0.3, 0.5], [0.7, 0.8, nan, nan]]),
        np.arange(16.0).reshape(2, 4, 2),
        np.array([[[0.1, 0.2], [nan, nan], [1e-3, 0.0], [0.0, 0.0]], [[nan] * 2] * 4]),
        np.array([[0, 1, 1, 0], [-1, -1, -1, -1]]),
    )
    codes = np.zeros(2, int)
    nothing = np.zeros((2, 2, 1, 1)), np.zeros(2), np.zeros((2, 2))
    return em.Solution(*nothing, codes, codes, None, {}, certificate, kept)


def test_it_shows_the_numbers():
    value, payoffs, gains = em.plot.trajectory(solution(), 0)
    line = value.lines[0]
    np.testing.assert_array_equal(line.get_xydata(), [[0, 0.1], [1, 0.4], [2, 0.3]])
    returned = next(line for line in value.lines if line.get_marker() == "D")
    np.testing.assert_array_equal(returned.get_xydata(), [[3, 0.5]])
    assert [round(bar.get_x() + 0.5) for bar in value.patches] == [0, 3, 1, 2]  # agent 0 is picked at 0 and 3
    assert len({bar.get_facecolor() for bar in value.patches}) == 2
    np.testing.assert_array_equal(payoffs.lines[0].get_ydata(), [0, 2, 4])
    np.testing.assert_array_equal(gains.lines[0].get_ydata(), [0.1, np.nan, 1e-3])
    assert gains.get_ylim()[1] > 0.2
    axes = em.plot.trajectory(solution(), 1, figure=Figure())
    assert len(axes) == 2  # no gain is known
    assert not axes[0].patches  # nobody is picked


@pytest.mark.slow
def test_it_draws_what_solve_keeps(tmp_path):
    games = em.random_games(0, 2, agents=2, states=2, actions=2)
    found = em.solve(games, em.Selection(), em.RationalUser(), em.BestResponseDynamics(), key=0, record=True)
    value = em.plot.trajectory(found, 1)[0]
    levels = [line.get_ydata()[0] for line in value.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(levels, [found.certificate.no_information[1], found.certificate.full_information[1]])
    value.figure.savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000


def test_refusals():
    with pytest.raises(ValueError, match="game: expected the index of one game in a batch of"):
        em.plot.trajectory(solution(), 2)
    with pytest.raises(ValueError, match="game: expected the index of one game in a batch of"):
        em.plot.trajectory(solution())
    with pytest.raises(ValueError, match=r"solution: expected one of em\.solve"):
        em.plot.trajectory(solution()._replace(trajectory=None), 0)
    with pytest.raises(ValueError, match="no profile was found of game"):
        em.plot.trajectory(solution(steps=(4, 0)), 1)
