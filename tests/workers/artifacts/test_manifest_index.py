"""Tests of the index of manifests, which must never say anything that the manifests do not."""

import io
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.digests import sha256_of_bytes
from workers.artifacts import manifest_index
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.layout import ArtifactAddress, Layout
from workers.artifacts.manifest_index import ManifestIndex
from workers.artifacts.manifests import Manifest
from workers.store.opening import open_store
from workers.store.protocol import NotFoundError, Store

STUDY = "lr-sweep"
PREFIX = f"studies/{STUDY}/index/"


def manifest(number: int, *, correct: int = 5) -> Manifest:
    return Manifest(
        kind="merge",
        id=f"{number:016x}",
        version=1,
        spec={"method": "average"},
        inputs={},
        files=(),
        attempt="00ff00ff",
        outcome="done",
        metrics={"correct": correct},
        seconds={"merge": 1.5},
        created_at_s=1000.5,
        code_version="1.2.3",
    )


def put(store: Store, manifests: Iterable[Manifest]) -> None:
    for each in manifests:
        store.put(Layout.manifest(each.kind, each.id), each.to_json())


def read(store: Store) -> tuple[ManifestIndex, dict[ArtifactAddress, Manifest]]:
    """Lists the store and reads the index, as the opening of a study does."""
    listed = Artifacts(store).listed([Layout.artifacts("merge")])
    index = ManifestIndex(store, study=STUDY)
    return index, index.read(listed)


def write(store: Store, manifests: Iterable[Manifest]) -> ManifestIndex:
    """Puts manifests, and indexes them as a run does that has read them from the store."""
    made = list(manifests)
    put(store, made)
    index, _ = read(store)
    index.write(made)
    return index


def ids(found: Iterable[ArtifactAddress]) -> list[int]:
    return sorted(int(address.id, 16) for address in found)


def parts(store: Store) -> list[str]:
    return [entry.key for entry in store.list(PREFIX)]


def test_index_returns_all_manifests_in_two_requests(store: Store) -> None:
    """Ten manifests cost a listing and one part, and are equal to those in the store."""
    made = [manifest(number) for number in range(10)]
    write(store, made)
    listed = Artifacts(store).listed([Layout.artifacts("merge")])
    before = store.num_requests
    found = ManifestIndex(store, study=STUDY).read(listed)
    assert store.num_requests - before == 2
    assert list(found.values()) == made
    assert found == {ArtifactAddress("merge", each.id): each for each in made}


def test_replaced_manifest_is_not_taken_from_the_index(store: Store) -> None:
    """A manifest that was made again, with the same number of bytes, is left to the store."""
    write(store, [manifest(number) for number in range(3)])
    again = manifest(1, correct=6)
    assert len(again.to_json()) == len(manifest(1).to_json())
    store.delete([Layout.manifest("merge", again.id)])
    put(store, [again])
    _, found = read(store)
    assert ids(found) == [0, 2]


def test_withdrawn_manifest_does_not_come_back(store: Store) -> None:
    """The listing decides what exists."""
    write(store, [manifest(number) for number in range(3)])
    Artifacts(store).withdraw("merge", manifest(1).id)
    _, found = read(store)
    assert ids(found) == [0, 2]


def test_manifest_that_was_added_since_is_left_to_the_store(store: Store) -> None:
    """The index does not know it, and knows it after the next write."""
    write(store, [manifest(0)])
    put(store, [manifest(1)])
    index, found = read(store)
    assert ids(found) == [0]
    index.write([manifest(0), manifest(1)])
    _, found = read(store)
    assert ids(found) == [0, 1]


def test_damaged_manifest_is_left_to_the_store(store: Store) -> None:
    """A byte that changed in the store is noticed, although the index has an undamaged copy."""
    write(store, [manifest(0), manifest(1)])
    store.put(Layout.manifest("merge", manifest(1).id), manifest(1).to_json().replace(b"5", b"6"))
    _, found = read(store)
    assert ids(found) == [0]


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_damaged_part_counts_as_missing(store: Store, damage: bytes | None) -> None:
    """A part that is empty, no Parquet or differs in one byte is not used, and is replaced."""
    made = [manifest(number) for number in range(3)]
    write(store, made)
    (key,) = parts(store)
    content = store.get(key)
    flipped = content[:40] + bytes([content[40] ^ 1]) + content[41:]
    store.put(key, flipped if damage is None else damage)
    index, found = read(store)
    assert found == {}
    index.write(made)
    _, found = read(store)
    assert list(found.values()) == made
    assert parts(store) == [key]


def test_part_of_another_release_counts_as_missing(store: Store) -> None:
    """Neither other columns nor another format are interpreted; the next write deletes them."""
    made = [manifest(number) for number in range(3)]
    write(store, made)
    (key,) = parts(store)
    table = pq.read_table(io.BytesIO(store.get(key)))
    others = [
        to_parquet(table.replace_schema_metadata({b"format": b"mergesweep manifests 2"})),
        to_parquet(table.drop_columns(["etag"])),
        b"no table at all",
    ]
    store.delete([key])
    for content in others:
        store.put(f"{PREFIX}{sha256_of_bytes(content)}.parquet", content)
    index, found = read(store)
    assert found == {}
    index.write(made)
    assert parts(store) == [key]


def to_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_index_of_another_store_says_nothing_false(store: Store, tmp_path: Path) -> None:
    """A copied index whose manifests have the same ids and other content is not used."""
    other = open_store(str(tmp_path / "other"))
    write(other, [manifest(number, correct=7) for number in range(3)])
    (key,) = parts(other)
    put(store, [manifest(number) for number in range(3)])
    store.put(key, other.get(key))
    _, found = read(store)
    assert found == {}


def test_copy_under_a_foreign_name_is_not_used(store: Store) -> None:
    """A copy that says that it is another artifact's manifest is refused, as `find` does."""
    made = manifest(0)
    put(store, [made])
    key = Layout.manifest("merge", manifest(1).id)
    store.put(key, made.to_json())
    listed = Artifacts(store).listed([Layout.artifacts("merge")])
    address = ArtifactAddress("merge", manifest(1).id)
    content = to_parquet(
        pa.Table.from_pydict(
            {
                "kind": ["merge"],
                "id": [address.id],
                "etag": [listed[address].etag],
                "content": [made.to_json()],
            },
            schema=manifest_index._SCHEMA,
        )
    )
    store.put(f"{PREFIX}{sha256_of_bytes(content)}.parquet", content)
    _, found = read(store)
    assert found == {}


def test_other_objects_in_the_folder_are_left_alone(store: Store) -> None:
    """Only names that are digests are parts."""
    store.put(f"{PREFIX}notes.txt", b"mine")
    write(store, [manifest(0)])
    assert f"{PREFIX}notes.txt" in parts(store)
    assert len(parts(store)) == 2


def test_small_parts_are_joined(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten runs that add one manifest each leave few parts, which have every manifest once."""
    monkeypatch.setattr(manifest_index, "PART_SIZE", 4)
    monkeypatch.setattr(manifest_index, "_SMALL", 2)
    made = [manifest(number) for number in range(10)]
    for count in range(1, 11):
        put(store, made[count - 1 : count])
        index, _ = read(store)
        index.write(made[:count])
    sizes = [pq.read_table(io.BytesIO(store.get(key))).num_rows for key in parts(store)]
    assert sum(sizes) == 10
    assert len(sizes) <= 5
    assert ids(read(store)[1]) == list(range(10))


def test_part_that_another_writer_deletes_is_read_from_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that vanishes between the listing and the read counts as missing."""
    write(store, [manifest(0)])

    def vanished(key: str) -> bytes:
        raise NotFoundError(key)

    listed = Artifacts(store).listed([Layout.artifacts("merge")])
    monkeypatch.setattr(store, "get", vanished)
    assert ManifestIndex(store, study=STUDY).read(listed) == {}


def test_two_writers_lose_at_most_copies(store: Store) -> None:
    """After two runs wrote at once, every copy that counts is true, and a third run mends it."""
    made = [manifest(number) for number in range(6)]
    write(store, made[:2])
    put(store, made[2:])
    first, _ = read(store)
    second, _ = read(store)
    first.write(made[:4])
    second.write([*made[:2], *made[4:]])
    index, found = read(store)
    assert all(found[address] == made[int(address.id, 16)] for address in found)
    index.write(made)
    assert ids(read(store)[1]) == list(range(6))


def test_new_manifests_are_indexed_where_their_etag_follows_from_the_content(store: Store) -> None:
    """A run on S3 indexes what it commits; in a directory, the next run does."""
    index, _ = read(store)
    made = manifest(0)
    put(store, [made])
    index.write([made])
    is_known = store.expected_etag(made.to_json()) is not None
    assert ids(read(store)[1]) == ([0] if is_known else [])


def test_too_few_new_manifests_wait(store: Store) -> None:
    """Nothing is written before there are `min_new`."""
    put(store, [manifest(0), manifest(1)])
    index, _ = read(store)
    index.write([manifest(0), manifest(1)], min_new=3)
    assert parts(store) == []
    index.write([manifest(0), manifest(1)], min_new=2)
    assert len(parts(store)) == 1


def test_index_that_is_complete_is_not_written_again(store: Store) -> None:
    """A second write costs no request."""
    index = write(store, [manifest(0)])
    before = store.num_requests
    index.write([manifest(0)])
    assert store.num_requests == before
