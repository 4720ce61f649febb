"""Shards of images whose preparation goes on: what one that is started again need not decode.

A shard is one object below `in-flight/<data id>/`; its key says its split, its number and the
sha256 of its content, and the content says whose it is. A reader takes what is right in all of it,
so that a torn, damaged or foreign object costs time and never a result. Two workers on one task may
both write: equal shards have equal keys. Losing all of them costs the time since the start.
"""

import hashlib
import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.images.shards import SplitFormatError, open_shard, shard_name
from workers.artifacts.layout import Layout
from workers.store.protocol import NotFoundError, Store, StoreError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedShard:
    """What a shard must be."""

    split: str
    number: int
    """Counted from 0 in its split."""
    shape: tuple[int, ...]
    """Of its images: (num, height, width, channels)."""
    labels: npt.NDArray[np.int64]
    """(num,)."""

    @property
    def name(self) -> str:
        """The name of its file in the artifact."""
        return shard_name(self.split, self.number)

    def about(self, data_id: str) -> dict[str, str]:
        """Returns what its file says of itself."""
        return {"data": data_id, "split": self.split, "shard": str(self.number)}


class ShardsInFlight:
    """The finished shards of one task's images, in a store."""

    def __init__(self, store: Store, *, data_id: str) -> None:
        """Asks nothing of the store yet."""
        self._store = store
        self._data_id = data_id
        self._listed: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self._may_exist = False

    def look(self) -> None:
        """Lists what is there, one request.

        Raises:
            StoreError: The store cannot be read; to begin anew would lose the time of all shards.
        """
        keys = [entry.key for entry in self._store.list(Layout.in_flight(self._data_id))]
        listed = defaultdict(list)
        for key in keys:
            if parts := Layout.parse_shard_key(key):
                listed[parts.split, parts.number].append((key, parts.sha256))
        self._listed = dict(listed)
        self._may_exist = bool(keys)

    def find(self, expected: ExpectedShard, *, scratch: Path) -> Path | None:
        """Returns a local file of a shard that is there and right; None if there is none.

        Args:
            expected: The shard.
            scratch: Where it is put if the store is not on this machine.

        Raises:
            StoreError: The store fails. A shard that has vanished is passed over.
            OSError: This machine has no room for the file.
        """
        for key, sha256 in self._listed.get((expected.split, expected.number), []):
            try:
                path = self._local(key, scratch / expected.name)
                self._check(path, sha256=sha256, expected=expected)
            except (NotFoundError, FileNotFoundError):
                _log.info("shard %s has just been removed", key)
            except SplitFormatError as error:
                _log.warning("shard %s of %s is refused: %s", key, self._store.url, error)
            else:
                return path
        return None

    def keep(self, expected: ExpectedShard, path: Path) -> Path:
        """Writes a shard to the store and returns where it lies on this machine from now on.

        The file may move into the store, if that is a directory. A store that fails is logged and
        no error: the preparation can do without.
        """
        self._may_exist = True
        key = Layout.shard(
            self._data_id, split=expected.split, number=expected.number, sha256=_sha256(path)
        )
        try:
            self._store.upload(key, path)
            own_file = self._store.local_path(key)
        except StoreError as error:
            _log.warning("images %s go on without shard %s: %s", self._data_id, path.name, error)
            return path
        if own_file is None:
            return path
        path.unlink()
        return own_file

    def remove(self) -> None:
        """Deletes all of them; asks nothing if none was ever seen or written.

        What a failing store keeps is logged; the study's garbage collection takes it.
        """
        if not self._may_exist:
            return
        try:
            prefix = Layout.in_flight(self._data_id)
            self._store.delete([entry.key for entry in self._store.list(prefix)])
        except StoreError as error:
            _log.warning("the shards of images %s are left: %s", self._data_id, error)

    def _local(self, key: str, path: Path) -> Path:
        own_file = self._store.local_path(key)
        if own_file is None:
            self._store.download(key, path)
        return own_file or path

    def _check(self, path: Path, *, sha256: str, expected: ExpectedShard) -> None:
        if (found := _sha256(path)) != sha256:
            raise SplitFormatError(f"its content has sha256 {found}")
        shard = open_shard(path)
        if dict(shard.about) != expected.about(self._data_id):
            raise SplitFormatError(f"it is {dict(shard.about)}")
        if shard.images.shape != expected.shape:
            raise SplitFormatError(f"its images are {shard.images.shape}, not {expected.shape}")
        if not np.array_equal(shard.labels, expected.labels):
            raise SplitFormatError("its labels are others")


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
