"""Named games from the literature. Each function returns one `Game`; `GAMES` lists them by name.

In all games but `what_to_ask` the agents see the outcome (x_B = y) and the user knows only the prior (XA = 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from emalign_jax.games.game import Game
from emalign_jax.games.labels import Labels
from emalign_jax.internal.arguments import FINITE, SHARE, integer, number

# The prior of `what_to_ask` has 2**bits columns.
MOST_BITS = 16


def _informed(prior, user_utility, agent_utilities, actions: str, outcomes: str, agents: Sequence[str]) -> Game:
    """A game in which the agents see y and the user has no features; labels of actions and outcomes between commas."""
    seen = tuple(outcomes.split(", "))
    labels = Labels(actions=tuple(actions.split(", ")), outcomes=seen, agents=tuple(agents), agent_features=seen)
    prior = np.diag(np.asarray(prior, float))[None]
    return Game(prior, np.asarray(user_utility, float), np.asarray(agent_utilities, float), labels=labels)


def _numbered(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word} {n + 1}" for n in range(count)]


# Actions: acquit, convict. Outcomes: innocent, guilty.
_TRIAL = "acquit, convict", "innocent, guilty"
_JUST = np.eye(2)
_CONVICT = np.array([[0.0, 0.0], [1.0, 1.0]])
_ACQUIT = 1 - _CONVICT


def judge(prior: float = 0.3, prosecutors: int = 1) -> Game:
    """A judge wants the just verdict, prosecutors want conviction.

    With one prosecutor, a rational judge and prior .3 the prosecutor gets .6, the judge .7.

    Args:
        prior: the probability of guilt.
        prosecutors: K, all alike.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> round(em.best_response(game, silent, 0, em.Selection(), em.RationalUser()).value, 6)
        0.6

    Source: Kamenica and Gentzkow, "Bayesian Persuasion", American Economic Review 101(6), 2011, introduction.
    """
    prior, prosecutors = number("prior", prior, *SHARE), integer("prosecutors", prosecutors, 1)
    utilities = np.repeat(_CONVICT[None], prosecutors, 0)
    return _informed([1 - prior, prior], _JUST, utilities, *_TRIAL, _numbered("prosecutor", prosecutors))


def two_prosecutors(prior: float = 0.3) -> Game:
    """Two identical prosecutors: each offering the monopolist's scheme is an equilibrium of Selection.

    Args:
        prior: the probability of guilt.

    Example:
        >>> found = em.stability(em.catalog.two_prosecutors())
        >>> round(float(found.worst), 6), round(float(found.best), 6)
        (0.7, 1.0)

    Source: after Gentzkow and Kamenica, "Competition in Persuasion", Review of Economic Studies 84(1), 2017.
    """
    return judge(prior, prosecutors=2)


def prosecutor_against_defender(prior: float = 0.3) -> Game:
    """One agent always wants conviction, the other acquittal: eps in the sup norm is 1/2, yet all equilibria reveal y.

    Args:
        prior: the probability of guilt.

    Example:
        >>> game = em.catalog.prosecutor_against_defender()
        >>> round(float(em.align(game.user_utility, game.agent_utilities).error), 6)
        0.5
        >>> round(float(em.stability(game).worst), 6)
        1.0

    Source: Gentzkow and Kamenica, "Competition in Persuasion", Review of Economic Studies 84(1), 2017.
    """
    prior = number("prior", prior, *SHARE)
    return _informed([1 - prior, prior], _JUST, [_CONVICT, _ACQUIT], *_TRIAL, ["prosecutor", "defender"])


def biased_advisers(prior: float = 0.3, bias: float = 1.0) -> Game:
    """Both agents want justice, one also conviction, the other also acquittal: u is in the hull up to an offset.

    Args:
        prior: the probability of guilt.
        bias: what the preferred verdict is worth to an agent, whatever the outcome.

    Example:
        >>> game = em.catalog.biased_advisers()
        >>> round(float(em.align(game.user_utility, game.agent_utilities, offset="constant").error), 6)
        0.0

    Source: section 9 of docs/model.md.
    """
    prior, bias = number("prior", prior, *SHARE), number("bias", bias, *FINITE)
    advisers = [_JUST + bias * _CONVICT, _JUST + bias * _ACQUIT]
    return _informed([1 - prior, prior], _JUST, advisers, *_TRIAL, ["for conviction", "for acquittal"])


def investment(return_: float = 0.5) -> Game:
    """A firm invests or not, and the government always wants investment.

    The outcomes bad and good are equally likely. Investing pays the firm -1 or `return_`. The government's best scheme
    gets investment with probability (1 + `return_`) / 2.

    Args:
        `return_`: what investing pays at the good outcome.

    Example:
        >>> game, silent = em.catalog.investment(return_=0.5), em.no_information(1, 2, 2)
        >>> round(em.best_response(game, silent, 0, em.Selection(), em.RationalUser()).value, 6)
        0.75

    Source: Bergemann and Morris, "Information Design: A Unified Perspective", Journal of Economic Literature 57(1),
    2019, section 2.
    """
    return_ = number("return_", return_, *FINITE)
    words = "wait, invest", "bad, good", ["government"]
    return _informed([0.5, 0.5], [[0, 0], [-1, return_]], [[[0, 0], [1, 1]]], *words)


def lobbying(share: float = 0.75, points: int = 5) -> Game:
    """A politician wants policy a = y, a lobbyist a = share * y + (1 - share) * 1, both with quadratic loss.

    Outcomes and policies lie on grids of [0, 1]; the grid of policies is twice as fine. Full disclosure is best for the
    lobbyist if share > 1/2, silence if share < 1/2 (up to the grid).

    Args:
        share: the weight of y in what the lobbyist wants.
        points: Y, the number of outcomes.

    Example:
        >>> em.catalog.lobbying(points=3).names("actions")
        ('0', '0.25', '0.5', '0.75', '1')

    Source: Kamenica and Gentzkow, "Bayesian Persuasion", American Economic Review 101(6), 2011, section V.
    """
    share, points = number("share", share, *FINITE), integer("points", points, 1)
    y = np.linspace(0, 1, points)
    a = np.linspace(0, 1, 2 * points - 1)[:, None]
    policies, outcomes = (", ".join(f"{x:g}" for x in grid.ravel()) for grid in (a, y))
    prior, user, lobbyist = np.full(points, 1 / points), -((a - y) ** 2), -((a - share * y - (1 - share)) ** 2)
    return _informed(prior, user, [lobbyist], policies, outcomes, ["lobbyist"])


def pharma_market(quality: float = 0.4, price: float = 0.5) -> Game:
    """Two firms each test a drug; the user takes neither, the first, or the second.

    Each drug works (worth 1) independently of the other; a firm earns 1 if its drug is taken.

    Args:
        quality: the probability that a drug works.
        price: what taking a drug costs the user.

    Example:
        >>> game = em.catalog.pharma_market()
        >>> game.names("outcomes")
        ('neither works', 'drug 2 works', 'drug 1 works', 'both work')

    Source: after the clinical trials of Gentzkow and Kamenica, "Competition in Persuasion", Review of Economic Studies
    84(1), 2017.
    """
    quality, price = number("quality", quality, *SHARE), number("price", price, *FINITE)
    works = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], float)  # drug, outcome
    prior = np.prod(np.where(works == 1, quality, 1 - quality), axis=0)
    user = np.concatenate([np.zeros((1, 4)), works - price])
    agents = np.zeros((2, 3, 4))
    agents[0, 1] = agents[1, 2] = 1
    words = "neither, drug 1, drug 2", "neither works, drug 2 works, drug 1 works, both work"
    return _informed(prior, user, agents, *words, _numbered("firm", 2))


def few_messages(agents: int = 2) -> Game:
    """Guess one of four outcomes (right +1, wrong -1) or play safe (.5); all agents are fully aligned.

    With one bit each, two agents can reveal the outcome in Pooled, which is worth 1. But that one agent names outcome 0
    and the other outcome 1 is an equilibrium among one-bit schemes too, worth .75: no agent alone can improve on it.
    (Babbling, worth .5, is no equilibrium: naming one outcome pays .625.)

    Args:
        agents: their number K.

    Example:
        >>> game, silent = em.catalog.few_messages(), em.no_information(2, 4, 2)
        >>> float(em.certify(game, silent, em.Pooled(), em.RationalUser()).user)
        0.5

    Source: section 9 of docs/model.md.
    """
    agents = integer("agents", agents, 1)
    user = np.concatenate([2 * np.eye(4) - 1, np.full((1, 4), 0.5)])
    words = "say 0, say 1, say 2, say 3, play safe", "0, 1, 2, 3", _numbered("adviser", agents)
    return _informed(np.full(4, 0.25), user, np.repeat(user[None], agents, 0), *words)


def cautious_advisers(agents: int = 2) -> Game:
    """Guess one of four outcomes (right +3, wrong -1) or play safe (0); agents are more cautious (right 1, wrong -10).

    Babbling is an equilibrium of one round of one bit but not of two rounds (`Conversation(2)` with M = 2), where each
    agent alone can name the outcome and gains 1. Proof: after either value of an informative bit some outcome is more
    likely than 1/4, so the user guesses, and is right with probability at most 1/2: the agents get at most
    1/2 - 10/2 instead of 0. With two bits an agent can name the outcome, which gives user and agents their maximum.

    At the prior the user is indifferent between all actions and must play safe, which is action 0 (ties "agents" or
    "lowest"). Such an example needs a tie.

    Args:
        agents: their number K.

    Example:
        >>> em.catalog.cautious_advisers().names("actions")
        ('play safe', 'say 0', 'say 1', 'say 2', 'say 3')

    Source: section 9 of docs/model.md.
    """
    agents = integer("agents", agents, 1)
    user, adviser = (np.concatenate([np.zeros((1, 4)), guess]) for guess in (4 * np.eye(4) - 1, 11 * np.eye(4) - 10))
    words = "play safe, say 0, say 1, say 2, say 3", "0, 1, 2, 3", _numbered("adviser", agents)
    return _informed(np.full(4, 0.25), user, np.repeat(adviser[None], agents, 0), *words)


def what_to_ask(bits: int = 3, agents: int = 1) -> Game:
    """x_B is `bits` fair bits, and x_A says which of them the user must guess (1 if right); all agents are aligned.

    The first bit is x_B's highest digit. Messages are bits (M = 2). Without replies the best rules of `bits` = 3 are
    worth 3/4, 5/6, 1 in R = 1, 2, 3 rounds: in R rounds R of the bits can be named, but in one round the majority,
    worth 3/4, says more than a single bit, worth 2/3. With one reply for each bit the user can ask for it, and two
    rounds are enough: 3/4, 1, 1. Conversations matter if x_A decides what is worth saying.

    Args:
        bits: the number of bits; XA = bits, XB = 2^bits.
        agents: their number K.

    Example:
        >>> game = em.catalog.what_to_ask(bits=3)
        >>> game.prior.shape, game.names("user_features")
        ((3, 8, 2), ('bit 1', 'bit 2', 'bit 3'))

    Source: section 2.4 of docs/model.md.
    """
    bits, agents = integer("bits", bits, 1, MOST_BITS), integer("agents", agents, 1)
    prior = np.zeros((bits, 2**bits, 2))
    for xa, xb in np.ndindex(bits, 2**bits):
        prior[xa, xb, xb >> (bits - 1 - xa) & 1] = 1 / (bits * 2**bits)
    labels = Labels(
        actions=("say 0", "say 1"),
        user_features=tuple(f"bit {n + 1}" for n in range(bits)),
        agent_features=tuple(f"{xb:0{bits}b}" for xb in range(2**bits)),
    )
    return Game(prior, np.eye(2), np.repeat(np.eye(2)[None], agents, 0), labels=labels)


def informants() -> Game:
    """Wait (0) or go by route a or b (good outcome +1, bad -3, equally likely); agent 0 loathes a, agent 1 loathes b.

    The routes are worth the same to the user; each agent adds 2 to one and takes 2 from the other, so that their mean
    is u: eps = 0. If the user goes by a when agent 0 is the informant and by b when agent 1 is, babbling is an
    equilibrium of Pooled, worth 0 instead of 1/2. Proof: the uninformed user waits, as -1 < 0; an agent that alone
    makes the user go gets E[u] - 2 <= -1 each time. Guarantees need ties that depend on the posterior alone: if the
    user breaks ties evenly or is quantal, each agent is as good as aligned and gains about 1/2 by full revelation; if
    the user always goes by a, agent 1 gains 3/2.

    Example:
        >>> game = em.catalog.informants()
        >>> round(float(em.align(game.user_utility, game.agent_utilities).error), 6)
        0.0

    Source: section 6.4 of docs/model.md.
    """
    user = np.array([[0.0, 0.0], [-3, 1], [-3, 1]])
    bias = np.array([[0.0], [-2], [2]])
    words = "wait, route a, route b", "bad, good", ["loathes a", "loathes b"]
    return _informed([0.5, 0.5], user, [user + bias, user - bias], *words)


def two_users() -> Game:
    """A batch of two games, users 1 and 2 with the same utility u: U_11 = U_22 = u, U_12 = U_21 = -2 u.

    Each agent serves one user and wants the other to do badly; u is 1 for guessing the outcome. If agents commit to a
    scheme for each user (personalised), each reveals the outcome to its own user, and babbling is no equilibrium. With
    one scheme for both (anonymous) an agent gets u - 2 u = -u in all, and babbling is an equilibrium. `several_users`
    merges the two games.

    Example:
        >>> em.several_users(em.catalog.two_users(), anonymous=True).prior.shape  # x_A: which user, y: whose outcome
        (2, 2, 4)

    Source: after the counter-example of Collina et al., arXiv 2602.13451.
    """
    u = np.eye(2)
    words = "say 0, say 1", "0, 1", ["for user 1", "for user 2"]
    first, second = (_informed([0.5, 0.5], u, utilities, *words) for utilities in ([u, -2 * u], [-2 * u, u]))
    return jax.tree.map(lambda *x: np.stack(x), first, second)


# `two_users` is not listed, as it is a batch of games.
GAMES: dict[str, Callable[..., Game]] = {
    f.__name__: f
    for f in (
        judge, two_prosecutors, prosecutor_against_defender, biased_advisers, investment, lobbying, pharma_market,
        few_messages, cautious_advisers, what_to_ask, informants,
    )
}  # fmt: skip
