"""No lower bound of a gain is under what any other function of the package attains, and each is attained itself."""

import jax
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact.checks.conversation_outcomes import scheme_to_rule

pytestmark = pytest.mark.host_only

RATIONAL, QUANTAL = em.RationalUser(), em.QuantalUser(8.0)
CONVERSATION = em.Conversation(2, 2)
CASES = {
    "Selection, rational": (em.Selection(), RATIONAL),
    "Selection, lowest": (em.Selection(), em.RationalUser("lowest")),
    "Selection, uniform": (em.Selection(), em.RationalUser("uniform")),
    "Selection, quantal": (em.Selection(), QUANTAL),
    "soft Selection, quantal": (em.Selection(0.1), QUANTAL),
    "Comparison of one, rational": (em.Comparison(1), RATIONAL),
    "Comparison of all, rational": (em.Comparison(2), RATIONAL),
    "Pooled, rational": (em.Pooled(), RATIONAL),
    "Pooled, highest": (em.Pooled(), em.RationalUser("highest")),
    "Pooled, quantal": (em.Pooled(), QUANTAL),
    "one round, rational": (em.Conversation(1, 1), RATIONAL),
    "one round, quantal": (em.Conversation(1, 1), QUANTAL),
    "two rounds, rational": (CONVERSATION, RATIONAL),
    "two rounds, quantal": (CONVERSATION, QUANTAL),
    "Selection, then two rounds, rational": (em.Selection(then=CONVERSATION), RATIONAL),
    "Selection, then two rounds, quantal": (em.Selection(then=CONVERSATION), QUANTAL),
}


def random_game(seed, K=2, XA=1, XB=3, A=3):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.full(XB, 2.0), XA)[:, :, None] * np.eye(XB) / XA
    u, U = rng.normal(size=(A, XB)), rng.normal(size=(K, A, XB))
    if seed % 3 == 1:  # action 0 is much better for the user, so most messages change nothing
        u[1:] -= 1
    if seed % 3 == 2:  # ties, and an agent who wants what is worst for the user
        u, U = np.round(u), np.round(U)
        U[0] = -u
    return em.Game(prior, u, U)


class Setting:
    """Schemes of one game under one protocol, all of one size."""

    def __init__(self, game, protocol, user):
        self.game, self.protocol, self.user = game, protocol, user
        self.converses = protocol.conversation is not None
        self.messages = 2 if self.converses else 3
        self.width = self.messages if self.converses else game.agent_features + 6
        alone = isinstance(protocol, em.Selection)
        self.tree = protocol.conversation.tree(1 if alone else game.agents, self.messages) if self.converses else None

    def rule(self, scheme):
        """What one agent says in one word, as a scheme of this protocol; None where there are too few words."""
        if not self.converses:
            return np.pad(scheme, ((0, 0), (0, self.width - scheme.shape[1])))
        if len(scheme) != self.game.agent_features:
            return scheme if scheme.shape[1] == self.messages else None
        used = scheme[:, scheme.max(0) > 0]
        return scheme_to_rule(self.tree, used)

    def openings(self):
        XB = self.game.agent_features
        words = XB if not self.converses else min(XB, self.messages**self.tree.rounds)
        return self.rule(np.ones((XB, 1))), self.rule(np.eye(words)[np.arange(XB) % words])

    def profiles(self, rng):
        silence, revelation = self.openings()
        K, shape = self.game.agents, silence.shape
        random = np.zeros((K, *shape))
        random[:, :, : self.messages] = rng.dirichlet(np.full(self.messages, 0.5), (K, shape[0]))
        return [random, np.stack([silence] * K), np.stack([revelation] * K), np.stack([silence, revelation])]

    def monopolists(self):
        """The scheme of each agent alone."""
        for i in range(self.game.agents):
            one = em.Game(self.game.prior, self.game.user_utility, self.game.agent_utilities[[i]])
            protocol = (
                em.Selection(then=self.protocol.then) if isinstance(self.protocol, em.Selection) else self.protocol
            )
            protocol = em.Comparison(1) if isinstance(protocol, em.Comparison) else protocol
            setting = Setting(one, protocol, self.user)
            best = em.best_response(one, setting.openings()[0][None], 0, protocol, self.user)
            paid = monopoly(one, protocol, self.user, self.messages).agents[0]
            yield best.scheme, float(paid)

    def one_round(self, profile, agent):
        """What exact methods for one message find against what is said first, or against silence."""
        if not self.converses:
            return []
        XB, (silence, _) = self.game.agent_features, self.openings()
        said = [profile[:, :: self.tree.information_sets], np.stack([silence] * 2)[:, :: self.tree.information_sets]]
        protocol = em.Selection() if isinstance(self.protocol, em.Selection) else em.Pooled()
        assert said[0].shape[1] == XB
        return [em.best_response(self.game, s, agent, protocol, self.user).scheme for s in said]


def check_lower_bounds(game, protocol, user, rng):
    setting = Setting(game, protocol, user)
    alone = [setting.rule(scheme) for scheme, _ in setting.monopolists()]
    for profile in setting.profiles(rng):
        certificate = em.certify(game, profile, protocol, user)
        tried, whose = [profile], [-1]
        for i in range(game.agents):
            best = em.best_response(game, profile, i, protocol, user)
            others = [setting.rule(s) for s in (best.scheme, *setting.one_round(profile, i))]
            rules = [*setting.openings(), *alone, *others, *np.delete(profile, i, 0)]
            for rule in rules:
                if rule is not None and rule.shape == profile[i].shape:
                    tried.append(profile.copy())
                    tried[-1][i] = rule
                    whose.append(i)
        size = 32
        tried += [profile] * (size - len(tried))
        with jax.enable_x64(True):
            paid = np.asarray(em.payoffs(game, np.stack(tried), protocol, user).agents)
        for i in range(game.agents):
            gains = (paid[: len(whose)] - paid[0])[np.array(whose) == i, i]
            range_ = certificate.payoff_range[i]
            assert gains.max() <= certificate.gain_lower[i] + 1e-6 * range_, (i, gains)
            assert gains.max() <= certificate.gain_upper[i] + 1e-9 * range_, (i, gains)


def cost(name):
    """Conversations take half a minute each, quantal users ten seconds."""
    if name in ("Selection, rational", "Pooled, rational", "Comparison of one, rational"):
        return ()
    often = "round" not in name and "soft" not in name
    return pytest.mark.slow if often or name in ("one round, rational", "two rounds, quantal") else pytest.mark.nightly


@pytest.mark.parametrize("seed", [4, *(pytest.param(n, marks=pytest.mark.nightly) for n in (5, 14, 15))])
@pytest.mark.parametrize("name", [pytest.param(name, marks=cost(name)) for name in CASES])
def test_no_lower_bound_is_under_what_is_attained(name, seed):
    check_lower_bounds(random_game(seed), *CASES[name], np.random.default_rng(seed))


DISASTERS = [0.0, -1e2, -1e6, -1e15, -1e60]


def game_with_a_disaster(seed, bad, K=2):
    """The last action, a copy of another one or random, is worth `bad` to the user in one outcome or in all."""
    rng = np.random.default_rng(seed)
    prior = np.diag(rng.dirichlet(np.full(3, 2.0)))[None]
    u, U = rng.normal(size=(4, 3)), rng.normal(size=(K, 4, 3))
    u[3] = u[seed % 2]  # a copy, or nearly
    if bad:
        u[3, seed % 3] = bad
    if seed % 4 == 0:
        u[3] = bad or -1.0
    return em.Game(prior, u, U)


def replayed(game, schemes, agent, scheme, protocol, user):
    """What the agent gains by `scheme`, or by one close to it: a little full revelation added to it breaks a tie with
    a rival that the user would pick otherwise."""
    K, XB, M = schemes.shape
    width = max(M, scheme.shape[1]) + XB
    profiles = np.zeros((3, K, XB, width + 4))
    profiles[:, :, :, :M] = schemes
    profiles[1:, agent] = 0
    for profile, share in zip(profiles[1:], (0.0, 1e-8), strict=True):
        profile[agent, :, : scheme.shape[1]] = (1 - share) * scheme
        profile[agent, :, scheme.shape[1] : scheme.shape[1] + XB] += share * np.eye(XB)
    with jax.enable_x64(True):
        paid = np.asarray(em.payoffs(game, profiles[..., :12], protocol, user).agents)[:, agent]
    return paid[1:].max() - paid[0]


WITNESSES = [
    *((protocol, "agents", bad) for protocol in (em.Selection(), em.Pooled()) for bad in DISASTERS),
    *((em.Selection(), ties, bad) for ties in ("lowest", "highest", "uniform") for bad in DISASTERS),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", one_in(2, WITNESSES), ids=str)
def test_a_gain_is_attained_by_its_witness(case):
    protocol, ties, bad = case
    user = em.RationalUser(ties)
    for seed in range(6):
        game = game_with_a_disaster(seed, bad)
        schemes = np.random.default_rng(seed).dirichlet(np.full(3, 0.5), (2, 3))
        if seed % 3 == 0:
            schemes[0] = np.eye(3)[[0, 0, 1]]
        certificate = em.certify(game, schemes, protocol, user)
        for i in range(2):
            best = em.best_response(game, schemes, i, protocol, user)
            attained = replayed(game, schemes, i, best.scheme, protocol, user)
            near = 1e-6 * certificate.payoff_range[i]
            assert attained >= certificate.gain_lower[i] - 2 * near
            assert best.value - certificate.agents[i] >= certificate.gain_lower[i] - near
            if isinstance(protocol, em.Selection):  # exact
                assert certificate.gain_upper[i] - certificate.gain_lower[i] <= near


@pytest.mark.parametrize("bad", DISASTERS)
def test_an_agent_who_fears_what_the_user_fears_gains_nothing(bad):
    """Agent 1 has the user's utility and reveals, so it gains nothing; action 2, a disaster to both, once hid that."""
    u = np.array([[0.0, 0], [-0.4, 0.4], [bad - 1, bad - 1]])
    game = em.Game(np.diag([0.5, 0.5])[None], u, np.array([[[0.0, 0], [1, 1], [0, 0]], u]))
    told = em.certify(game, [[[1.0, 0], [1, 0]], [[1, 0], [0, 1]]], em.Selection(), RATIONAL)
    np.testing.assert_allclose(told.gain_lower, 0, atol=1e-8)
    np.testing.assert_allclose(told.gain_upper, 0, atol=1e-7)
    assert told.result == em.Result.CERTIFIED
