"""The contract of stores; all implementations pass the tests in `tests/workers/store`.

*Keys.* A key is a relative path whose parts are separated by `/`. No part is empty or starts with
a dot, so no key leaves the root or equals the name of a temporary file.

*Atomicity.* A reader sees an object as a whole: the old version, the new version, or no object. A
write that is interrupted, even by the death of the process, has no effect on `get` and `list`.

*Ordering.* After a write has returned, every later call in every process sees its effect.

*Threads and processes.* One instance may be used by any number of threads. Instances cannot be
sent to other processes, which open the same `url` instead.

*Failures.* Stores retry transient faults themselves, on S3 for `RETRY_TIMEOUT_S`, so callers do
not retry. A write that raises may still have succeeded, but never in part.

    StoreError
    ├── NotFoundError           no object has this key
    ├── StoreNotFoundError      the bucket does not exist
    ├── StoreCredentialsError   credentials are missing, wrong, or lack a permission
    ├── StoreNotWritableError   the directory cannot be read or written
    ├── StoreFullError          the disk is full or a quota is used up
    ├── StoreUnavailableError   no usable answer, after all retries
    ├── StoreUrlError           the URL is not the URL of a store (also a ValueError)
    └── InvalidKeyError         the key would leave the root (also a ValueError)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

RETRY_TIMEOUT_S = 60.0
"""Duration of retries on S3: three times as long as a killed server needs to restart, 20 s."""
PROBES_PREFIX = "probes/"
"""Prefix of the objects that checks of a store write and delete."""


class StoreError(Exception):
    """A store operation failed; the message has the store, the key and what to do."""


class NotFoundError(StoreError):
    """No object has this key."""


class StoreNotFoundError(StoreError):
    """The bucket does not exist."""


class StoreCredentialsError(StoreError):
    """The credentials are missing, are wrong, or do not allow the request."""


class StoreNotWritableError(StoreError):
    """The directory of a local store cannot be read or written by this user."""


class StoreFullError(StoreError):
    """The disk is full or a quota is used up."""


class StoreUnavailableError(StoreError):
    """The store gave no usable answer, after all retries."""


class StoreUrlError(StoreError, ValueError):
    """The URL is not the URL of a store."""


class InvalidKeyError(StoreError, ValueError):
    """The key or prefix would leave the root or be hidden from listings."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An object in a listing."""

    key: str
    """Key of the object."""

    size_bytes: int
    """Length of the content."""

    modified_at_s: float
    """Time of the last write by the store's clock, in seconds since 1970; on S3 whole seconds."""

    etag: str
    """Opaque; changes if an object is replaced by one with other content. On S3 the ETag without
    its quotes, in a directory made from the file's time, inode and size."""


class Store(Protocol):
    """Object storage. The module's docstring has the guarantees that hold for all methods.

    Every method may raise any `StoreError`; *Raises* lists the errors that callers often catch.
    """

    @property
    def url(self) -> str:
        """URL that opens the same store in any process; it contains no credentials."""

    @property
    def num_requests(self) -> int:
        """Number of requests so far: on S3, HTTP requests with all parts and retries."""

    def get(self, key: str) -> bytes:
        """Returns an object's content.

        Raises:
            NotFoundError: No object has this key.
        """

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, and replaces an object with the same key."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object if no object has the key; of concurrent calls exactly one succeeds.

        Concurrent callers must write different contents. If the answer to a successful request is
        lost, the request is repeated and finds an object; the store then compares the contents to
        decide whether this call wrote it.

        Returns:
            True if this call wrote the object; False if the key was taken, and nothing changed.
        """

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file; S3 stores upload large files in parallel parts.

        Raises:
            OSError: The file cannot be read.
        """

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file atomically: to a temporary name, then a rename.

        Raises:
            NotFoundError: No object has this key; the file is unchanged.
            OSError: The file cannot be written.
        """

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys start with a prefix, ordered by key."""

    def expected_etag(self, content: bytes) -> str | None:
        """Returns the ETag of every object with a content, for stores that derive it from that.

        None for other stores. Costs no request. S3 servers that encrypt with keys of their own have
        other ETags, so an object whose ETag differs may still have the content.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; keys without an object are ignored."""

    def remove_unfinished(
        self, prefix: str, *, before_s: float, dry_run: bool = False
    ) -> tuple[Entry, ...]:
        """Deletes the temporary files or parts of interrupted writes, which no listing shows.

        If this deletes the files or parts of a write in progress, that write fails or starts again.
        Therefore `before_s` should lie well in the past.

        Args:
            prefix: Prefix of the keys of the objects that were being written.
            before_s: Leaves files and parts alone that were modified at or after this time, in
                seconds since 1970.
            dry_run: Deletes nothing.

        Returns:
            The deleted files or uploads, ordered by key. On S3, the key is the key of the object.
            In a directory, it is the path of the temporary file, which is not a valid key.
        """

    def local_path(self, key: str) -> Path | None:
        """Returns the local file of an object; None if the store's objects are not local files.

        The file belongs to the store: callers may read and memory-map it, but not write to it.

        Raises:
            NotFoundError: The store's objects are local files, and no object has this key.
        """


def is_key(name: str) -> bool:
    """Returns whether a name is a valid key; objects of other programs may have other names."""
    return name.isprintable() and all(part and not part.startswith(".") for part in name.split("/"))


def checked_key(key: str) -> str:
    """Returns the key.

    Raises:
        InvalidKeyError: A part is empty, starts with a dot or has an unprintable character.
    """
    if is_key(key):
        return key
    raise InvalidKeyError(
        f"{key!r} cannot be a key: a part is empty, starts with a dot or is unprintable"
    )


def checked_prefix(prefix: str) -> str:
    """Returns the prefix; the empty prefix selects all objects.

    Raises:
        InvalidKeyError: No valid key starts with the prefix.
    """
    directory, _, beginning = prefix.rpartition("/")
    if directory or prefix.startswith("/"):
        checked_key(directory)
    if beginning:
        checked_key(beginning)
    return prefix
