"""A real S3 server behind a proxy that injects faults: lost, late, truncated, refused answers."""

import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from workers.store.opening import open_store
from workers.store.protocol import (
    Store,
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from workers.store.s3 import S3Store

pytestmark = pytest.mark.s3

READ_TIMEOUT_S = 1.0
PART_BYTES = 5 << 20  # the least that S3 takes
LARGE = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(11_000_000 // 32))

Send = Callable[[], bytes]
Fault = Callable[["Handler", Send], None]


class Handler(BaseHTTPRequestHandler):
    """Handler of one client connection; forwards each request or applies a fault to it."""

    protocol_version = "HTTP/1.1"
    proxy: "FaultProxy"

    def answer(self) -> None:
        """Reads a request and forwards it, or calls its fault if one is planned."""
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.fault_of(f"{self.command} {self.path}")
        with suppress(OSError):
            if fault is None:
                self.connection.sendall(self._forward(content))
            else:
                fault(self, lambda: self._forward(content))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 names of http.server

    def log_message(self, *_: object) -> None:
        """Suppresses the log of requests."""

    def hang_up(self, *, linger: bool) -> None:
        """Closes the connection; without `linger` by a TCP reset."""
        option = struct.pack("ii", not linger, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _forward(self, content: bytes) -> bytes:
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"expect", "connection"}:
                upstream.putheader(name, value)
        upstream.endheaders(content)
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        replaced = {"content-length", "transfer-encoding", "connection"}
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in replaced]
        lines = [f"{name}: {value}" for name, value in [*kept, ("Content-Length", length)]]
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        return head.encode() + body


class FaultProxy:
    """A proxy before an S3 server that applies planned faults to some requests."""

    def __init__(self, endpoint_url: str) -> None:
        self.upstream = urlsplit(endpoint_url).netloc
        self.choose: Callable[[], Fault | None] = lambda: None
        self.planned: list[tuple[Fault, str]] = []
        self._lock = threading.Lock()
        self._listen(0)

    @property
    def endpoint_url(self) -> str:
        """URL of the proxy, for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def inject(self, fault: Fault, *, times: int = 1, on: str = "") -> None:
        """Applies a fault to the next requests whose method and path contain `on`."""
        self.planned += [(fault, on)] * times

    def fault_of(self, request: str) -> Fault | None:
        """Returns the fault of a request; None to forward it."""
        with self._lock:
            for fault, on in self.planned:
                if on in request:
                    self.planned.remove((fault, on))
                    return fault
            return self.choose()

    def kill_for(self, seconds: float) -> None:
        """Resets open connections and refuses new ones for some time, like a killed server."""
        port = self._server.server_address[1]
        self.choose = lambda: reset
        self.close()
        time.sleep(seconds)
        self.choose = lambda: None
        self._listen(port)

    def close(self) -> None:
        """Stops accepting connections."""
        self._server.shutdown()
        self._server.server_close()

    def _listen(self, port: int) -> None:
        handler = type("BoundHandler", (Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()


def refusing(status: int, code: str) -> Fault:
    """Returns a fault that answers with an error, without forwarding the request."""

    def fault(handler: Handler, _: Send) -> None:
        body = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        handler.connection.sendall(head + body)

    return fault


def reset(handler: Handler, _: Send) -> None:
    """Resets the connection without forwarding the request."""
    handler.hang_up(linger=False)


def late_answer(handler: Handler, send: Send) -> None:
    """Forwards the request, and answers after the client's timeout."""
    answer = send()
    time.sleep(READ_TIMEOUT_S * 1.5)
    handler.connection.sendall(answer)


def lost_answer(handler: Handler, send: Send) -> None:
    """Forwards the request, and resets the connection in place of the answer."""
    send()
    handler.hang_up(linger=False)


def cut_answer(handler: Handler, send: Send) -> None:
    """Forwards the request, and omits the last 5 bytes of the answer."""
    handler.connection.sendall(send()[:-5])
    handler.hang_up(linger=True)


TRANSIENT = {
    "slow down": refusing(503, "SlowDown"),
    "throttled": refusing(429, "TooManyRequests"),
    "internal error": refusing(500, "InternalError"),
    "request timeout": refusing(400, "RequestTimeout"),
    "reset": reset,
    "late answer": late_answer,
    "lost answer": lost_answer,
    "cut answer": cut_answer,
}


@pytest.fixture
def proxy(s3_url: str) -> Iterator[FaultProxy]:
    """Starts a proxy before the server."""
    proxy = FaultProxy(s3_url.partition("?endpoint_url=")[2])
    yield proxy
    proxy.close()


@pytest.fixture
def direct(s3_url: str) -> Store:
    """Opens the store without the proxy, to see which objects really exist."""
    return open_store(s3_url)


@pytest.fixture
def through(s3_url: str, proxy: FaultProxy) -> Callable[..., S3Store]:
    """Returns a function that opens the store through the proxy, with short timeouts."""
    parts = urlsplit(s3_url)
    return partial(
        S3Store,
        parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint_url=proxy.endpoint_url,
        retry_timeout_s=20.0,
        read_timeout_s=READ_TIMEOUT_S,
        multipart_threshold_bytes=PART_BYTES,
    )


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Returns a file that is uploaded in three parts."""
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path / "large"


def contents(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key) for entry in store.list("")}


@pytest.mark.parametrize("name", TRANSIENT)
def test_transient_fault_changes_no_result(
    name: str, proxy: FaultProxy, through: Callable[..., S3Store], direct: Store
) -> None:
    """Each small operation succeeds in spite of one fault."""
    store = through()

    def meets_fault(on: str) -> None:
        assert not proxy.planned
        proxy.inject(TRANSIENT[name], on=on)

    meets_fault("PUT")
    store.put("a", b"first")
    meets_fault("PUT")
    assert store.put_if_absent("a", b"second") is False
    meets_fault("PUT")
    assert store.put_if_absent("b", b"mine") is True
    meets_fault("GET")
    assert store.get("a") == b"first"
    meets_fault("GET")
    assert [(entry.key, entry.size_bytes) for entry in store.list("")] == [("a", 5), ("b", 4)]
    meets_fault("POST")
    store.delete(["a"])
    assert not proxy.planned
    assert contents(direct) == {"b": b"mine"}


@pytest.mark.parametrize(
    "name", ["internal error", "reset", "late answer", "lost answer", "cut answer"]
)
def test_transient_fault_breaks_no_transfer_in_parts(
    name: str,
    proxy: FaultProxy,
    through: Callable[..., S3Store],
    direct: Store,
    large_file: Path,
) -> None:
    """Uploads with a fault at the start, a part and the end succeed; so do downloads."""
    store = through()
    for on in ["POST", "partNumber=2", "uploadId"]:
        proxy.inject(TRANSIENT[name], on=on)
    store.upload("large", large_file)
    assert hashlib.sha256(direct.get("large")).digest() == hashlib.sha256(LARGE).digest()
    proxy.inject(TRANSIENT[name], on="GET", times=2)
    store.download("large", large_file.with_name("copy"))
    assert not proxy.planned
    assert large_file.with_name("copy").read_bytes() == LARGE
    assert [entry.key for entry in direct.list("")] == ["large"]
    # If the answer to the start of the upload is lost, a second upload is started.
    assert len(direct.remove_unfinished("", before_s=time.time() + 60)) <= 1


def test_bodies_that_break_off_again_and_again_are_read_in_the_end(
    proxy: FaultProxy, through: Callable[..., S3Store], direct: Store, tmp_path: Path
) -> None:
    """Three truncated answers in a row are not returned as the object."""
    direct.put("key", b"0123456789")
    proxy.inject(cut_answer, on="GET", times=3)
    assert through().get("key") == b"0123456789"
    proxy.inject(cut_answer, on="GET", times=3)
    through().download("key", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    assert not proxy.planned


def test_one_of_many_racers_wins_through_a_storm(
    proxy: FaultProxy, through: Callable[..., S3Store], direct: Store
) -> None:
    """With a fault on every third request, exactly one racer wins each key."""
    chance = random.Random(0)
    faults = [*[None] * 6, refusing(503, "SlowDown"), reset, lost_answer]
    proxy.choose = lambda: chance.choice(faults)
    stores = [through(retry_timeout_s=60) for _ in range(3)]

    def race(racer: int) -> list[bool]:
        return [stores[racer].put_if_absent(f"race/{i}", b"%d" % racer) for i in range(8)]

    with ThreadPoolExecutor(3) as threads:
        wins = list(zip(*threads.map(race, range(3)), strict=True))
    assert [won.count(True) for won in wins] == [1] * 8
    assert contents(direct) == {f"race/{i}": b"%d" % w.index(True) for i, w in enumerate(wins)}


def test_server_that_is_killed_and_restarted_is_waited_for(
    proxy: FaultProxy, through: Callable[..., S3Store], direct: Store, large_file: Path
) -> None:
    """Sixteen threads and an upload in parts succeed in spite of an outage of three seconds."""
    store = through(retry_timeout_s=60)
    store.put("before", b"")  # its connection is open when the server goes
    killing = threading.Thread(target=proxy.kill_for, args=(3,))
    killing.start()
    time.sleep(0.1)
    with ThreadPoolExecutor(17) as threads:
        uploading = threads.submit(store.upload, "large", large_file)
        won = list(threads.map(lambda i: store.put_if_absent(f"k/{i:02}", b"x"), range(16)))
        uploading.result()
    killing.join()
    assert won == [True] * 16
    assert direct.get("large") == LARGE
    assert len(list(direct.list("k/"))) == 16


@pytest.mark.parametrize("name", ["slow down", "reset"])
def test_lasting_fault_ends_within_its_patience(
    name: str,
    proxy: FaultProxy,
    through: Callable[..., S3Store],
    direct: Store,
    large_file: Path,
) -> None:
    """Each operation fails within its time limit, and no partial object is visible."""
    direct.put("old", b"old")
    proxy.choose = lambda: TRANSIENT[name]
    store = through(retry_timeout_s=0.5)
    copy = large_file.with_name("copy")
    copy.write_bytes(b"as it was")
    for operation in [
        lambda: store.get("old"),
        lambda: store.put("new", b""),
        lambda: store.put_if_absent("new", b""),
        lambda: list(store.list("")),
        lambda: store.delete(["old"]),
        lambda: store.upload("new", large_file),
        lambda: store.download("old", copy),
    ]:
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="run the same command again"):
            operation()
        assert time.monotonic() - began_s < 4
    assert contents(direct) == {"old": b"old"}
    assert sorted(path.name for path in large_file.parent.iterdir()) == ["copy", "large"]
    assert copy.read_bytes() == b"as it was"


def test_upload_that_is_cut_short_is_invisible_and_removable(
    proxy: FaultProxy, through: Callable[..., S3Store], direct: Store, large_file: Path
) -> None:
    """Parts of an upload that could not be aborted are found and removed later."""
    proxy.inject(reset, on="partNumber=2", times=99)
    proxy.inject(reset, on="DELETE", times=99)
    with pytest.raises(StoreUnavailableError):
        through(retry_timeout_s=0.5).upload("large", large_file)
    assert list(direct.list("")) == []
    (left,) = direct.remove_unfinished("", before_s=time.time() + 60)
    assert (left.key, left.size_bytes) == ("large", len(LARGE) - PART_BYTES)
    assert direct.remove_unfinished("", before_s=time.time() + 60) == ()


@pytest.mark.parametrize(
    ("refusal", "error_type"),
    [
        ((400, "ExpiredToken"), StoreCredentialsError),
        ((403, "AccessDenied"), StoreCredentialsError),
        ((507, "InsufficientStorage"), StoreFullError),
    ],
)
def test_refusal_is_final_at_once(  # noqa: PLR0917 pytest passes them by name
    refusal: tuple[int, str],
    error_type: type[StoreError],
    proxy: FaultProxy,
    through: Callable[..., S3Store],
    direct: Store,
    large_file: Path,
) -> None:
    """Refused writes are not repeated and leave no objects; reads still succeed."""
    direct.put("old", b"old")
    proxy.inject(refusing(*refusal), on="PUT", times=99)
    store = through(retry_timeout_s=60)
    for operation in [
        lambda: store.put("new", b""),
        lambda: store.put_if_absent("new", b""),
        lambda: store.upload("new", large_file),
    ]:
        with pytest.raises(error_type, match=f"'new'.*{refusal[1]}"):
            operation()
    # One request for each small put; start, three parts and end for the upload.
    assert store.num_requests <= 7
    assert store.get("old") == b"old"
    assert contents(direct) == {"old": b"old"}
    assert direct.remove_unfinished("", before_s=time.time() + 60) == ()
