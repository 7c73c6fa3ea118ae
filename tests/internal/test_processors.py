"""Jobs side by side: in order, with the caller's settings, and ended together."""

import threading

import jax
import numpy as np
import pytest

from emalign_jax.internal import processors


def test_results_come_in_order_and_settings_are_the_callers():
    def one(n):
        return n, jax.config.jax_enable_x64, threading.current_thread() is threading.main_thread()

    here = jax.config.jax_enable_x64
    with jax.enable_x64(not here):
        found = list(processors.as_done(processors.like_here(one), range(5), 2))
    assert found == [(n, (n, not here, False)) for n in range(5)]
    assert list(processors.as_done(np.negative, [1], 2)) == [(1, -1)]


def test_a_failure_ends_what_runs_beside_it():
    stop, tell = processors.stoppable(None)
    begun = threading.Event()

    def one(n):
        if n == 0:
            begun.wait(10)
            raise ValueError("the first")
        begun.set()
        while True:
            tell("stage", 0, 1)

    with pytest.raises(ValueError, match="the first"):
        list(processors.as_done(one, range(2), 2, stop))
