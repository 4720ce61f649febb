"""A cache of artifact files on a node's local disk, shared by all worker processes of the node."""

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eval.user_paths import NoHomeError, expanded
from workers.store.atomic import replacing
from workers.store.machine_errors import CacheError, NotPrivateError
from workers.store.private_directory import private_directory, user_directory_path
from workers.store.scratch import FULL

CACHE_VARIABLE = "MERGESWEEP_CACHE"
"""Environment variable with the directory of the node's cache."""
# A worker may not have opened a path yet that it has just received, so files stay this long.
_GRACE_S = 600.0
_READ_ONLY = 0o444
_UNUSABLE = FULL | {errno.EACCES, errno.EPERM, errno.EROFS}
_REMEDY = f"set {CACHE_VARIABLE} to a directory of your own, on a disk of this machine"


def cache_root() -> Path:
    """Returns the name of the node's cache, which all workers of this user share.

    Raises:
        NotPrivateError: The variable begins with a home that this machine does not know.
    """
    written = os.environ.get(CACHE_VARIABLE)
    if not written:
        return user_directory_path() / "cache"
    try:
        return expanded(written)  # no shell did it in a container's or service's settings
    except NoHomeError as error:
        raise NotPrivateError(f"{CACHE_VARIABLE}: {error}") from error


def own_cache(root: Path) -> Path:
    """Returns the directory of a cache, once it is known that no other user can put files there.

    Raises:
        NotPrivateError: The directory, or the user's directory around it, is not this user's own.
    """
    if root.parent == user_directory_path():
        private_directory(root.parent, remedy=_REMEDY)
    return private_directory(root, remedy=_REMEDY)


class NodeCache:
    """Files by the sha256 of their content; a file is complete and never changes.

    A file is verified when it is written, and later taken by its name. So the directory, and what
    is in it, must be this user's own: another user of the machine could hand over other weights.

    Any number of processes and threads may use one directory. The first that needs a file downloads
    it, and the others wait for the download. If there is a size limit, a new file evicts the least
    recently used files. Files used in the last ten minutes are never evicted, so the files in use
    may exceed the limit. A file that is open or memory-mapped remains readable after its eviction.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes the directory, without touching it.

        Args:
            root: A directory on a local disk; created and checked when the first file is needed.
            max_bytes: Largest total size of the files; None for no limit.
            clock: Returns the seconds since 1970.
        """
        self._root = root
        self._is_own = False
        self._max_bytes = max_bytes
        self._clock = clock

    def get(self, sha256: str, fill: Callable[[Path], None]) -> Path:
        """Returns the read-only file with a digest; calls `fill` if the cache does not have it.

        Args:
            sha256: Digest of the content.
            fill: Writes the content to the path that it receives and verifies it, or raises.

        Raises:
            NotPrivateError: Another user could have put files into the cache.
            CacheError: The cache cannot be written, or its disk is full.
        """
        if not self._is_own:
            own_cache(self._root)
            self._is_own = True
        path = self._root / sha256[:2] / sha256
        try:
            if not self._mark_used(path):
                with self._locked(sha256):
                    if not self._mark_used(path):
                        self._add(path, fill)
        except OSError as error:
            if error.errno in _UNUSABLE:
                raise CacheError(
                    f"the node's cache {self._root} of {socket.gethostname()} takes no more files: "
                    f"{error.strerror}; free some space there, or {_REMEDY}"
                ) from error
            raise
        return path

    def _mark_used(self, path: Path) -> bool:
        """Sets the time of the last use; returns False if the cache has no such file of its own."""
        now_s = self._clock()
        try:
            if not (_is_own(path.parent) and _is_own(path)):
                return False
            os.utime(path, (now_s, now_s))
        except FileNotFoundError:
            return False
        return True

    def _add(self, path: Path, fill: Callable[[Path], None]) -> None:
        private_directory(path.parent, remedy=_REMEDY)
        with replacing(path) as temporary:
            fill(temporary)
            temporary.chmod(_READ_ONLY)
        self._mark_used(path)
        if self._max_bytes is not None:
            self._evict(self._max_bytes)

    def _evict(self, max_bytes: int) -> None:
        by_last_use = sorted((stat.st_mtime, stat.st_size, path) for path, stat in self._files())
        total_bytes = sum(size_bytes for _, size_bytes, _ in by_last_use)
        grace_began_s = self._clock() - _GRACE_S
        for used_at_s, size_bytes, path in by_last_use:
            if total_bytes <= max_bytes or used_at_s > grace_began_s:
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
        """Holds the lock of a digest; the operating system releases it if the process dies.

        Lock files are never deleted, because another process may hold the lock of a deleted file.
        There are 4096, so that parallel downloads rarely share a lock.
        """
        path = self._root / "locks" / sha256[:3]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _is_own(path: Path) -> bool:
    found = path.lstat()
    return found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode)
