"""A protocol is one class: here the user consults one agent drawn at random, without comparing them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em


class Lottery(em.AbstractProtocol):
    """The user hears one agent, drawn uniformly."""

    def _own(self, game, scheme, user):
        """The user's value and all agents' payoffs when the user hears an agent with this scheme."""
        mass = jnp.einsum("bs,xb->xs", scheme, game.mass)
        options = em.options_of(user, lambda x: jnp.einsum("bs,xbn->xsn", scheme, x), game.user, mass)
        response = user.respond(options, em.Options(jnp.zeros_like(options.value), None))
        q = jnp.einsum("xsa,bs->xba", response, scheme)
        return (q * game.user).sum(), (q * game.agents).sum((1, 2, 3))

    def payoffs(self, game, schemes, user):
        value, agents = jax.vmap(lambda scheme: self._own(game, scheme, user))(schemes)
        return em.Payoffs(value.mean(), agents.mean(0))

    def messages(self, game):
        return game.agent_features


class Discounted(Lottery):
    """The same with a parameter, scalar or over the batch: a cost of communication."""

    cost: jax.Array | np.ndarray = eqx.field(converter=np.asarray)

    def payoffs(self, game, schemes, user):
        got = super().payoffs(game, schemes, user)
        return em.Payoffs(got.user - self.cost, got.agents)


class Declared(Lottery):
    """It declares that full revelation is heard if there is one agent."""

    def full_revelation_is_heard(self, agents):
        return agents == 1


class StillDeclared(Declared):
    """A declaration of the parent class does not count for this one."""


class QuietSelection(em.Selection):
    """A subclass, about which nothing is known, since it may override any method."""


class QuietPooled(em.Pooled):
    pass


class QuietConversation(em.Conversation):
    pass


class QuietComparison(em.Comparison):
    pass


UNKNOWN = [
    Lottery(), StillDeclared(), QuietSelection(), QuietPooled(), QuietConversation(1, 1), QuietComparison(2),
    QuietSelection(then=em.Conversation(1, 1)), em.Selection(then=QuietConversation(1, 1)),
]  # fmt: skip


def test_payoffs_of_a_new_protocol():
    game = em.catalog.prosecutor_against_defender()
    schemes = np.stack([np.eye(2), np.array([[1.0, 0], [1, 0]])])  # one reveals, the other is silent
    got = em.payoffs(game, schemes, Lottery(), em.RationalUser("lowest"))
    # told all: convicts .3, value 1; told nothing: acquits, value .7
    np.testing.assert_allclose(got.user, 0.85, atol=1e-6)
    np.testing.assert_allclose(got.agents, [0.15, 0.85], atol=1e-6)


def test_parameters_of_a_new_protocol_run_over_the_batch():
    game = em.catalog.judge()
    games = jax.tree.map(lambda x: np.stack([x] * 2), game)
    got = em.payoffs(games, em.full_revelation(1, 2, 2), Discounted(np.array([0.0, 0.25])), em.RationalUser("lowest"))
    np.testing.assert_allclose(got.user, [1, 0.75], atol=1e-6)


def test_play_finds_the_equilibrium_of_a_new_protocol():
    # agents are not compared, so each of the two prosecutors persuades as if alone (quantal user, precision 5)
    games = jax.tree.map(lambda x: np.stack([x] * 2), em.catalog.two_prosecutors())
    solution = em.solve(games, Lottery(), em.QuantalUser(5.0), key=jax.random.key(0), verify=False)
    np.testing.assert_array_equal(solution.result, em.Result.UNCHECKED)
    assert solution.certificate is None
    np.testing.assert_allclose(solution.agents, 0.38236599, atol=1e-4)


@pytest.mark.slow
def test_a_new_protocol_is_searched_and_never_certified():
    game = em.catalog.judge()
    solution = em.solve(game, Lottery(), em.QuantalUser(5.0), key=0)
    known = em.solve(game, em.Pooled(), em.QuantalUser(5.0), key=0)  # the same with one agent
    np.testing.assert_allclose(solution.agents, known.agents, atol=1e-3)
    found = em.certify(game, solution.schemes, Lottery(), em.QuantalUser(5.0))
    assert found.result == em.Result.UNREFUTED
    assert np.isposinf(found.gain_upper).all()
    assert np.isnan(found.guarantee)
    assert np.isnan(found.theorem)
    assert not found.closed
    right = em.certify(game, solution.schemes, em.Pooled(), em.QuantalUser(5.0))
    for name in ("user", "agents", "full_information", "no_information"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_search_finds_what_the_exact_check_finds():
    """Silence of both: the gains by search are those of the exact check of the class above."""
    games = jax.tree.map(lambda x: np.stack([x] * 3), em.catalog.prosecutor_against_defender())
    silent, user = em.no_information(2, 2, 2), em.QuantalUser(5.0)
    found = em.certify(games, silent, QuietPooled(), user)
    exact = em.certify(games, silent, em.Pooled(), user)
    assert (exact.gain_lower.max(-1) > 0.01).all()
    np.testing.assert_allclose(found.gain_lower, exact.gain_lower, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.result, em.Result.ABOVE_TOLERANCE)


def test_best_response_by_search():
    game = em.catalog.judge()
    found = em.best_response(game, em.no_information(1, 2, 2), 0, Lottery(), em.QuantalUser(5.0))
    exact = em.best_response(game, em.no_information(1, 2, 2), 0, em.Pooled(), em.QuantalUser(5.0))
    assert found.result == em.Result.UNREFUTED
    assert not found.closed
    assert exact.upper >= found.value - 1e-12
    np.testing.assert_allclose(found.value, exact.value, atol=1e-4)


@pytest.mark.slow
def test_a_closed_form_goes_with_the_payoffs_it_was_written_for():
    class Halved(em.Pooled):
        def payoffs(self, game, schemes, user):
            got = super().payoffs(game, schemes, user)
            return em.Payoffs(got.user, got.agents / 2)

    game, user = em.catalog.prosecutor_against_defender(), em.QuantalUser(3.0)
    schemes = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.9, 0.1]]])
    whole = em.pseudo_gradient(game, schemes, em.Pooled(), user)
    tangent = whole - whole.mean(-1, keepdims=True)
    half = em.pseudo_gradient(game, schemes, Halved(), user)
    np.testing.assert_allclose(half - half.mean(-1, keepdims=True), tangent / 2, atol=1e-5)
    assert np.abs(tangent).max() > 0.01


def test_monopolists_of_a_new_protocol_are_refused():
    with pytest.raises(ValueError, match=r"^start: Lottery has no exact check"):
        em.solve(em.catalog.judge(), Lottery(), em.QuantalUser(5.0), start="monopolist")


@pytest.mark.slow
def test_a_check_of_ones_own_is_used_and_believed(monkeypatch):
    from emalign_jax.exact.checks import base

    monkeypatch.setattr(base, "_CHECKS", dict(base._CHECKS))

    class Told(em.AbstractProtocol):
        """The user is told x_B whatever the agents do, so that any profile is an equilibrium."""

        def payoffs(self, game, schemes, user):
            options = em.options_of(user, lambda x: x, game.user, game.mass)
            q = user.respond(options, options)
            return em.Payoffs((q * game.user).sum(), (q * game.agents).sum((1, 2, 3)))

    game, user = em.catalog.prosecutor_against_defender(), em.QuantalUser(5.0)
    assert em.certify(game, em.no_information(2, 2, 2), Told(), user).result == em.Result.UNREFUTED

    @em.register_check(Told, em.QuantalUser)
    class ToldCheck(em.AbstractCheck):
        def payoffs(self, schemes):
            return self.informed(True)

        def deviations(self, schemes, agents, bracket=None):
            paid = self.informed(True)[1]
            return [em.Deviation(paid[i], paid[i], schemes[i]) for i in agents]

        def monopolist(self, agent, sign=1.0):
            return em.Deviation(*[self.informed(True)[1][agent]] * 2, np.eye(2))

    found = em.certify(game, em.no_information(2, 2, 2), Told(), user)
    assert found.result == em.Result.CERTIFIED
    np.testing.assert_allclose(found.user, found.full_information)
    assert np.isnan(found.guarantee)
    with pytest.raises(ValueError, match="has a check already"):
        em.register_check(Told, em.QuantalUser)(type("Other", (ToldCheck,), {}))

    class Toldest(Told):
        pass

    assert em.certify(game, em.no_information(2, 2, 2), Toldest(), user).result == em.Result.UNREFUTED


def test_a_lottery_breaks_the_guarantee_of_selection():
    """Each agent does what is best alone, to tell all and nothing, and each is heard half of the time."""
    game, alone = em.catalog.biased_advisers(), em.Selection()
    schemes = np.stack([np.eye(2), np.array([[1.0, 0], [1, 0]])])
    for i, scheme in enumerate(schemes):
        one = em.Game(game.prior, game.user_utility, game.agent_utilities[[i]])
        assert em.certify(one, scheme[None], alone, em.RationalUser("lowest")).result == em.Result.CERTIFIED
    assert em.payoffs(game, schemes, Lottery(), em.RationalUser("lowest")).user < em.worst_case(game) - 0.1


@pytest.mark.parametrize("protocol", UNKNOWN, ids=lambda p: type(p).__name__ + ("" if p.conversation is None else "+"))
@pytest.mark.parametrize("function", [em.coverage, em.worst_case])
def test_no_guarantee_for_a_protocol_that_does_not_declare_it(function, protocol):
    with pytest.raises(ValueError, match="does not declare"):
        function(em.catalog.biased_advisers(), protocol=protocol, user=em.RationalUser("lowest"))


def test_a_protocol_that_declares_it_is_believed_for_so_many_agents():
    game, judge = em.catalog.prosecutor_against_defender(), em.catalog.judge()
    assert em.coverage(judge, protocol=Declared()).slack == em.coverage(judge).slack
    with pytest.raises(ValueError, match="does not declare"):
        em.coverage(game, protocol=Declared())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", one_in(4, UNKNOWN[1:]), ids=lambda p: type(p).__name__)
def test_an_unknown_protocol_is_never_certified(protocol):
    game = em.catalog.prosecutor_against_defender()
    found = em.certify(game, em.full_revelation(2, 2, 2), protocol, em.QuantalUser(5.0))
    assert found.result in (em.Result.UNREFUTED, em.Result.ABOVE_TOLERANCE)
    assert np.isposinf(found.gain_upper).all()
    assert np.isnan(found.guarantee)
