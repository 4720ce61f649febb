import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import ray

from orchestrator.cluster.jobs_api import JobsApi
from orchestrator.cluster.submission import ClusterAccessError


class Answering(BaseHTTPRequestHandler):
    """Answers like a Ray dashboard of some version, or like another server."""

    answers: Mapping[str, object]

    def do_GET(self) -> None:
        """Sends the answer of the path."""
        answer = self.answers.get(self.path)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Serves answers by path; returns the address."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    # Set by what is tested, and undone here.
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Mapping[str, object]) -> str:
        handler = type("Handler", (Answering,), {"answers": answers})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def dashboard(*, ray_version: str = ray.__version__, python: str = "") -> dict[str, object]:
    """Returns the answers of a head with Ray 2.60."""
    versions = {
        "rayVersion": ray_version,
        "pythonVersion": python or platform.python_version(),
        "rayInitCluster": False,
    }
    return {
        "/api/version": {
            "version": "4",
            "ray_version": ray_version,
            "ray_commit": "0",
            "session_name": "session_0",
        },
        "/api/v0/cluster_metadata": {"result": True, "msg": "", "data": versions},
    }


def refusal(address: str) -> str:
    with pytest.raises(ClusterAccessError) as caught:
        JobsApi(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cluster_of_these_versions_is_taken(serve) -> None:  # noqa: ANN001 the fixture says it
    """A trailing slash and another patch release of Python make no difference."""
    major, minor, _ = platform.python_version_tuple()
    address = serve(dashboard(python=f"{major}.{minor}.99"))
    assert JobsApi(f"{address}/").address == address


@pytest.mark.parametrize("address", ["head:8265", "auto", "10.0.0.1:6379", "ray://head:10001"])
def test_address_that_is_no_dashboard_s_is_refused(address: str) -> None:
    """RAY_ADDRESS may have a driver's address; the message shows a right one."""
    assert "http://head:8265" in refusal(address)


def test_refused_connection_is_one_line() -> None:
    """The message has the address and the reason."""
    said = refusal("http://127.0.0.1:1")
    assert "nothing answers at http://127.0.0.1:1" in said
    assert "refused" in said


@pytest.mark.parametrize("answer", [b"<html>hello</html>", {"status": "ok"}, None, [1]])
def test_other_server_is_told_from_a_dashboard(serve, answer: object) -> None:  # noqa: ANN001 as above
    """It may be a web server, a head without the Jobs API, or another program's JSON."""
    assert "is not a Ray dashboard" in refusal(serve({"/api/version": answer}))


def test_other_release_of_ray_is_refused_with_both(serve) -> None:  # noqa: ANN001 as above
    """It is refused before the upload, with the versions and what to install."""
    said = refusal(serve(dashboard(ray_version="2.59.1")))
    assert "has Ray 2.59.1, and this is Ray" in said
    assert "ray[default]==2.59.1" in said


def test_other_python_is_refused_with_both(serve) -> None:  # noqa: ANN001 as above
    """The minor version must be the same."""
    said = refusal(serve(dashboard(python="3.9.1")))
    assert f"has Python 3.9.1, and this is Python {platform.python_version()}" in said
