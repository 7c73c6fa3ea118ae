"""A protocol is one class: here the user consults one agent drawn at random, without comparing them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em


class Lottery(em.AbstractProtocol):
    """The user talks to one agent, drawn uniformly."""

    def _own(self, game, scheme, user):
        """The user's value and everybody's payoff when the user talks to an agent who uses `scheme`."""
        mass = jnp.einsum("bs,xb->xs", scheme, game.mass)
        options = em.options_of(user, lambda x: jnp.einsum("bs,xbn->xsn", scheme, x), game.user, mass)
        response = user.respond(options, em.Options(jnp.zeros_like(options.value), None))
        law = jnp.einsum("xsa,bs->xba", response, scheme)
        return (law * game.user).sum(), (law * game.agents).sum((1, 2, 3))

    def payoffs(self, game, schemes, user):
        value, agents = jax.vmap(lambda scheme: self._own(game, scheme, user))(schemes)
        return em.Payoffs(value.mean(), agents.mean(0))

    def pseudo_gradient(self, game, schemes, user):
        slope = jax.jacrev(lambda s: self.payoffs(game, s, user).agents)(schemes)
        return slope[jnp.arange(len(schemes)), jnp.arange(len(schemes))]

    def smoothed(self, temperature):
        return self

    def messages(self, game):
        return game.agent_features


class Discounted(Lottery):
    """The same with a parameter, scalar or over the batch: a cost of talking."""

    cost: jax.Array | np.ndarray = eqx.field(converter=np.asarray)

    def payoffs(self, game, schemes, user):
        got = super().payoffs(game, schemes, user)
        return em.Payoffs(got.user - self.cost, got.agents)


class Declared(Lottery):
    """It is not true of lotteries, but their author says so: whoever reveals all is heard."""

    def full_revelation_is_heard(self, agents):
        return agents == 1


class StillDeclared(Declared):
    """What was said of the class above is not believed of this one."""


class QuietSelection(em.Selection):
    """Nobody knows what it overrides."""


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
    # nobody is compared, so each of the two prosecutors persuades as if alone (quantal user, precision 5)
    games = jax.tree.map(lambda x: np.stack([x] * 2), em.catalog.two_prosecutors())
    solution = em.solve(games, Lottery(), em.QuantalUser(5.0), key=jax.random.key(0), verify=False)
    np.testing.assert_array_equal(solution.result, em.Result.UNVERIFIED)
    assert solution.certificate is None
    np.testing.assert_allclose(solution.agents, 0.38236599, atol=1e-4)


def test_a_new_protocol_has_no_exact_check_yet():
    with pytest.raises(ValueError, match="no exact check for Lottery with QuantalUser"):
        em.solve(em.catalog.judge(), Lottery(), em.QuantalUser(5.0), key=jax.random.key(0))


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
    with pytest.raises(ValueError, match="does not say so itself"):
        function(em.catalog.biased_advisers(), protocol=protocol, user=em.RationalUser("lowest"))


def test_a_protocol_that_declares_it_is_believed_for_so_many_agents():
    game, judge = em.catalog.prosecutor_against_defender(), em.catalog.judge()
    assert em.coverage(judge, protocol=Declared()).slack == em.coverage(judge).slack
    with pytest.raises(ValueError, match="does not say so itself"):
        em.coverage(game, protocol=Declared())


@pytest.mark.parametrize("protocol", UNKNOWN, ids=lambda p: type(p).__name__ + ("" if p.conversation is None else "+"))
def test_no_certificate_for_an_unknown_protocol(protocol):
    game = em.catalog.prosecutor_against_defender()
    with pytest.raises(ValueError, match="no exact check for"):
        em.certify(game, em.no_information(2, 2, 2), protocol, em.RationalUser("lowest"))
    with pytest.raises(ValueError, match="no exact check for"):
        em.best_response(game, em.no_information(2, 2, 2), 0, protocol, em.RationalUser("lowest"))
