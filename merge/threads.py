"""Computes on threads and yields the results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], *, num_threads: int) -> Iterator[R]:
    """Yields the function's results in the order of the items, computed on threads.

    At most `num_threads` results wait to be taken, so memory is bounded. An error is raised when
    the turn of its item comes. torch releases Python's global lock while it computes.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads) as threads:
        try:
            for item in items:
                ahead.append(threads.submit(function, item))
                if len(ahead) > num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
