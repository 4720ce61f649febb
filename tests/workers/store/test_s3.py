"""Properties of S3 stores only: lost answers, conflicting conditional puts, truncated bodies."""

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
    """Opens a store whose answers the test provides; the test fails if one is not used."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3Store("bucket", prefix="root", endpoint_url=ENDPOINT)
    with Stubber(store._client) as stubber:
        yield store, stubber
        stubber.assert_no_pending_responses()


class LossyProxy:
    """A proxy before a server that drops the answer to the first connection."""

    def __init__(self, endpoint_url: str) -> None:
        server = urlsplit(endpoint_url)
        self._server = (server.hostname, server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        _start(self._serve)

    def close(self) -> None:
        """Stops accepting connections."""
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
    """Waits for the server's successful answer, then closes both connections."""
    answered = b""
    while b"HTTP/1.1 200" not in answered:
        answered += source.recv(65536)
    for end in (source, target):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def lossy_url(s3_url: str) -> Iterator[str]:
    """Returns the URL of an empty store behind a proxy that loses the first answer."""
    url, _, endpoint_url = s3_url.partition("?endpoint_url=")
    proxy = LossyProxy(endpoint_url)
    yield f"{url}?endpoint_url={proxy.endpoint_url}"
    proxy.close()


@pytest.mark.s3
def test_conditional_put_with_a_lost_answer_returns_true(lossy_url: str) -> None:
    """The repeated request finds the object that the first one wrote, which is a win."""
    store = open_store(lossy_url)
    assert store.put_if_absent("key", b"mine") is True
    assert store.num_requests == 3  # the put, its repetition, and the read that decides
    assert store.put_if_absent("key", b"mine") is False


def test_conflicting_conditional_put_is_repeated(stubbed: tuple[S3Store, Stubber]) -> None:
    """A 409 means that another put is in progress, not that the key is taken."""
    store, stubber = stubbed
    stubber.add_client_error(
        "put_object", service_error_code="ConditionalRequestConflict", http_status_code=409
    )
    stubber.add_response("put_object", {})
    assert store.put_if_absent("key", b"x") is True


def test_conditional_put_in_conflict_with_its_own_lost_request_returns_true(
    stubbed: tuple[S3Store, Stubber],
) -> None:
    """A conflict on a repeated request means that the first request may still win."""
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


def test_truncated_body_is_read_again(stubbed: tuple[S3Store, Stubber]) -> None:
    """A body that is shorter than its announced length is not returned as the object."""
    store, stubber = stubbed
    stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"sho"), 7)})
    stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"whole!!"), 7)})
    assert store.get("key") == b"whole!!"


def test_body_that_is_always_truncated_is_an_error(stubbed: tuple[S3Store, Stubber]) -> None:
    """The number of attempts is limited."""
    store, stubber = stubbed
    for _ in range(4):
        stubber.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"sho"), 7)})
    with pytest.raises(StoreUnavailableError, match="'key'"):
        store.get("key")


def test_refused_deletion_is_an_error(stubbed: tuple[S3Store, Stubber]) -> None:
    """S3 answers 200 even if it deleted no object of a batch."""
    store, stubber = stubbed
    errors = {"Errors": [{"Key": "root/a", "Code": "AccessDenied", "Message": "Access Denied"}]}
    stubber.add_response("delete_objects", errors)
    with pytest.raises(StoreError, match="did not delete 1 objects: root/a: Access Denied"):
        store.delete(["a", "b"])


def test_deletion_that_failed_transiently_is_repeated(
    stubbed: tuple[S3Store, Stubber],
) -> None:
    """Only the keys of a batch that a transient fault kept are sent again."""
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
def test_objects_with_invalid_names_are_not_listed(s3_url: str) -> None:
    """Directory markers of a web console and temporary objects of a server are left out."""
    store = open_store(s3_url)
    assert isinstance(store, S3Store)
    for name in ["a/", "a/.temporary", "a/key"]:
        store._client.put_object(Bucket=store._bucket, Key=store._root + name, Body=b"")
    assert [entry.key for entry in store.list("")] == ["a/key"]


@pytest.mark.s3
def test_deleting_costs_one_request_per_thousand_keys(s3_url: str) -> None:
    """Deleting 2,001 keys costs three requests."""
    store = open_store(s3_url)
    store.put("k/2000", b"")
    store.delete([f"k/{i:04}" for i in range(2001)])
    assert store.num_requests == 4
    assert list(store.list("")) == []
