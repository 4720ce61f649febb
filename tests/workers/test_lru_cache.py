from collections.abc import Callable

import pytest

from workers.lru_cache import LruCache


class Maker:
    """Makes values that equal their keys, and records the keys it was called for."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, key: str) -> Callable[[], str]:
        """Returns a function that makes the value of a key."""

        def make() -> str:
            self.made.append(key)
            return key

        return make


def test_value_is_made_once() -> None:
    """The second call returns the same value from the cache."""
    cache, maker = LruCache[str, str](max_size=2), Maker()
    assert cache.get_or_make("a", maker("a")) == cache.get_or_make("a", maker("a")) == "a"
    assert maker.made == ["a"]


def test_least_recently_used_value_is_evicted() -> None:
    """Reading a value counts as a use, so the other value is evicted."""
    cache, maker = LruCache[str, str](max_size=2), Maker()
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get_or_make(key, maker(key))
    assert maker.made == ["a", "b", "c", "b"]


def test_limit_is_on_the_total_size() -> None:
    """A large value evicts as many small ones as necessary, oldest first."""
    cache, maker = LruCache[str, str](max_size=6, size_of=len), Maker()
    for key in ("aa", "bb", "cc"):
        cache.get_or_make(key, maker(key))
    cache.get_or_make("dddd", maker("dddd"))
    cache.get_or_make("cc", maker("cc"))
    assert maker.made == ["aa", "bb", "cc", "dddd"]
    cache.get_or_make("aa", maker("aa"))
    assert maker.made == ["aa", "bb", "cc", "dddd", "aa"]


def test_newest_value_stays_even_if_it_exceeds_the_limit() -> None:
    """A value larger than the limit evicts all others, and is evicted by the next one."""
    cache, maker = LruCache[str, str](max_size=2, size_of=len), Maker()
    for key in ("a", "bbb", "bbb", "a", "bbb"):
        cache.get_or_make(key, maker(key))
    assert maker.made == ["a", "bbb", "a", "bbb"]


def test_replaced_value_no_longer_counts() -> None:
    """Only the new value's size counts after a second `put` of the same key."""
    cache, maker = LruCache[str, str](max_size=4, size_of=len), Maker()
    cache.put("a", "xxx")
    cache.put("a", "x")
    cache.put("b", "yyy")
    assert cache.get_or_make("a", maker("a")) == "x"
    assert cache.get_or_make("b", maker("b")) == "yyy"
    assert maker.made == []


def test_failed_make_adds_nothing() -> None:
    """After an error, the next call makes the value."""

    def fail() -> str:
        raise LookupError

    cache, maker = LruCache[str, str](max_size=2), Maker()
    with pytest.raises(LookupError):
        cache.get_or_make("a", fail)
    assert cache.get_or_make("a", maker("a")) == "a"
