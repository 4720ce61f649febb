"""Keeps finished shards of an unfinished preparation in the store.

A preparation that is started again uses them instead of decoding their images a second time.

Each shard is one object below `in-flight/<data id>/`. Its key contains the split, the shard's
number and the sha256 of the content. The content names the data id, the split and the number. A
reader checks all of these, so a torn, damaged or foreign object costs time but never changes a
result. Two workers on one task may both write, because equal shards have equal keys. Without any
of these objects, a preparation starts from the beginning.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eval.digests import sha256_of_file
from eval.images.shards import SplitFormatError, open_shard, shard_name
from workers.artifacts.layout import Layout
from workers.store.protocol import NotFoundError, Store, StoreError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedShard:
    """The properties that a shard must have to be used."""

    split: str
    number: int
    """Position among the shards of its split, from 0."""
    shape: tuple[int, ...]
    """Shape of the images: (num, height, width, channels)."""
    labels: npt.NDArray[np.int64]
    """(num,)."""

    @property
    def name(self) -> str:
        """The name of the shard's file in the artifact."""
        return shard_name(self.split, self.number)

    def about(self, data_id: str) -> dict[str, str]:
        """Returns the description that the shard's file contains."""
        return {"data": data_id, "split": self.split, "shard": str(self.number)}


class ShardsInFlight:
    """The finished shards of one task's images in a store, before they are committed."""

    def __init__(self, store: Store, *, data_id: str) -> None:
        self._store = store
        self._data_id = data_id
        self._listed: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self._may_exist = False

    def refresh(self) -> None:
        """Lists the shards in the store; one request.

        Raises:
            StoreError: The store cannot be read. The error is not ignored: starting from the
                beginning would waste the time that all finished shards took.
        """
        keys = [entry.key for entry in self._store.list(Layout.in_flight(self._data_id))]
        listed = defaultdict(list)
        for key in keys:
            if parts := Layout.parse_shard_key(key):
                listed[parts.split, parts.number].append((key, parts.sha256))
        self._listed = dict(listed)
        self._may_exist = bool(keys)

    def find(self, expected: ExpectedShard, *, scratch: Path) -> Path | None:
        """Returns a local file with an expected shard, or None if the store has no valid one.

        Args:
            expected: The shard.
            scratch: Folder for the download if the store is on another machine.

        Raises:
            StoreError: The store fails. A shard that has vanished is skipped.
            OSError: This machine's disk is full.
        """
        for key, sha256 in self._listed.get((expected.split, expected.number), []):
            try:
                path = self._local(key, scratch / expected.name)
                self._check(path, sha256=sha256, expected=expected)
            except (NotFoundError, FileNotFoundError):
                _log.info("shard %s was removed after it was listed", key)
            except SplitFormatError as error:
                _log.warning("shard %s of %s is refused: %s", key, self._store.url, error)
            else:
                return path
        return None

    def keep(self, expected: ExpectedShard, path: Path) -> Path:
        """Uploads a shard and returns the path where it now lies on this machine.

        If the store is a local directory, the file is moved into the store. A store error is
        logged and not raised: the preparation can continue without the uploaded shard.
        """
        self._may_exist = True
        key = Layout.shard(
            self._data_id, split=expected.split, number=expected.number, sha256=sha256_of_file(path)
        )
        try:
            self._store.upload(key, path)
            own_file = self._store.local_path(key)
        except StoreError as error:
            _log.warning(
                "shard %s of images %s could not be kept in the store; the preparation continues: "
                "%s",
                path.name,
                self._data_id,
                error,
            )
            return path
        if own_file is None:
            return path
        path.unlink()
        return own_file

    def remove(self) -> None:
        """Deletes the images' shards in flight; no request if none was ever seen or written.

        A store error is logged and not raised: `mergesweep gc` deletes the remaining shards.
        """
        if not self._may_exist:
            return
        try:
            prefix = Layout.in_flight(self._data_id)
            self._store.delete([entry.key for entry in self._store.list(prefix)])
        except StoreError as error:
            _log.warning(
                "shards of images %s could not be deleted; `mergesweep gc` deletes them: %s",
                self._data_id,
                error,
            )

    def _local(self, key: str, path: Path) -> Path:
        """Returns the store's own file of a key if there is one; downloads to `path` otherwise."""
        own_file = self._store.local_path(key)
        if own_file is None:
            self._store.download(key, path)
        return own_file or path

    def _check(self, path: Path, *, sha256: str, expected: ExpectedShard) -> None:
        if (found := sha256_of_file(path)) != sha256:
            raise SplitFormatError(f"its content has sha256 {found}")
        shard = open_shard(path)
        if dict(shard.about) != (about := expected.about(self._data_id)):
            raise SplitFormatError(f"it describes itself as {dict(shard.about)}, not {about}")
        if shard.images.shape != expected.shape:
            raise SplitFormatError(
                f"its images have shape {shard.images.shape}, not {expected.shape}"
            )
        if not np.array_equal(shard.labels, expected.labels):
            raise SplitFormatError("its labels differ from the task's")
