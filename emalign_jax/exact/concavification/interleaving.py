"""Many searches side by side: what they ask for in one step is computed together.

A search is a generator. It yields requests (a `NamedTuple` with `size`, `work` and a static `serve`) and is sent the
answers. NumPy's cost a call is then paid once for many small problems. What a search finds depends on no other.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

Found = TypeVar("Found")
Search = Generator[Any, Any, Found]
AT_ONCE = 100_000  # numbers of one array in one go, so that arrays stay in the cache


def alone(search: Search[Found]) -> Found:
    """What one search returns."""
    return side_by_side([search])[0]


def side_by_side(searches: Sequence[Search[Found]]) -> list[Found]:
    """What the searches return, in their order; the first error of one ends all."""
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
    """Requests of one kind and size, up to `AT_ONCE` numbers."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for n, request in asked.items():
        groups.setdefault((type(request), request.size), []).append((n, request))
    batches = []
    for group in groups.values():
        batch, total = [], 0
        for one in group:
            total += one[1].work
            if batch and total > AT_ONCE:
                batches.append(batch)
                batch, total = [], one[1].work
            batch.append(one)
        batches.append(batch)
    return batches
