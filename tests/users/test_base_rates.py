"""Neglect of base rates: a subjective prior that is computed by hand, and the user itself without neglect."""

import jax
import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

PRIOR = np.random.default_rng(0).dirichlet(np.ones(12)).reshape(2, 2, 3) * [1, 1, 0]
PRIOR /= PRIOR.sum()


@pytest.fixture
def game():
    user, *agents = np.random.default_rng(1).normal(size=(3, 2, 3))
    return em.Game(PRIOR, user, agents)


def own_prior(neglect):
    """One outcome never happens, the other two move towards one half each."""
    found = np.zeros_like(PRIOR)
    for y in (0, 1):
        chance = PRIOR[:, :, y].sum()
        found[:, :, y] = PRIOR[:, :, y] / chance * ((1 - neglect) * chance + neglect / 2)
    return found


@pytest.mark.x64
@pytest.mark.parametrize("neglect", [0.0, 0.3, 1.0])
def test_it_is_a_prior_of_the_users_own(game, neglect):
    schemes = np.random.default_rng(2).dirichlet(np.ones(2), (2, 2))
    user, protocol = em.QuantalUser(3.0), em.Selection()
    plain = em.certify(game, schemes, protocol, user)
    expected = em.certify(game, schemes, protocol, em.SubjectivePrior(user, own_prior(neglect)))
    found = em.certify(game, schemes, protocol, em.BaseRateNeglect(user, neglect))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-9)
    assert (abs(found.user - plain.user) < 1e-12) == (neglect == 0)


def test_neglect_is_a_share():
    for wrong in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="neglect: expected a number from 0 to 1"):
            em.BaseRateNeglect(em.RationalUser(), wrong)
