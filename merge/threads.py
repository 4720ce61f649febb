"""Work on several tensors at once, with results in the order of the tensors."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], *, num_threads: int) -> Iterator[R]:
    """Yields the function's results in the items' order, computed on threads.

    At most `num_threads` results are computed ahead of the one that is taken, so that what waits is
    bounded. An error is raised in its turn. torch lets other threads run while it computes.
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
