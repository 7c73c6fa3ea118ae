"""What users who misread beliefs are refused with, and how protocols, checks and perceptions of others join in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.checks import base
from emalign_jax.exact.checks.generic import GenericCheck

RATIONAL, QUANTAL = em.RationalUser(), em.QuantalUser(4.0)
GAME = random_game(0, XA=2, XB=2, A=2, Y=2)
SCHEMES = np.full((2, 2, 2), 0.5)
SHY = em.Conservative(QUANTAL, 0.5)


def prior(**changes):
    found = np.full(GAME.prior.shape, 1 / GAME.prior.size)
    for cell in changes.get("without", []):
        found[cell] = 0
    return found / found.sum()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: em.Conservative(QUANTAL, -0.1), r"weight: expected a number from 0 to 1e\+06 .* got -0.1"),
        (lambda: em.Conservative(QUANTAL, np.nan), "weight: .* got nan"),
        (lambda: em.Conservative(20.0, 0.5), r"user: expected a user such as RationalUser\(\), got 20.0"),
        (lambda: em.SubjectivePrior(QUANTAL, [0.5, 0.5]), r"prior: expected shape \[..., XA, XB, Y\], got \[2\]"),
        (lambda: em.SubjectivePrior(QUANTAL, 2 * prior()), "prior: must sum to 1 .* got 2"),
        (lambda: em.SubjectivePrior(QUANTAL, 1 - 2 * prior()), "prior: must sum to 1"),
        (
            lambda: em.SubjectivePrior(SHY, prior()),
            r"user: Conservative misreads beliefs already; write Conservative\(",
        ),
        (
            lambda: em.FixedReplies("babbling", SHY),
            r"acting: .* wrap the FixedReplies itself, Conservative\(FixedReplies",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (np.full((1, 2, 2), 0.25), r"prior: the user's has \[XA, XB, Y\] = \[1, 2, 2\], that of the games \[2, 2, 2\]"),
        (prior(without=[(1, 0)]), "prior: the user's is 0 or nearly so at x_A = 1, x_B = 0, which can happen"),
    ],
)
def test_a_prior_that_does_not_fit_the_games_is_refused(own, message):
    user = em.SubjectivePrior(QUANTAL, own)
    for call in (em.payoffs, em.certify):
        with pytest.raises(ValueError, match=message):
            call(GAME, SCHEMES, em.Pooled(), user)
    with pytest.raises(ValueError, match=message):
        em.worst_case(GAME, 0.0, user)
    with pytest.raises(ValueError, match=message):
        em.solve(GAME, em.Selection(), user, key=0)


@pytest.mark.parametrize(
    "user", [em.Conservative(RATIONAL, np.array([0.5, 0.8])), em.QuantalUser(np.array([1.0, 2.0]))]
)
def test_parameters_that_do_not_fit_the_batch_are_refused(user):
    games = em.random_games(jax.random.key(0), 3, agents=2, states=2, actions=2)
    message = type(user).__name__ + r": expected one value for all games or batch axes .* games, \[3\], got \[2\]"
    for call in (em.payoffs, em.certify):
        with pytest.raises(ValueError, match=message):
            call(games, em.full_revelation(2, 2, 2), em.Selection(), user)
    if isinstance(user, em.Conservative):
        for call in (em.stability, em.equilibrium_bounds):
            with pytest.raises(ValueError, match=message):
                call(games, user=user)


def test_ties_for_agents_need_one_agent_at_a_time():
    shy = em.Conservative(RATIONAL, 0.5)
    for protocol in (em.Pooled(), em.Conversation(1, 1)):
        with pytest.raises(ValueError, match=r'user: in .* take ties="lowest", "highest" or "uniform"'):
            em.certify(GAME, SCHEMES, protocol, shy)
    assert np.isfinite(em.certify(GAME, SCHEMES, em.Selection(), shy).user)


def test_premises_are_of_users_who_read_beliefs_as_they_are():
    with pytest.raises(ValueError, match=r"user: the premises are of users .* got Conservative"):
        em.premises(GAME, SCHEMES, em.Conversation(1, 1), SHY)


class Heard(em.AbstractProtocol):
    """The user hears the first agent."""

    def payoffs(self, game, schemes, user):
        mass = jnp.einsum("bs,xb->xs", schemes[0], game.mass)
        options = em.options_of(user, lambda x: jnp.einsum("bs,xbn->xsn", schemes[0], x), game.user, mass)
        response = user.respond(options, em.Options(jnp.zeros_like(options.value), None))
        q = jnp.einsum("xsa,bs->xba", response, schemes[0])
        return em.Payoffs((q * game.welfare).sum(), (q * game.agents).sum((1, 2, 3)))


class Declared(Heard):
    counts_welfare = True


class StillDeclared(Declared):
    """What the parent class declares does not count."""


@pytest.mark.parametrize("protocol", [Heard(), StillDeclared()])
def test_a_protocol_that_declares_nothing_is_refused(protocol):
    message = f"protocol: {type(protocol).__name__} does not declare .*counts_welfare = True.* such as Conservative"
    assert np.isfinite(em.payoffs(GAME, SCHEMES, protocol, QUANTAL).user)
    with pytest.raises(ValueError, match=message):
        em.payoffs(GAME, SCHEMES, protocol, SHY)
    with pytest.raises(ValueError, match=message):
        em.certify(GAME, SCHEMES, protocol, SHY)


def test_a_protocol_that_declares_it_takes_such_users():
    schemes = np.stack([np.eye(2)] * 2)
    got, same = (em.payoffs(GAME, schemes, protocol, SHY) for protocol in (Declared(), em.Selection()))
    np.testing.assert_allclose(got.user, same.user, rtol=0, atol=1e-6)
    assert np.isnan(got.perceived)


def test_a_check_holds_for_such_users_only_where_it_was_registered_for_them():
    assert base.check_for(em.Pooled(), SHY) is base.check_for(em.Pooled(), QUANTAL)
    try:

        @em.register_check(Declared, em.QuantalUser)
        class Own(GenericCheck):
            pass

        assert base.check_for(Declared(), QUANTAL) is Own
        assert base.check_for(Declared(), SHY) is GenericCheck
    finally:
        del base._CHECKS[(Declared,), em.QuantalUser, em.QuantalUser]


class Startled(em.AbstractPerception):
    """Believes in the first outcome more than it should: a perception in one method."""

    user: em.AbstractUser

    def believed_prior(self, prior, xp):
        more = prior * xp.where(xp.arange(prior.shape[-1]) == 0, 3.0, 1.0).astype(prior.dtype)
        return more / more.sum((-3, -2, -1), keepdims=True)


def test_a_perception_of_ones_own_is_one_method():
    own = Startled(QUANTAL).believed_prior(GAME.prior, np)
    known = em.SubjectivePrior(QUANTAL, own)
    got, expected = (em.payoffs(GAME, SCHEMES, em.Pooled(), user) for user in (Startled(QUANTAL), known))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    for protocol in (em.Pooled(), em.Selection()):
        assert base.check_for(protocol, Startled(QUANTAL)) is base.check_for(protocol, QUANTAL)


@pytest.mark.parametrize("wrong", [-1.0, 0.0, np.nan, np.array([[[1.0]], [[0.0]]])])
def test_a_perception_that_holds_what_happens_to_be_impossible_is_refused(wrong):
    class Wrong(Startled):
        def believed_prior(self, prior, xp):
            return prior * xp.asarray(wrong).astype(prior.dtype)

    for user in (Wrong(RATIONAL), Wrong(QUANTAL)):
        for call in (em.payoffs, em.certify):
            with pytest.raises(ValueError, match="believed_prior: of Wrong it must be finite, with sums over outcomes"):
                call(GAME, SCHEMES, em.Selection(), user)
        with pytest.raises(ValueError, match="believed_prior: of Wrong"):
            em.worst_case(GAME, 0.0, user)


def test_a_perception_has_no_response_of_its_own():
    """It acts as its plain user, whose exact checks it has: another response would be ignored."""
    with pytest.raises(ValueError, match="Random: a perception changes beliefs alone, and its own respond would be"):

        class Random(em.Conservative):
            def respond(self, options, favour):
                return jnp.full_like(options.value, 1 / options.value.shape[-1])


def test_neglect_of_an_over_reaction_may_have_negative_chances_and_is_refused_then():
    game = em.Game([[[0.0, 0.5], [0.1, 0.4]]], np.eye(2), [np.eye(2), np.eye(2)])
    with pytest.raises(
        ValueError, match=r"believed_prior: of BaseRateNeglect .* let a Conservative one .* be the outermost"
    ):
        em.certify(game, SCHEMES, em.Selection(), em.BaseRateNeglect(em.Conservative(RATIONAL, 3.0), 1.0))
    fine = em.Conservative(em.BaseRateNeglect(RATIONAL, 1.0), 3.0)
    assert np.isfinite(em.certify(game, SCHEMES, em.Selection(), fine).user)
