"""How often the host waits for the device, and how many arrays it sends there. A change that adds one fails."""

import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest
from support.commands import child

import emalign_jax as em
from emalign_jax.internal.transfers import counted, fetch, send
from emalign_jax.internal.xla import jit


def test_what_is_counted():
    @jit
    def doubled(x):
        return 2 * x

    with counted() as traffic:
        held = send({"x": np.ones(4, np.float32), "y": 1})
        found = fetch([doubled(held["x"]), doubled(np.ones(2, np.float32)), np.ones(3)])
        fetch(np.ones(3))  # is here already
    assert all(isinstance(x, np.ndarray) for x in found)
    assert traffic.programs == {"doubled": 2}
    assert (traffic.sent, traffic.sent_bytes) == (2, 24)
    assert (traffic.trips, traffic.fetched_bytes) == (1, 24)
    with counted() as traffic:
        fetch((jnp.ones(2), jnp.ones(2)))
    fetch(jnp.ones(2))
    assert traffic.trips == 1


@pytest.mark.slow
def test_a_chunk_of_play_is_one_round_trip_and_sends_one_array(monkeypatch):
    games, seen = em.random_games(0, 8, agents=2, states=2, actions=2), []
    for chunks in (2, 3):
        solver = em.GradientPlay(steps=2 * chunks, chunk=2)
        with counted() as traffic:
            em.solve(games, em.Selection(), em.RationalUser(), solver, key=0, verify=False)
        seen.append(traffic)
    assert [traffic.programs["advance"] for traffic in seen] == [2, 3]
    assert seen[1].trips - seen[0].trips == 1
    assert seen[1].sent - seen[0].sent == 1  # how many steps each game has taken
    assert seen[0].trips == 2 + 2  # and the games, and the random starts


# The blocks of an accelerator, whatever runs them; in a process of its own, because programs are kept.
ACCELERATED = """
import json
import jax
import numpy as np
jax.default_backend = lambda: "cuda"
import emalign_jax as em
from emalign_jax.internal.transfers import counted

unseen = []
asarray = np.asarray
np.asarray = lambda x, *a, **k: (unseen.append(type(x)) if isinstance(x, jax.Array) else None, asarray(x, *a, **k))[1]
with counted() as traffic:
    {}
print(json.dumps(dict(programs=traffic.programs, trips=traffic.trips, sent=traffic.sent, unseen=len(unseen))))
"""


def accelerated(code):
    found = json.loads(child(ACCELERATED.format(code.replace("\n", "\n    "))).splitlines()[-1])
    return found | {"programs": collections.Counter(found["programs"])}


@pytest.mark.slow
@pytest.mark.host_only
def test_a_block_of_512_games_of_selection():
    """One round trip a chunk of play and a call of the simplex; one call for all games' frontiers, and so on."""
    found = accelerated(
        "games = jax.device_get(em.random_games(0, 512, agents=5, information_worth=0))\n"
        "em.solve(games, em.Selection(), em.RationalUser(), key=1, start='random')"
    )
    assert found["unseen"] == 0
    programs = found["programs"]
    assert programs["solve"] <= 8  # 6 when this was written
    assert found["trips"] <= programs["solve"] + programs["advance"] + 3  # games: draws and check; starts
    assert found["sent"] <= 5 * programs["solve"] + programs["advance"] + 10 * programs["begin"]


@pytest.mark.slow
@pytest.mark.host_only
def test_a_round_of_belief_lps():
    """In every round one round trip for the master LPs and one for the search of beliefs; one for a block of cells."""
    found = accelerated(
        "games = jax.device_get(em.random_games(0, 64, agents=2, agent_features=3, actions=3, information_worth=0))\n"
        "schemes = np.random.default_rng(0).dirichlet(np.ones(3), (64, 2, 3))\n"
        "em.certify(games, schemes, em.Pooled(), em.QuantalUser(20.0), tolerance=1e-3)"
    )
    assert found["unseen"] == 0
    programs = found["programs"]
    searches = programs["_moved"] // 2  # Newton steps
    assert programs["solve"] <= 60
    assert found["trips"] <= programs["solve"] + searches + programs["payoffs"] + programs["_division"] + 2
    # Eight arrays a search, since a reduced game has four: before users who misread beliefs it had three.
    assert found["sent"] <= 5 * programs["solve"] + 8 * (searches + programs["payoffs"] + programs["_division"])
