import errno
import hashlib
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from manual_clock import ManualClock

from workers.artifacts.node_cache import CACHE_VARIABLE, NodeCache, cache_root, own_cache
from workers.store.machine_errors import CacheError, NotPrivateError


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Source:
    """A file's content, with a counter of how often the cache asked for it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sha256 = digest_of(content)
        self.num_fills = 0

    def fill(self, path: Path) -> None:
        """Writes the content."""
        self.num_fills += 1
        path.write_bytes(self.content)


def test_second_get_fills_nothing(tmp_path: Path) -> None:
    """The cache calls `fill` once, and the file is read-only."""
    cache, source = NodeCache(tmp_path), Source(b"weights")
    first = cache.get(source.sha256, source.fill)
    assert cache.get(source.sha256, source.fill) == first
    assert first.read_bytes() == b"weights"
    assert first.stat().st_mode & 0o777 == 0o444
    assert source.num_fills == 1


def test_failed_fill_leaves_nothing(tmp_path: Path) -> None:
    """After an error in `fill` the file is absent, and the next `get` fills it."""

    def fail(path: Path) -> None:
        path.write_bytes(b"wei")
        raise ConnectionError

    cache, source = NodeCache(tmp_path), Source(b"weights")
    with pytest.raises(ConnectionError):
        cache.get(source.sha256, fail)
    assert list((tmp_path / source.sha256[:2]).iterdir()) == []
    assert cache.get(source.sha256, source.fill).read_bytes() == b"weights"


def test_racing_threads_fill_once(tmp_path: Path) -> None:
    """Eight threads that need one file at once cause one download."""
    cache, source, start = NodeCache(tmp_path), Source(b"weights" * 1000), threading.Barrier(8)

    def get(_: int) -> bytes:
        start.wait()
        return cache.get(source.sha256, source.fill).read_bytes()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(get, range(8))) == {source.content}
    assert source.num_fills == 1


def _get_in_process(root: Path, fills: Path) -> None:
    content = b"weights"

    def fill(path: Path) -> None:
        with fills.open("a") as log:
            log.write("x")
        path.write_bytes(content)

    assert NodeCache(root).get(digest_of(content), fill).read_bytes() == content


def test_racing_processes_fill_once(tmp_path: Path) -> None:
    """The lock also works between processes."""
    context = multiprocessing.get_context("spawn")
    arguments = (tmp_path / "cache", tmp_path / "fills")
    processes = [context.Process(target=_get_in_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "fills").read_text() == "x"


def test_least_recently_used_file_is_evicted(tmp_path: Path) -> None:
    """Beyond the limit, the least recently used file is evicted and the others stay."""
    clock = ManualClock(1_700_000_000.0)
    cache = NodeCache(tmp_path, max_bytes=25, clock=clock)
    sources = [Source(letter * 10) for letter in (b"a", b"b", b"c")]
    for source in sources[:2]:
        cache.get(source.sha256, source.fill)
        clock.now_s += 1000
    cache.get(sources[0].sha256, sources[0].fill)
    clock.now_s += 1000
    cache.get(sources[2].sha256, sources[2].fill)
    for source in sources:
        cache.get(source.sha256, source.fill)
    assert [source.num_fills for source in sources] == [1, 2, 1]


def test_files_in_use_may_exceed_the_limit(tmp_path: Path) -> None:
    """A file that was returned in the last ten minutes is not evicted."""
    clock = ManualClock(1_700_000_000.0)
    cache = NodeCache(tmp_path, max_bytes=15, clock=clock)
    paths = []
    for letter in (b"a", b"b", b"c"):
        source = Source(letter * 10)
        paths.append(cache.get(source.sha256, source.fill))
        clock.now_s += 60
    assert all(path.exists() for path in paths)


def test_mapped_file_outlives_its_eviction(tmp_path: Path) -> None:
    """An open file keeps its content after the cache has evicted it."""
    clock = ManualClock(1_700_000_000.0)
    cache = NodeCache(tmp_path, max_bytes=10, clock=clock)
    old, new = Source(b"a" * 10), Source(b"b" * 10)
    path = cache.get(old.sha256, old.fill)
    with path.open("rb") as opened:
        clock.now_s += 1000
        cache.get(new.sha256, new.fill)
        assert not path.exists()
        assert opened.read() == old.content


def test_a_cache_of_another_user_is_refused(tmp_path: Path) -> None:
    """What others may write to, or lead elsewhere, hands over nothing. The variable moves it."""
    source = Source(b"weights")
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o777)
    link.symlink_to(tmp_path)
    for root in (shared, link):
        with pytest.raises(NotPrivateError, match="; set MERGESWEEP_CACHE to a directory of"):
            NodeCache(root).get(source.sha256, source.fill)
    assert source.num_fills == 0


def test_the_directory_around_the_cache_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name can be guessed, so another user may have made it first."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    root = own_cache(cache_root())
    assert [root.stat().st_mode & 0o777, root.parent.stat().st_mode & 0o777] == [0o700] * 2
    root.parent.chmod(0o777)
    with pytest.raises(NotPrivateError, match=f"^{root.parent} can be written by other users"):
        own_cache(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_has_put_into_the_cache_is_not_used(tmp_path: Path) -> None:
    """The directory may have been open before: a file is filled again, a directory is refused."""
    cache, source = NodeCache(tmp_path), Source(b"weights")
    path = cache.get(source.sha256, source.fill)
    path.chmod(0o644)
    path.write_bytes(b"other")
    os.chown(path, 12345, -1)
    assert cache.get(source.sha256, source.fill).read_bytes() == b"weights"
    path.unlink()
    path.symlink_to("/dev/null")
    assert cache.get(source.sha256, source.fill).read_bytes() == b"weights"
    os.chown(path.parent, 12345, -1)
    with pytest.raises(NotPrivateError, match=f"^{path.parent} belongs to user 12345"):
        cache.get(source.sha256, source.fill)


def test_a_full_cache_is_named(tmp_path: Path) -> None:
    """The message has the machine, the directory and the variable."""

    def fill(path: Path) -> None:
        del path
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CacheError, match=f"{tmp_path} of .*: No space left .* MERGESWEEP_CACHE"):
        NodeCache(tmp_path).get(digest_of(b""), fill)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [*tmp_path.glob("locks/*")]


def test_home_in_the_variable_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a shell, `~/cache` would become a folder called `~` in the current one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(CACHE_VARIABLE, "~/cache")
    assert cache_root() == tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, "~nobody-here/cache")
    with pytest.raises(NotPrivateError, match=r"MERGESWEEP_CACHE: .*home of user 'nobody-here'"):
        cache_root()
