"""What only S3 has: answers lost on the way, conflicts, broken bodies."""

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from workers.store.opening import open_store
from workers.store.protocol import StoreError, StoreUnavailableError
from workers.store.s3 import S3Store

ENDPOINT = "http://127.0.0.1:1"  # stubbed: nothing is sent


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Store, Stubber]]:
    """Opens a store whose answers the test writes; all of them must be asked for."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3Store("bucket", prefix="root", endpoint_url=ENDPOINT)
    with Stubber(store._client) as stubber:
        yield store, stubber
        stubber.assert_no_pending_responses()


class LossyProxy:
    """Forwards connections to a server; of the first, what the server answers never arrives."""

    def __init__(self, endpoint_url: str) -> None:
        server = urlsplit(endpoint_url)
        self._server = (server.hostname, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        _start(self._serve)

    def close(self) -> None:
        """Takes no further connections."""
        self._listener.close()

    def _serve(self) -> None:
        back = _lose
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._server)
                _start(_forward, client, upstream)
                _start(back, upstream, client)
                back = _forward


def _start(target: Callable[..., None], *arguments: socket.socket) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError), source, target:
        while received := source.recv(65536):
            target.sendall(received)


def _lose(source: socket.socket, target: socket.socket) -> None:
    """Waits until the server has done what it was asked, then hangs up."""
    answered = b""
    while b"HTTP/1.1 200" not in answered:
        answered += source.recv(65536)
    for end in (source, target):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def lossy_url(s3_url: str) -> Iterator[str]:
    """Returns the URL of an empty store that is reached through a proxy."""
    url, _, endpoint_url = s3_url.partition("?endpoint_url=")
    proxy = LossyProxy(endpoint_url)
    yield f"{url}?endpoint_url={proxy.endpoint_url}"
    proxy.close()


@pytest.mark.s3
def test_winner_whose_answer_was_lost_is_told_that_it_won(lossy_url: str) -> None:
    """The repeated request meets the object that the first one wrote: that is a win, not a loss."""
    store = open_store(lossy_url)
    assert store.put_if_absent("key", b"mine") is True
    assert store.num_requests == 3  # the lost put, its repetition, the read that decides
    assert store.put_if_absent("key", b"mine") is False


def test_conflicting_condition_is_tried_again(stubbed: tuple[S3Store, Stubber]) -> None:
    """A 409 means that another writer is in flight, not that the key is taken."""
    store, stubber = stubbed
    stubber.add_client_error(
        "put_object", service_error_code="ConditionalRequestConflict", http_status_code=409
    )
    stubber.add_response("put_object", {})
    assert store.put_if_absent("key", b"x") is True


def test_winner_in_conflict_with_its_own_lost_request_is_told_that_it_won(
    stubbed: tuple[S3Store, Stubber],
) -> None:
    """A repeated request that conflicts says that the first may win yet: that is remembered."""
    store, stubber = stubbed
    stubber.add_client_error(
        "put_object",
        service_error_code="ConditionalRequestConflict",
        http_status_code=409,
        response_meta={"RetryAttempts": 1},
    )
    stubber.add_client_error(
        "put_object", service_error_code="PreconditionFailed", http_status_code=412
    )
    stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"mine"), 4)})
    assert store.put_if_absent("key", b"mine") is True


def test_body_that_breaks_off_is_read_again(stubbed: tuple[S3Store, Stubber]) -> None:
    """An answer shorter than its length is not taken for the object."""
    store, stubber = stubbed
    stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"sho"), 7)})
    stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"whole!!"), 7)})
    assert store.get("key") == b"whole!!"


def test_body_that_always_breaks_off_is_an_error(stubbed: tuple[S3Store, Stubber]) -> None:
    """Reading is tried a bounded number of times."""
    store, stubber = stubbed
    for _ in range(4):
        stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"sho"), 7)})
    with pytest.raises(StoreUnavailableError, match="'key'"):
        store.get("key")


def test_refused_deletion_is_an_error(stubbed: tuple[S3Store, Stubber]) -> None:
    """S3 answers 200 to a batch of which it deleted nothing."""
    store, stubber = stubbed
    errors = {"Errors": [{"Key": "root/a", "Code": "AccessDenied", "Message": "Access Denied"}]}
    stubber.add_response("delete_objects", errors)
    with pytest.raises(StoreError, match="1 objects not deleted: root/a: Access Denied"):
        store.delete(["a", "b"])


def test_deletion_that_the_server_put_off_is_asked_for_again(
    stubbed: tuple[S3Store, Stubber],
) -> None:
    """Only those keys of a batch are sent again that a passing fault kept."""
    store, stubber = stubbed
    errors = {"Errors": [{"Key": "root/b", "Code": "SlowDown", "Message": "Slow down"}]}
    stubber.add_response("delete_objects", errors, batch_of("root/a", "root/b"))
    stubber.add_response("delete_objects", {}, batch_of("root/b"))
    store.delete(["a", "b"])
    stubber.assert_no_pending_responses()


def batch_of(*names: str) -> dict[str, object]:
    objects = [{"Key": name} for name in names]
    return {"Bucket": "bucket", "Delete": {"Objects": objects, "Quiet": True}}


@pytest.mark.s3
def test_objects_whose_names_are_no_keys_are_not_listed(s3_url: str) -> None:
    """A console's stand-in for a directory and a server's temporary object are not the store's."""
    store = open_store(s3_url)
    assert isinstance(store, S3Store)
    for name in ["a/", "a/.temporary", "a/key"]:
        store._client.put_object(Bucket=store._bucket, Key=store._root + name, Body=b"")
    assert [entry.key for entry in store.list("")] == ["a/key"]


@pytest.mark.s3
def test_deleting_more_than_a_batch_takes_a_request_a_thousand(s3_url: str) -> None:
    """2,001 keys are three requests."""
    store = open_store(s3_url)
    store.put("k/2000", b"")
    store.delete([f"k/{i:04}" for i in range(2001)])
    assert store.num_requests == 4
    assert list(store.list("")) == []
