"""A cache in memory that evicts its least recently used values."""

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class LruCache(Generic[Key, Value]):
    """Values by key, up to a total size; not for use from several threads.

    After a value is added, the least recently used values are evicted until the total size is
    within the limit. The value that was added last is never evicted, even if it exceeds the limit
    alone.
    """

    def __init__(self, *, max_size: int, size_of: Callable[[Value], int] = lambda _: 1) -> None:
        """Creates an empty cache.

        Args:
            max_size: Largest total size of the values, in the units of `size_of`.
            size_of: Returns the size of a value, which must not change while the cache has it; by
                default every value has size 1, so that `max_size` limits their number.
        """
        self._max_size = max_size
        self._size_of = size_of
        self._values: dict[Key, Value] = {}  # the most recently used value is the last
        self._total_size = 0

    def put(self, key: Key, value: Value) -> None:
        """Adds a value, or replaces the value of a key, and evicts others if necessary."""
        self._remove(key)
        self._values[key] = value
        self._total_size += self._size_of(value)
        while self._total_size > self._max_size and len(self._values) > 1:
            self._remove(next(iter(self._values)))

    def get_or_make(self, key: Key, make: Callable[[], Value]) -> Value:
        """Returns the value of a key; calls `make` and adds its result if the cache has none.

        Nothing is added if `make` raises.
        """
        if key in self._values:
            value = self._values[key] = self._values.pop(key)
            return value
        value = make()
        self.put(key, value)
        return value

    def _remove(self, key: Key) -> None:
        if key in self._values:
            self._total_size -= self._size_of(self._values.pop(key))
