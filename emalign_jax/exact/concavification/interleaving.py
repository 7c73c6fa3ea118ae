"""Many searches side by side: the requests of all searches in one step are computed together.

A search is a generator. It yields requests (a `NamedTuple` with `size`, `work` and a static method `serve`) and is sent
the answers. NumPy's overhead of a call is then incurred once for many small problems. The result of a search does not
depend on the others.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

Found = TypeVar("Found")
Search = Generator[Any, Any, Found]
# The largest number of numbers in the arrays of one call, so that they stay in the cache.
NUMBERS_AT_ONCE = 100_000


def alone(search: Search[Found]) -> Found:
    """The result of one search."""
    return side_by_side([search])[0]


def side_by_side(searches: Sequence[Search[Found]]) -> list[Found]:
    """The results of the searches, in their order. An error in one of them is raised."""
    found: dict[int, Found] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
    while answers:
        asked = {}
        for n, answer in answers.items():
            try:
                asked[n] = searches[n].send(answer)
            except StopIteration as end:
                found[n] = end.value
        answers = {}
        for batch in _batches(asked):
            replies = batch[0][1].serve([request for _, request in batch])
            answers.update((n, reply) for (n, _), reply in zip(batch, replies, strict=True))
        answers = dict(sorted(answers.items()))
    return [found[n] for n in range(len(searches))]


def _batches(asked: dict[int, Any]) -> list[list[tuple[int, Any]]]:
    """The requests grouped by kind and size, each group of up to `NUMBERS_AT_ONCE` numbers."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for n, request in asked.items():
        groups.setdefault((type(request), request.size), []).append((n, request))
    batches = []
    for group in groups.values():
        batch, total = [], 0
        for one in group:
            total += one[1].work
            if batch and total > NUMBERS_AT_ONCE:
                batches.append(batch)
                batch, total = [], one[1].work
            batch.append(one)
        batches.append(batch)
    return batches
