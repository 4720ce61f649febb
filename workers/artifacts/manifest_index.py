"""Copies of a study's manifests in few objects, so that a run need not read them one by one.

The index is never trusted over the manifests. A listing of the store says which manifests exist
and gives their ETags; a copy counts only if its ETag is the listed one. A manifest that was added,
replaced or withdrawn since is therefore read from the store itself. A part of the index that is
missing, damaged or of another release only makes the next run read more manifests.

    studies/<name>/index/<sha256 of the content>.parquet    a part, with up to PART_SIZE copies

The content decides a part's name, so that two writers never overwrite each other.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from eval.digests import sha256_of_bytes
from workers.artifacts.layout import ArtifactAddress, Layout
from workers.artifacts.manifests import Manifest, ManifestError
from workers.store.protocol import Entry, NotFoundError, Store

PART_SIZE = 4000
"""The most copies in one part: some 1.2 MB."""
_SMALL = PART_SIZE // 2
"""Parts with fewer copies that count are joined with others."""
_NUM_THREADS = 16
_FORMAT = b"mergesweep manifests 1"
_SCHEMA = pa.schema(
    {"kind": pa.string(), "id": pa.string(), "etag": pa.string(), "content": pa.binary()},
    metadata={b"format": _FORMAT},
)


class _Copy(NamedTuple):
    """The bytes of a manifest, and the ETag that the store has for them."""

    address: ArtifactAddress
    etag: str
    content: bytes


class ManifestIndex:
    """The index of one study in a store; one thread at a time may use it.

    Several processes may write the index of a study at once. One of them may then delete copies
    that another counts on; the next run reads these manifests from the store.
    """

    def __init__(self, store: Store, *, study: str) -> None:
        """Takes the store, without a request to it."""
        self._store = store
        self._study = study
        self._etags: dict[ArtifactAddress, str] = {}
        """The ETags of the manifests in the listing, and later of those that were written."""
        self._part_of: dict[ArtifactAddress, str] = {}
        """The name of the part with the copy that counts, for each indexed manifest."""
        self._parts: set[str] = set()

    def read(self, listed: Mapping[ArtifactAddress, Entry]) -> dict[ArtifactAddress, Manifest]:
        """Returns those manifests of a listing whose copies in the index are up to date.

        Costs a listing and one request for each part.

        Raises:
            StoreError: The store failed.
        """
        self._etags = {address: entry.etag for address, entry in listed.items()}
        keys = (Layout.parse_index_key(each.key) for each in self._store.list(self._prefix))
        names = [name for name in keys if name is not None]
        self._parts.update(names)
        found: dict[ArtifactAddress, Manifest] = {}
        with ThreadPoolExecutor(_NUM_THREADS) as threads:
            for name, copies in zip(names, threads.map(self._read_part, names), strict=True):
                for copy in copies:
                    manifest = self._if_current(copy, entry=listed.get(copy.address))
                    if manifest is not None and copy.address not in found:
                        found[copy.address] = manifest
                        self._part_of[copy.address] = name
        return found

    def unchanged(
        self, listed: Mapping[ArtifactAddress, Entry], *, known: Iterable[Manifest]
    ) -> dict[ArtifactAddress, Manifest]:
        """Returns those manifests of a new listing that did not change since the last listing.

        Costs no request.

        Args:
            listed: The entries of the manifests that exist.
            known: Manifests that were read after the last listing.
        """
        before, self._etags = self._etags, {each: entry.etag for each, entry in listed.items()}
        by_address = {ArtifactAddress(each.kind, each.id): each for each in known}
        return {
            address: by_address[address]
            for address, etag in self._etags.items()
            if etag and etag == before.get(address) and address in by_address
        }

    def write(self, manifests: Iterable[Manifest], *, min_new: int = 1) -> None:
        """Adds the manifests that the index lacks, and joins small parts.

        A manifest whose ETag is not known is left out: the next run reads it from the store.

        Args:
            manifests: All manifests of the study that are committed. Those of the listing that
                `read` was given were read after that listing.
            min_new: Writes nothing if fewer manifests can be added.

        Raises:
            StoreError: The store failed. All parts are whole, and a copy may be in two of them.
        """
        by_address = {ArtifactAddress(each.kind, each.id): each for each in manifests}
        lacking = by_address.keys() - self._part_of.keys()
        # Merges of the same experts side by side: they repeat the same digests, which compress.
        ordered = sorted(lacking, key=lambda each: (each.kind, *by_address[each].inputs, each.id))
        new = [copy for each in ordered if (copy := self._copy(by_address[each]))]
        if len(new) < max(1, min_new):
            return
        sizes = Counter(self._part_of.values())
        small = {name for name in self._parts if sizes[name] < _SMALL}
        joined = [each for each, name in self._part_of.items() if name in small]
        old = [copy for each in joined if (copy := self._copy(by_address.get(each)))]
        written = [self._write_part(copies) for copies in _batches([*new, *old])]
        replaced = small.difference(written)
        self._store.delete([Layout.index(self._study, name) for name in sorted(replaced)])
        self._parts -= replaced

    @property
    def _prefix(self) -> str:
        return Layout.index(self._study)

    def _read_part(self, name: str) -> list[_Copy]:
        """Returns the copies in a part; none if it is gone, damaged or of another release."""
        try:
            content = self._store.get(Layout.index(self._study, name))
        except NotFoundError:
            return []  # another process has just joined it with others
        return _from_parquet(content) if sha256_of_bytes(content) == name else []

    def _write_part(self, copies: Sequence[_Copy]) -> str:
        """Writes a part and returns its name."""
        content = _to_parquet(copies)
        name = sha256_of_bytes(content)
        self._store.put(Layout.index(self._study, name), content)
        self._parts.add(name)
        self._part_of.update((copy.address, name) for copy in copies)
        return name

    @staticmethod
    def _if_current(copy: _Copy, *, entry: Entry | None) -> Manifest | None:
        """Returns a copy's manifest if the store still has the manifest under the copy's ETag."""
        if entry is None or not entry.etag or copy.etag != entry.etag:
            return None
        try:
            manifest = Manifest.from_json(copy.content, key=entry.key)
        except ManifestError:
            return None
        return manifest if (manifest.kind, manifest.id) == copy.address else None

    def _copy(self, manifest: Manifest | None) -> _Copy | None:
        """Returns a copy of a manifest, None if its ETag is not known."""
        if manifest is None:
            return None
        address, content = ArtifactAddress(manifest.kind, manifest.id), manifest.to_json()
        etag = self._etags.get(address) or self._store.expected_etag(content)
        return _Copy(address, etag, content) if etag else None


def _batches(copies: Sequence[_Copy]) -> Iterator[Sequence[_Copy]]:
    for start in range(0, len(copies), PART_SIZE):
        yield copies[start : start + PART_SIZE]


def _to_parquet(copies: Sequence[_Copy]) -> bytes:
    columns = [
        [copy.address.kind for copy in copies],
        [copy.address.id for copy in copies],
        [copy.etag for copy in copies],
        [copy.content for copy in copies],
    ]
    arrays = [pa.array(each, field.type) for each, field in zip(columns, _SCHEMA, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=_SCHEMA),
        buffer,
        compression="zstd",
        use_dictionary=["kind"],
    )
    return buffer.getvalue()


def _from_parquet(content: bytes) -> list[_Copy]:
    """Returns the copies in a part's bytes; none if another release wrote them."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError):
        return []
    if not table.schema.equals(_SCHEMA, check_metadata=True):
        return []
    kinds, ids, etags, contents = (column.to_pylist() for column in table.columns)
    addresses = map(ArtifactAddress, kinds, ids)
    return list(map(_Copy, addresses, etags, contents))
