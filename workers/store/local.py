"""A store in a directory, on a local disk or on a file system that all machines mount."""

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workers.store.atomic import is_temporary, link_if_absent, replacing, temporary_beside
from workers.store.protocol import (
    Entry,
    NotFoundError,
    StoreError,
    StoreFullError,
    StoreNotWritableError,
    StoreUnavailableError,
    checked_key,
    checked_prefix,
)
from workers.store.scratch import FULL

_COPY_BYTES = 1 << 20
# EEXIST and ENOTDIR: a file has the name of a required directory.
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EOPNOTSUPP}
_ABSENT = {errno.ENOENT, errno.EISDIR}
"""There is no such object; or, when writing, a directory that cannot be made, as below `/proc`."""


class LocalStore:
    """A `Store` whose objects are files with the same relative paths.

    Conditional puts need hard links. On exFAT and on some network mounts, which have none, they
    raise `StoreNotWritableError` and write nothing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = threading.Lock()
        self._num_requests = 0

    @property
    def url(self) -> str:
        """Absolute path of the directory."""
        return str(self._root)

    @property
    def num_requests(self) -> int:
        """Number of operations so far."""
        return self._num_requests

    def get(self, key: str) -> bytes:
        """Returns an object's content."""
        with self._operation(key) as path:
            return path.read_bytes()

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, and replaces an object with the same key."""
        with self._operation(key, writes=True) as path, replacing(path) as temporary:
            temporary.write_bytes(content)

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object if no object has the key; returns whether it did."""
        with self._operation(key, writes=True) as path, temporary_beside(path) as temporary:
            temporary.write_bytes(content)
            return link_if_absent(temporary, path)

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file."""
        # Opened first, so that an unreadable source raises OSError and not StoreError.
        with (
            path.open("rb"),
            self._operation(key, writes=True) as target,
            replacing(target) as temporary,
        ):
            shutil.copyfile(path, temporary)

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file."""
        with self._operation(key) as source:
            opened = source.open("rb")
        with opened, replacing(path) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(opened, copy, _COPY_BYTES)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys start with a prefix, ordered by key."""
        directory, _, _ = checked_prefix(prefix).rpartition("/")
        self._count()
        with self._translated(prefix):
            yield from _walk(self._root / directory, below=directory, prefix=prefix)

    def expected_etag(self, content: bytes) -> None:
        """Returns None, because the ETag says when and where a file was written."""
        del content

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects. Empty directories stay, because a concurrent write may need them."""
        for key in keys:
            with self._operation(key) as path:
                path.unlink(missing_ok=True)

    def remove_unfinished(
        self, prefix: str, *, before_s: float, dry_run: bool = False
    ) -> tuple[Entry, ...]:
        """Deletes temporary files of writers that were killed."""
        directory, _, beginning = checked_prefix(prefix).rpartition("/")
        self._count()
        found = []
        with self._translated(prefix):
            for path in _temporary_files(self._root / directory, beginning=beginning):
                with suppress(FileNotFoundError):  # the writer has just finished
                    entry = _entry(path.stat(), key=path.relative_to(self._root).as_posix())
                    if entry.modified_at_s < before_s:
                        found.append(entry)
                        if not dry_run:
                            path.unlink()
        return tuple(sorted(found, key=lambda entry: entry.key))

    def local_path(self, key: str) -> Path:
        """Returns the file of an object."""
        path = self._root / checked_key(key)
        if not path.is_file():
            raise _not_found(self.url, key=key)
        return path

    @contextmanager
    def _operation(self, key: str, *, writes: bool = False) -> Iterator[Path]:
        path = self._root / checked_key(key)
        self._count()
        with self._translated(key, writes=writes):
            yield path

    @contextmanager
    def _translated(self, key: str, *, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _store_error(error, url=self.url, key=key, writes=writes) from error

    def _count(self) -> None:
        with self._lock:
            self._num_requests += 1


def _walk(directory: Path, *, below: str, prefix: str) -> Iterator[Entry]:
    """Yields entries in the order of their keys; a directory sorts like its name with a slash."""
    try:
        with os.scandir(directory) as entries:
            found = [(_sort_name(e), e) for e in entries if not e.name.startswith(".")]
    except FileNotFoundError:
        return
    for name, entry in sorted(found, key=lambda pair: pair[0]):
        key = f"{below}/{name}" if below else name
        if name.endswith("/"):
            # The directory is below the prefix, or the prefix is below the directory.
            if key.startswith(prefix) or prefix.startswith(key):
                yield from _walk(Path(entry.path), below=key.rstrip("/"), prefix=prefix)
        elif key.startswith(prefix):
            try:
                yield _entry(entry.stat(), key=key)
            except FileNotFoundError:
                continue  # it was deleted after the directory was read


def _temporary_files(directory: Path, *, beginning: str) -> Iterator[Path]:
    """Yields the temporary files below those children of a directory whose names begin so."""
    for folder, children, names in os.walk(directory):
        if beginning and Path(folder) == directory:
            children[:] = [child for child in children if child.startswith(beginning)]
            continue
        yield from (Path(folder, name) for name in names if is_temporary(name))


def _entry(found: os.stat_result, *, key: str) -> Entry:
    etag = f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"
    return Entry(key=key, size_bytes=found.st_size, modified_at_s=found.st_mtime, etag=etag)


def _sort_name(entry: os.DirEntry[str]) -> str:
    return f"{entry.name}/" if entry.is_dir() else entry.name


def _store_error(error: OSError, *, url: str, key: str, writes: bool) -> StoreError:
    at = f"store {url}, key {key!r}: {error.strerror}"
    if error.errno in _ABSENT and not writes:
        return _not_found(url, key=key)
    if error.errno in FULL:
        return StoreFullError(f"{at}; free some space, then run the same command again")
    if error.errno in _REFUSED | _ABSENT:
        return StoreNotWritableError(
            f"{at} ({error.filename}); choose a directory that this user may write to, on a file "
            "system with hard links"
        )
    return StoreUnavailableError(f"{at}; check the disk or mount, then run the same command again")


def _not_found(url: str, *, key: str) -> NotFoundError:
    return NotFoundError(f"store {url} has no object {key!r}")
