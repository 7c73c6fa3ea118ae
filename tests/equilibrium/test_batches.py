"""However games are cut into batches, ordered or spread over devices, the result of each is the same."""

import jax
import numpy as np
import optax
import pytest
from support.commands import child

import emalign_jax as em
from emalign_jax.exact.checks import selection_rational
from emalign_jax.exact.obedience import frontier
from emalign_jax.lp import choice


@pytest.mark.slow
def test_games_and_starts_are_those_of_the_whole_batch():
    key, sizes = jax.random.key(3), {"agents": 2, "states": 3, "information_worth": 0.1}
    whole, part = em.random_games(key, 600, **sizes), em.random_games(key, 40, first=530, **sizes)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        np.testing.assert_array_equal(a[530:570], b)
    arguments = {"key": key, "verify": False}
    solver = em.GradientPlay(steps=100)
    all_of_them = em.solve(whole, em.Pooled(), em.QuantalUser(20.0), solver, **arguments)
    some = em.solve(part, em.Pooled(), em.QuantalUser(20.0), solver, first=530, **arguments)
    np.testing.assert_array_equal(all_of_them.schemes[530:570], some.schemes)


@pytest.mark.slow
def test_the_number_of_games_compiles_nothing_anew():
    traced = []

    def update(gradient, state, params=None):
        traced.append(1)
        return gradient, state

    solver = em.GradientPlay(optimizer=optax.GradientTransformation(lambda p: optax.EmptyState(), update), steps=100)
    games = em.random_games(jax.random.key(0), 700, agents=1, states=2, actions=2)
    counts = []
    for many in (3, 40, 700):
        em.solve(games[:many], em.Pooled(), em.QuantalUser(5.0), solver, key=jax.random.key(0), verify=False)
        counts.append(len(traced))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


DEVICES = """
import os, threading
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, numpy as np
import emalign_jax as em
from emalign_jax.internal import memory
from emalign_jax.play import gradient_play, tiles
games = em.random_games(jax.random.key(0), 200, agents=1, states=2, actions=2)
tiles.CACHED_CELLS = 16 * em.Pooled().cells(games, 2)  # tiles of 16: 13 of them
def play(**given):
    solver = em.GradientPlay(steps=200, chunk=50)
    return em.solve(games, em.Pooled(), em.QuantalUser(20.0), solver, key=jax.random.key(0), verify=False).schemes
advance, take = gradient_play.advance, tiles.Queue.take
def spy_advance(solver, game, *rest):
    out = advance(solver, game, *rest)
    (device,) = out[1].schemes.devices()
    used.add(device.id)
    if device.id == stuck:  # until the others have taken all that is left
        assert empty.wait(100), taken
    return out
def spy_take(queue, count):
    out, device = take(queue, count), jax.config.jax_default_device.id
    first = device not in taken
    taken[device] = taken.get(device, 0) + len(out)
    if first:
        started.wait(100)  # no device takes a second tile before each has one
    if not len(out):
        empty.set()
    return out
gradient_play.advance, tiles.Queue.take = spy_advance, spy_take
def start(slow):
    global used, taken, empty, started, stuck
    used, taken, empty, started, stuck = set(), {}, threading.Event(), threading.Barrier(8), slow
    return play()
eight = start(None)
assert used == set(range(8)), used
assert sum(taken.values()) == 200, taken
again = start(3)
assert taken[3] == 16, taken
np.testing.assert_array_equal(again, eight)
tiles.Queue.take, devices = take, jax.local_devices()
jax.local_devices = lambda *a, **k: devices[:1]
used.clear()
stuck = None
np.testing.assert_array_equal(play(), eight)
assert used == {0}
print("same")
"""


@pytest.mark.slow
def test_eight_devices_share_the_tiles_and_a_slow_one_holds_up_no_other():
    assert child(DEVICES).endswith("same\n")


@pytest.fixture
def few(monkeypatch):
    """Five games count as many, for which LPs are solved together."""
    monkeypatch.setattr(frontier, "FEWEST", 5)
    monkeypatch.setattr(choice, "FEWEST_GUARANTEES", 5)
    monkeypatch.setattr(selection_rational.SelectionRational, "games_at_once", 5)


@pytest.mark.slow
def test_a_game_has_one_result_in_any_block_and_order(few):
    """Few games once had other LPs than many, which moved gains, guarantees and schemes."""
    games, setting = em.random_games(0, 7, agents=2, states=3, actions=3), (em.Selection(), em.RationalUser())
    whole, worst = em.solve(games, *setting, key=0), em.stability(games)
    turned = em.certify(games[::-1], whole.schemes[::-1], *setting)
    names = "user", "gain_lower", "gain_upper", "guarantee", "theorem"
    again = em.certify(games, whole, *setting)
    for name in names:
        np.testing.assert_array_equal(getattr(turned, name)[::-1], getattr(again, name))
    for at in (slice(0, 2), slice(5, 7)):
        part = em.solve(games[at], *setting, key=0, first=at.start, of=7)
        np.testing.assert_array_equal(part.schemes, whole.schemes[at])
        for name in names:
            np.testing.assert_array_equal(getattr(part.certificate, name), getattr(whole.certificate, name)[at])
        np.testing.assert_array_equal(em.stability(games[at], of=7).worst, worst.worst[at])
