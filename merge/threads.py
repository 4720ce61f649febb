"""Computes on threads and yields the results in order."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], *, num_threads: int) -> Iterator[R]:
    """Yields the function's results in the order of the items, computed on threads.

    At most `num_threads` results wait to be taken, so memory is bounded. An error is raised when
    the turn of its item comes. torch releases Python's global lock while it computes.

    An interrupt, or a caller that takes no more results, does not wait for the threads, because one
    tensor can take minutes. They are daemons and do not keep the process alive. After the last
    result or an error of the function, no thread computes any more.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    ahead: deque[Future[R]] = deque()
    tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
    threads: list[Thread] = []
    are_awaited = True
    try:
        for item in items:
            if len(threads) < num_threads:  # one for each item at most
                thread = Thread(target=_work, args=(tasks,), daemon=True)
                thread.start()
                threads.append(thread)
            ahead.append(Future())
            tasks.put(partial(_compute, ahead[-1], function, item))
            if len(ahead) > num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        are_awaited = False
        raise
    finally:
        for future in ahead:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        for thread in threads if are_awaited else ():
            thread.join()


def _work(tasks: SimpleQueue[Callable[[], None] | None]) -> None:
    for task in iter(tasks.get, None):
        task()


def _compute(future: Future[R], function: Callable[[T], R], item: T) -> None:
    """Sets a future's result or error, unless the future was cancelled."""
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function(item))
        except BaseException as error:  # noqa: BLE001 raised again where the result is taken
            future.set_exception(error)
