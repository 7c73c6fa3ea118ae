"""Each agent alone with the user, and an aligned one: the monopolists' values, certified."""

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly, single_agents

pytestmark = pytest.mark.host_only


def games(count=3):
    rng = np.random.default_rng(4)
    prior = rng.dirichlet(np.ones(6), count).reshape(count, 1, 2, 3)
    return em.Game(prior, rng.normal(size=(count, 2, 3)), rng.normal(size=(count, 2, 2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "user"),
    [
        (em.Selection(), em.RationalUser()),
        (em.Comparison(2), em.RationalUser()),  # with one agent there is nothing to compare
        (em.Selection(), em.QuantalUser(np.array([2.0, 5.0, 9.0]))),
        (em.Pooled(), em.QuantalUser(4.0)),
    ],
)
def test_they_are_monopolists_with_certificates(protocol, user):
    batch = games()
    found = single_agents(batch, protocol, user, of=3)
    assert found.user.shape == (3, 3)
    assert (found.result == em.Result.CERTIFIED).all()
    known = monopoly(batch, protocol, user)
    np.testing.assert_allclose(np.asarray(found.user)[:-1].T, known.user, atol=1e-5)
    np.testing.assert_allclose(np.asarray(found.agents)[:-1, :, 0].T, known.agents, atol=1e-5)
    aligned = np.asarray(found.user)[-1]
    np.testing.assert_allclose(aligned, np.asarray(found.agents)[-1, :, 0], atol=1e-9)
    if isinstance(user, em.RationalUser):
        np.testing.assert_allclose(aligned, found.certificate.full_information[-1], atol=1e-6)
    else:
        assert (aligned >= found.certificate.full_information[-1] - 1e-6).all()
