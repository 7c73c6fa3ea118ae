"""Parameters of which most are for the harder run (EMALIGN_NIGHTLY=1)."""

import pytest


def one_in(number, values):
    """All of the values, all but the first of every so many behind the nightly marker."""
    return [pytest.param(value, marks=pytest.mark.nightly if n % number else ()) for n, value in enumerate(values)]
