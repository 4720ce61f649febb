"""Searches everything that a study writes or prints for the secrets of its environment."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from known_models import remember_models

from orchestrator.run.opened import open_by_name, open_study
from orchestrator.run.republish import republish
from orchestrator.study.reader import parse_study
from workers.store.opening import open_store

STUDY = """
name: small
backbone: {{model: test_efficientnet, weights: none, image_size: 32}}
tasks: {{names: [mnist_5k, font_letters, emoji_objects], max_train: 32, max_test: 16}}
finetune: {{defaults: {{steps: 2, batch_size: 8, lr: 0.001}}}}
groups: {{size: 2}}
merge: [{{method: average}}]
resources: {{trial: {{cpu: 2}}, merge: {{cpu: 2}}}}
retries: 0
store: {store}
tracking: {tracking}
"""
TIMEOUT_S = 240
CALLS = """
import json, sys
from orchestrator.cli.command_line import cli
codes = []
for words in json.loads(sys.argv[1]):
    try:
        cli(words)
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps(codes))
"""
"""Calls the command line several times in one process, and prints the exit codes."""


def make_secret() -> str:
    """Returns a random secret with characters that are escaped in a URL."""
    return f"{uuid4().hex}/+&{uuid4().hex}"


def forms_of(secret: str) -> list[bytes]:
    """Returns a secret as plain text, escaped for a URL, and in base64 at each of three offsets."""
    plain = secret.encode()
    found = [plain, quote(secret).encode(), quote(secret, safe="").encode()]
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + plain)
        found.append(encoded[4 if offset else 0 : -4])  # the outer groups encode other bytes too
    return found


class Refusing(BaseHTTPRequestHandler):
    """An MLflow server that rejects every password and records each one that it receives."""

    seen: list[str]

    def do_GET(self) -> None:
        """Answers with 401 and records the Authorization header."""
        self.seen.append(self.headers.get("Authorization", ""))
        body = b'{"error_code": "PERMISSION_DENIED", "message": "wrong password"}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 http.server calls this name

    def log_message(self, *_: object) -> None:
        """Keeps the requests out of the tests' output."""


@pytest.fixture
def refusing_server() -> Iterator[tuple[str, list[str]]]:
    """Runs a server that refuses every request; yields its address and the received headers."""
    seen: list[str] = []
    handler = type("Handler", (Refusing,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()


class Home:
    """A directory that receives every file that the commands write on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        own = {"TMPDIR": "tmp", "RAY_TMPDIR": "ray", "HOME": "home", "MERGESWEEP_CACHE": "cache"}
        for name in own.values():
            (folder / name).mkdir()
        remember_models(self.cache)
        self.environment = {
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_USERNAME": "someone",
            "MLFLOW_TRACKING_PASSWORD": make_secret(),
            **{variable: str(folder / name) for variable, name in own.items()},
        }
        self.printed = b""

    def write_study(self, *, store: str, tracking: str) -> str:
        """Writes study.yaml and returns its text."""
        text = STUDY.format(store=store, tracking=tracking)
        (self.folder / "study.yaml").write_text(text)
        return text

    def run(self, *arguments: str, exit_code: int, **environment: str) -> str:
        """Runs a command to its end; keeps and returns its printed output."""
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=kept | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout.decode()
        self.printed += done.stdout
        return done.stdout.decode()

    def mergesweep(self, *arguments: str, exit_code: int, **environment: str) -> str:
        """Runs a mergesweep command."""
        program = str(Path(sys.executable).with_name("mergesweep"))
        return self.run(program, *arguments, exit_code=exit_code, **environment)

    def left_behind(self) -> Iterator[tuple[str, bytes]]:
        """Yields the printed output and every written file, each with its name."""
        yield "what was printed", self.printed
        for path in self.folder.rglob("*"):
            if path.is_file():
                yield str(path), str(path).encode() + path.read_bytes()


@pytest.fixture
def home() -> Iterator[Home]:
    """Makes a directory with a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ms-", dir="/tmp"))
    yield Home(folder)
    shutil.rmtree(folder)


def store_contents(url: str) -> Iterator[tuple[str, bytes]]:
    """Yields the key and content of every object in a store, and adds the text of tables."""
    store = open_store(url)
    for entry in store.list(""):
        content = store.get(entry.key)
        if entry.key.endswith(".parquet"):
            content += repr(pq.read_table(BytesIO(content)).to_pylist()).encode()
        yield entry.key, entry.key.encode() + content


def lose_images(home: Home, *, text: str) -> None:
    """Commits a task's images and then removes their files, so that the task's trial fails."""
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    images = opened.plan.datasets[-1].id
    url = opened.store_url
    home.run(sys.executable, "-m", "workers.run", images, "--store", url, exit_code=0)
    store = opened.artifacts.store
    files = [entry.key for entry in store.list(f"artifacts/data/{images[:2]}/{images}/")]
    store.delete([key for key in files if not key.endswith("manifest.json")])
    shutil.rmtree(home.cache)


def run_every_command(home: Home, *, url: str) -> None:
    """Runs the study, in which one trial fails, and then every command that reads a study."""
    home.mergesweep("run", "study.yaml", exit_code=1)
    calls = [
        *[(verb, "small", "--store", url) for verb in ("status", "results", "report")],
        ("verify", "small", "--store", url, "--dry-run"),
        ("plan", "study.yaml", "--json"),
    ]
    printed = home.run(sys.executable, "-c", CALLS, json.dumps(calls), exit_code=0)
    assert json.loads(printed.splitlines()[-1]) == [3, 3, 3, 1, 0]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.s3
def test_no_secret_leaves_the_environment(
    home: Home,
    s3_url: str,
    refusing_server: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No store object, MLflow run, log, report or terminal output contains a secret.

    The study has a failed trial, an MLflow server that refuses its password, and a store that
    refuses its keys.
    """
    tracking, headers = refusing_server
    text = home.write_study(store=s3_url, tracking=tracking)
    lose_images(home, text=text)
    run_every_command(home, url=s3_url)
    wrong = {"AWS_SECRET_ACCESS_KEY": make_secret(), "AWS_SESSION_TOKEN": make_secret()}
    home.mergesweep("run", "study.yaml", exit_code=2, **wrong)
    home.run(
        *[sys.executable, "-m", "workers.run", "0" * 16, "--store", s3_url], exit_code=2, **wrong
    )
    in_address = make_secret().partition("/")[0]
    home.write_study(store=s3_url, tracking=f"http://someone:{in_address}@127.0.0.1:1")
    said = home.mergesweep("run", "study.yaml", exit_code=2)
    assert "MLFLOW_TRACKING_PASSWORD" in said
    (home.folder / "study.yaml").unlink()
    for variable, value in home.environment.items():
        monkeypatch.setenv(variable, value)
    opened = open_by_name("small", store_url=s3_url)
    database = f"sqlite:///{home.folder}/mlflow.db"
    assert republish(replace(opened, tracking_uri=database), rebuild=False).error is None

    password = home.environment["MLFLOW_TRACKING_PASSWORD"]
    assert f"Basic {base64.b64encode(f'someone:{password}'.encode()).decode()}" in headers
    found = dict([*home.left_behind(), *store_contents(s3_url)])
    for part in ("/failure-", "plan.json", "report.html", "mlflow.db", "mlflow.log", "raylet.out"):
        assert any(part in name for name in found), part
    keys = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    for secret in (*keys, password, in_address, *wrong.values()):
        leaks = [
            name for name, content in found.items() if any(f in content for f in forms_of(secret))
        ]
        assert leaks == []


def test_search_finds_a_secret_in_every_form() -> None:
    """`forms_of` recognises a secret in plain text, in a URL and inside a base64 text."""
    secret = make_secret()
    for text in (secret, quote(secret), quote(secret, safe="")):
        assert any(form in f"a{text}b".encode() for form in forms_of(secret))
    for before in ("", "u:", "someone:", "abc"):
        encoded = base64.b64encode(f"{before}{secret}@host".encode())
        assert any(form in encoded for form in forms_of(secret)), before
