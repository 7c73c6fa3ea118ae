"""What a game is worth to the user as its grid of outcomes gets finer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact import stability, worst_case
from emalign_jax.games.game import Game
from emalign_jax.internal.arguments import integer, shown
from emalign_jax.protocols import Selection
from emalign_jax.users import RationalUser

if TYPE_CHECKING:
    import pandas as pd


def values_against_size(build: Callable[[int], Game], sizes: Iterable[int]) -> pd.DataFrame:
    """The user's values in Selection with a rational user, exact, for games of several sizes.

    Choose the smallest size from which on the values no longer change by what matters to you.

    Args:
        build: a function that makes the game of N outcomes, such as `lambda N: em.game_from_functions(...,
            outcomes=N)`.
        sizes: the numbers N, integers >= 1.

    Returns:
        A pandas table with a row a size: size, no_information, full_information, best_monopolist (of the agents
        alone), worst_equilibrium and best_equilibrium (for one agent what it leaves the user alone), and guarantee, the
        sharp lower bound of `em.worst_case`; all in the unit of u. `table.plot(x="size")` draws it.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> table = em.values_against_size(lambda N: em.catalog.lobbying(points=N), [3, 5])
        >>> table["no_information"].round(4).tolist()
        [-0.1667, -0.125]

    Source: sections 6.5 and 8.3 of docs/model.md.
    """
    import pandas as pd

    rows = []
    for size in sizes:
        game = build(integer("sizes", size, 1))
        if not isinstance(game, Game) or game.batch_shape:
            raise ValueError(f"build: expected a function that gives one Game, got {shown(game)} for {size}")
        found, alone = stability(game), monopoly(game, Selection(), RationalUser()).user
        best = alone.max(-1)
        several = game.agents > 1
        rows.append(
            {
                "size": size,
                "no_information": found.no_information,
                "full_information": found.full_information,
                "best_monopolist": best,
                "worst_equilibrium": found.worst if several else best,
                "best_equilibrium": found.best if several else best,
                "guarantee": worst_case(game),
            }
        )
    if not rows:
        raise ValueError("sizes: expected at least one")
    return pd.DataFrame(rows).astype(dict.fromkeys(list(rows[0])[1:], float))
