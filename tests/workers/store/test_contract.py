"""The contract of stores, checked with a directory and with a real S3 server."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workers.store.local import LocalStore
from workers.store.opening import open_store, supports_conditional_put
from workers.store.protocol import InvalidKeyError, NotFoundError, Store

BAD_KEYS = ["", "/etc/passwd", "a/../../b", "..", "a//b", "a/", ".hidden", "a/.tmp", "a\0b", "a\nb"]

MINUTE_S = 60.0


def keys_of(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def test_get_returns_the_put_content(store: Store) -> None:
    """An object is read byte for byte, also an empty one."""
    store.put("a/b", b"\x00\xff text")
    store.put("a/empty", b"")
    assert store.get("a/b") == b"\x00\xff text"
    assert store.get("a/empty") == b""


def test_put_replaces(store: Store) -> None:
    """A read after two puts of one key returns the second content."""
    store.put("key", b"first")
    store.put("key", b"second")
    assert store.get("key") == b"second"


def test_missing_key_raises_not_found_with_url_and_key(store: Store) -> None:
    """The message has the key and the store's URL."""
    store.put("other", b"")
    with pytest.raises(NotFoundError) as caught:
        store.get("not/there")
    assert "not/there" in str(caught.value)
    assert store.url in str(caught.value)


def test_conditional_put_keeps_the_first(store: Store) -> None:
    """The second conditional put loses and changes nothing."""
    assert store.put_if_absent("a/key", b"first") is True
    assert store.put_if_absent("a/key", b"second") is False
    assert store.get("a/key") == b"first"


def test_conditional_put_loses_to_a_plain_put(store: Store) -> None:
    """A key that a plain put wrote is taken for a conditional put too."""
    store.put("key", b"plain")
    assert store.put_if_absent("key", b"conditional") is False
    assert store.get("key") == b"plain"


def test_conditional_put_wins_again_after_delete(store: Store) -> None:
    """After a delete, the key is free again."""
    store.put_if_absent("key", b"first")
    store.delete(["key"])
    assert store.put_if_absent("key", b"second") is True
    assert store.get("key") == b"second"


def test_exactly_one_of_eight_racers_wins(store: Store) -> None:
    """Of eight threads that put one key at once, one wins, and the object has its content."""
    start = threading.Barrier(8)

    def race(racer: int) -> bool:
        start.wait()
        return store.put_if_absent("race/key", b"%d" % racer)

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(race, range(8)))
    assert won.count(True) == 1
    assert store.get("race/key") == b"%d" % won.index(True)


def test_conditional_puts_are_found_to_be_supported(store: Store) -> None:
    """The probe returns True for a store that keeps the first content, and deletes its object."""
    assert supports_conditional_put(store)
    assert keys_of(store) == []


def test_small_file_travels_both_ways(store: Store, tmp_path: Path) -> None:
    """An upload and a download give the same bytes; the download creates its directory."""
    source, copy = tmp_path / "source", tmp_path / "new" / "copy"
    source.write_bytes(b"weights")
    store.upload("files/weights", source)
    store.download("files/weights", copy)
    assert copy.read_bytes() == b"weights"
    assert store.get("files/weights") == b"weights"


def test_large_file_travels_both_ways(store: Store, tmp_path: Path) -> None:
    """A file of several parts keeps its content; its upload to S3 costs more than one request."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    content = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(40_000_000 // 32))
    source.write_bytes(content)
    before = store.num_requests
    store.upload("large", source)
    assert store.num_requests - before == (1 if store.local_path("large") else 5)
    store.download("large", copy)
    assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert [(e.key, e.size_bytes) for e in store.list("large")] == [("large", 40_000_000)]


def test_download_of_missing_key_leaves_the_file_alone(store: Store, tmp_path: Path) -> None:
    """An existing file keeps its content, and no temporary file remains beside it."""
    directory = tmp_path / "downloads"
    directory.mkdir()
    (directory / "file").write_bytes(b"old")
    with pytest.raises(NotFoundError):
        store.download("not/there", directory / "file")
    assert [path.name for path in directory.iterdir()] == ["file"]
    assert (directory / "file").read_bytes() == b"old"


def test_upload_of_missing_file_is_an_os_error(store: Store, tmp_path: Path) -> None:
    """A source file that does not exist raises `FileNotFoundError`, not a `StoreError`."""
    with pytest.raises(FileNotFoundError):
        store.upload("key", tmp_path / "not-there")
    assert keys_of(store) == []


def test_list_is_ordered_by_key(store: Store) -> None:
    """Entries have the order of their keys, not of a directory tree (`-` and `.` before `/`)."""
    keys = ["p/A", "p/a-b", "p/a.c", "p/a/b", "p/ab/x", "q/a"]
    for key in reversed(keys):
        store.put(key, b"12")
    assert keys_of(store) == keys
    assert [(e.key, e.size_bytes) for e in store.list("p/a.")] == [("p/a.c", 2)]


def test_list_takes_any_beginning_of_a_key_as_prefix(store: Store) -> None:
    """A prefix may end inside a part of a key; an unused prefix gives an empty listing."""
    for key in ["study/one/a", "study/one/b", "study/other", "study-2/a"]:
        store.put(key, b"")
    assert keys_of(store, "study/one/") == ["study/one/a", "study/one/b"]
    assert keys_of(store, "study/o") == ["study/one/a", "study/one/b", "study/other"]
    assert keys_of(store, "study") == ["study-2/a", "study/one/a", "study/one/b", "study/other"]
    assert keys_of(store, "nothing/") == []


def test_delete_removes_and_ignores_missing_keys(store: Store) -> None:
    """Deleted objects can neither be listed nor read; deleting a missing object is no error."""
    for key in ["a/1", "a/2", "b"]:
        store.put(key, b"")
    store.delete(["a/1", "b", "not/there"])
    store.delete(["a/1"])
    store.delete([])
    assert keys_of(store) == ["a/2"]
    with pytest.raises(NotFoundError):
        store.get("b")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_key_that_would_leave_the_root_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    """No operation accepts a key that leaves the root, is hidden or has empty parts."""
    (tmp_path / "file").write_bytes(b"")
    for operation in [
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.put_if_absent(key, b""),
        lambda: store.upload(key, tmp_path / "file"),
        lambda: store.download(key, tmp_path / "file"),
        lambda: store.delete([key]),
        lambda: store.local_path(key),
    ]:
        with pytest.raises(InvalidKeyError):
            operation()


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", ".x", "a//b"])
def test_prefix_that_would_leave_the_root_is_refused(store: Store, prefix: str) -> None:
    """A listing cannot leave the root either."""
    with pytest.raises(InvalidKeyError):
        list(store.list(prefix))


def test_small_operations_cost_one_request_each(store: Store) -> None:
    """Put, conditional put, get, list and delete cost one request each."""
    for operation in [
        lambda: store.put("a", b""),
        lambda: store.put_if_absent("b", b""),
        lambda: store.put_if_absent("b", b""),
        lambda: store.get("a"),
        lambda: list(store.list("")),
        lambda: store.delete(["a"]),
    ]:
        before = store.num_requests
        operation()
        assert store.num_requests - before == 1


def test_requests_of_many_threads_are_all_counted(store: Store) -> None:
    """The counter is exact if several threads use one instance."""
    store.put("key", b"x")
    before = store.num_requests
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: store.get("key"), range(80))) == {b"x"}
    assert store.num_requests - before == 80


def test_url_opens_the_same_store(store: Store) -> None:
    """A second instance, opened by the first one's URL, reads the first one's objects."""
    store.put("a/b", b"shared")
    again = open_store(store.url)
    assert again.get("a/b") == b"shared"
    assert again.url == store.url


def test_overwritten_object_is_never_seen_torn(store: Store) -> None:
    """While a writer replaces an object, a reader always sees one whole version."""
    versions = [letter * 200_000 for letter in (b"a", b"b")]
    store.put("hot", versions[0])
    done = threading.Event()

    def write() -> None:
        for i in range(30):
            store.put("hot", versions[i % 2])
        done.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        while not done.is_set() and not writing.done():
            assert store.get("hot") in versions
        writing.result()


def test_local_path_is_the_object_in_a_directory_and_none_in_a_bucket(store: Store) -> None:
    """Only a local store has a file for each object, and refuses keys without an object."""
    store.put("a/b", b"content")
    if not isinstance(store, LocalStore):
        assert store.local_path("a/b") is None
        assert store.local_path("not/there") is None
        return
    assert store.local_path("a/b").read_bytes() == b"content"
    for key in ("not/there", "a"):
        with pytest.raises(NotFoundError, match=key):
            store.local_path(key)


def test_listing_says_when_objects_were_written(store: Store) -> None:
    """The time of an entry is the time of its last write, with a precision of one second."""
    store.put("key", b"first")
    time.sleep(1.1)
    before_s = time.time()
    store.put("key", b"second")
    (entry,) = store.list("")
    assert before_s - 1 <= entry.modified_at_s <= time.time()


def test_etag_changes_with_the_content(store: Store) -> None:
    """A reader of listings notices an object that was replaced, even by one of the same size."""
    store.put("a/key", b"first")
    store.put("a/other", b"other")
    (first, other) = store.list("a/")
    store.put("a/key", b"again")
    (again, same) = store.list("a/")
    assert first.size_bytes == again.size_bytes
    assert first.etag != again.etag
    assert other.etag == same.etag
    assert all((first.etag, other.etag, again.etag))


def test_expected_etag_is_the_listed_one(store: Store) -> None:
    """A store either tells a content's ETag in advance, or says that it cannot."""
    store.put_if_absent("key", b"content")
    (entry,) = store.list("")
    assert store.expected_etag(b"content") in (None, entry.etag)
    if not isinstance(store, LocalStore):
        assert store.expected_etag(b"content") == entry.etag


def leave_unfinished(store: Store, key: str) -> None:
    """Leaves the same files or parts as a writer that is killed after writing 7 bytes."""
    if isinstance(store, LocalStore):
        path = Path(store.url, key).with_name(".0123456789abcdef.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"7 bytes")
        return
    bucket, name = store._bucket, store._root + key
    upload = store._client.create_multipart_upload(Bucket=bucket, Key=name)
    store._client.upload_part(
        Bucket=bucket, Key=name, UploadId=upload["UploadId"], PartNumber=1, Body=b"7 bytes"
    )


def test_interrupted_writes_are_found_and_removed(store: Store) -> None:
    """Interrupted writes are in no listing; a dry run finds them and the next call removes them."""
    store.put("a/whole", b"")
    leave_unfinished(store, "a/torn")
    assert keys_of(store) == ["a/whole"]
    later_s = time.time() + MINUTE_S
    (left,) = store.remove_unfinished("a/", before_s=later_s, dry_run=True)
    assert left.key.startswith("a/")
    assert left.size_bytes == 7
    assert time.time() - MINUTE_S < left.modified_at_s < later_s
    assert store.remove_unfinished("a/", before_s=later_s) == (left,)
    assert store.remove_unfinished("a/", before_s=later_s) == ()
    assert keys_of(store) == ["a/whole"]


def test_interrupted_writes_that_are_young_or_elsewhere_stay(store: Store) -> None:
    """Writes younger than `before_s`, or outside the prefix, are left alone."""
    leave_unfinished(store, "a/b/torn")
    now_s = time.time()
    assert store.remove_unfinished("", before_s=now_s - MINUTE_S) == ()
    for prefix in ("c/", "a/c", "b", "a/b/torn/x"):
        assert store.remove_unfinished(prefix, before_s=now_s + MINUTE_S) == ()
    assert len(store.remove_unfinished("a/b", before_s=now_s + MINUTE_S)) == 1


def test_empty_store_has_no_interrupted_writes(store: Store) -> None:
    """Removal also works in a store to which nothing was ever written."""
    assert store.remove_unfinished("artifacts/", before_s=time.time()) == ()
