"""The contract of a store; every implementation passes one and the same suite of tests.

*Keys* are relative paths with `/` between their parts. No part is empty or begins with a dot, so
no key leaves the root and none meets a temporary file.

*Atomicity.* An object is seen whole or not at all, in its old version or in its new one; a write
that was interrupted, by the death of the process too, changes nothing that `get` or `list` shows.

*Ordering.* What a call wrote before it returned, every later call of every process sees.

*Threads and processes.* One instance serves any number of threads. Instances are not sent between
processes: the other process opens `url` again.

*Failures.* Passing faults are tried again inside, on S3 for `PATIENCE_S`; what is raised
is final. A write that raises may still have happened, but never in part.

    StoreError
    ├── NotFoundError           no object has this key
    ├── StoreNotFoundError      the bucket itself does not exist
    ├── StoreCredentialsError   no credentials, wrong ones, or not allowed to do this
    ├── StoreNotWritableError   the directory cannot be read or written
    ├── StoreFullError          no space, or a quota is used up
    ├── StoreUnavailableError   no usable answer, after all retries
    ├── StoreUrlError           a URL that cannot name a store (a ValueError too)
    └── InvalidKeyError         a key that would leave the root (a ValueError too)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# An S3 server that was killed is back after up to 20 s; three times that.
PATIENCE_S = 60.0
PROBES_PREFIX = "probes/"
"""The prefix of the objects that checks of a store write and delete."""


class StoreError(Exception):
    """A store did not do what was asked; the message says which store, which key, what to do."""


class NotFoundError(StoreError):
    """No object has this key."""


class StoreNotFoundError(StoreError):
    """The bucket does not exist."""


class StoreCredentialsError(StoreError):
    """There are no credentials, they are wrong, or they do not allow the request."""


class StoreNotWritableError(StoreError):
    """The directory of a local store cannot be read or written by this user."""


class StoreFullError(StoreError):
    """The disk is full or a quota is used up."""


class StoreUnavailableError(StoreError):
    """The store gave no usable answer, after all retries."""


class StoreUrlError(StoreError, ValueError):
    """The URL cannot name a store."""


class InvalidKeyError(StoreError, ValueError):
    """The key or prefix would leave the root or hide from listings."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a listing."""

    key: str
    """The object's key."""

    size_bytes: int
    """The object's length."""

    modified_at_s: float
    """When it was written, by the store's clock, in seconds since 1970; S3 has whole seconds."""


class Store(Protocol):
    """The whole of what mergesweep asks of storage. See the module's text for what holds always.

    Every method may raise any `StoreError`; *Raises* names what a caller would want to catch.
    """

    @property
    def url(self) -> str:
        """The URL that opens the same store in any process, without credentials in it."""

    @property
    def num_requests(self) -> int:
        """How many requests were made: HTTP requests with every part and retry, or operations."""

    def get(self, key: str) -> bytes:
        """Returns an object's content.

        Raises:
            NotFoundError: No object has this key.
        """

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, in place of one that has the key already."""

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Writes an object unless its key is taken: of any number of racers, one wins.

        Racers write contents that differ: where a winner's answer is lost on the way and the
        request is repeated, the content is what tells whether this call had won.

        Returns:
            True if this call wrote the object; False if the key was taken, which changes nothing.
        """

    def upload(self, key: str, path: Path) -> None:
        """Writes an object from a file, in parallel parts where it is large.

        Raises:
            OSError: The file cannot be read.
        """

    def download(self, key: str, path: Path) -> None:
        """Writes an object's content to a file, beside its final name first.

        Raises:
            NotFoundError: No object has this key; the file is as it was.
            OSError: The file cannot be written.
        """

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys begin with a prefix, ordered by key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; a key that no object has is no error."""

    def remove_unfinished(
        self, prefix: str, *, before_s: float, dry_run: bool = False
    ) -> tuple[Entry, ...]:
        """Removes what interrupted writes left behind, which no listing of objects shows.

        A write that still goes on fails, or begins again, if it is taken for an interrupted one:
        `before_s` is to lie well in the past.

        Args:
            prefix: Of the objects that were being written.
            before_s: Only what was last written to before this time goes, in seconds since 1970.
            dry_run: Remove nothing.

        Returns:
            What was removed, ordered by key. The key is the object's that was being written, or
            that of a temporary file, which begins with a dot and can be used for nothing.
        """

    def local_path(self, key: str) -> Path | None:
        """Returns the file that is the object, or None where no object is a file of this machine.

        The file belongs to the store: it may be read and memory-mapped, never written.

        Raises:
            NotFoundError: Objects are files of this machine, and none has this key.
        """


def is_key(name: str) -> bool:
    """Returns whether a name could be a key; other programs' objects may have names that cannot."""
    return name.isprintable() and all(part and not part.startswith(".") for part in name.split("/"))


def checked_key(key: str) -> str:
    """Returns the key.

    Raises:
        InvalidKeyError: A part is empty, begins with a dot or has a control character.
    """
    if is_key(key):
        return key
    raise InvalidKeyError(
        f"{key!r} cannot be a key: no part may be empty, begin with a dot or be unprintable"
    )


def checked_prefix(prefix: str) -> str:
    """Returns the prefix; the empty one stands for all objects.

    Raises:
        InvalidKeyError: It is no beginning of any key.
    """
    directory, _, beginning = prefix.rpartition("/")
    if directory or prefix.startswith("/"):
        checked_key(directory)
    if beginning:
        checked_key(beginning)
    return prefix
