"""A node's cache of artifact files on its local disk, shared by all worker processes."""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.store.atomic import replacing

CACHE_VARIABLE = "MERGESWEEP_CACHE"
"""Environment variable: where a node keeps files fetched from the store."""
# A path that was handed out may not be open yet; what was used this recently is not evicted.
_GRACE_S = 600.0
_READ_ONLY = 0o444


def cache_root() -> Path:
    """Returns the node's cache directory, shared by all its workers."""
    default = Path(tempfile.gettempdir()) / f"mergesweep-cache-{os.getuid()}"
    return Path(os.environ.get(CACHE_VARIABLE, default))


class NodeCache:
    """Keeps files by the sha256 of their content; a file is whole and never changes.

    Any number of processes and threads use one directory: the first that wants a file gets it, the
    others wait for that. With a limit, the files used longest ago make room for new ones; those
    of the last ten minutes stay, so that the limit can be exceeded by what is in use. A file that
    is open or memory-mapped outlives its eviction.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Touches no file yet.

        Args:
            root: A directory on a local disk; made when it is first needed.
            max_bytes: What all files together may take; None for no limit.
            clock: Seconds since 1970.
        """
        self._root = root
        self._max_bytes = max_bytes
        self._clock = clock

    def get(self, sha256: str, fill: Callable[[Path], None]) -> Path:
        """Returns the read-only file of a digest, filled now if the cache does not have it.

        Args:
            sha256: The digest of the content.
            fill: Writes that content to the path it is given, or raises; checking it is its job.
        """
        path = self._root / sha256[:2] / sha256
        if not self._use(path):
            with self._locked(sha256):
                if not self._use(path):
                    self._fill(path, fill)
        return path

    def _use(self, path: Path) -> bool:
        now_s = self._clock()
        try:
            os.utime(path, (now_s, now_s))
        except FileNotFoundError:
            return False
        return True

    def _fill(self, path: Path, fill: Callable[[Path], None]) -> None:
        with replacing(path) as temporary:
            fill(temporary)
            temporary.chmod(_READ_ONLY)
        self._use(path)
        if self._max_bytes is not None:
            self._evict(self._max_bytes)

    def _evict(self, max_bytes: int) -> None:
        used = sorted((stat.st_mtime, stat.st_size, path) for path, stat in self._files())
        total_bytes = sum(size_bytes for _, size_bytes, _ in used)
        newest_s = self._clock() - _GRACE_S
        for used_at_s, size_bytes, path in used:
            if total_bytes <= max_bytes or used_at_s > newest_s:
                return
            path.unlink(missing_ok=True)
            total_bytes -= size_bytes

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._root.glob("[0-9a-f][0-9a-f]/[0-9a-f]*"):
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue  # another process evicted it

    @contextmanager
    def _locked(self, sha256: str) -> Iterator[None]:
        """Holds the lock of a digest; the system releases it if the process dies.

        Lock files are never removed, as a removed one can still be held. 4096 of them are few, and
        enough for downloads side by side seldom to meet.
        """
        path = self._root / "locks" / sha256[:3]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
