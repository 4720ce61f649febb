"""Every verb, every kind of fault: one message and the documented exit code."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from orchestrator.cli.command_line import cli
from orchestrator.cli.exit_codes import BAD_INPUT, DONE, FAILED, INCOMPLETE, INTERRUPTED
from orchestrator.lease.lease import Lease
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.study.reader import parse_study
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.store.protocol import RETRY_TIMEOUT_S, Store

Call = Callable[..., Result]
FILE_VERBS = ("plan", "prepare", "run")
NAME_VERBS = (
    *(
        "resume",
        "results",
        "report",
        "theory",
        "advise",
        "measure",
        "ui",
        "track",
        "verify",
        "status",
        "watch",
        "export",
    ),
)
CLUSTER_VERBS = ("logs", "stop", "status", "watch")
ARGUMENTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(FILE_VERBS, ("study.yaml",)),
    **dict.fromkeys((*NAME_VERBS, "logs", "stop"), ("small",)),
    "score": ("small", "file"),
    "submit": ("study.yaml",),
    "gc": (),
    "methods": (),
    "check-method": ("./none.py:Mine",),
    "init": (),
    "schema": (),
    "merge": ("--method", "average", "--base", "b", "-o", "o", "e"),
}
OPTIONS = dict.fromkeys(("submit", "logs", "stop"), ("--address", "http://127.0.0.1:9"))


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)


@pytest.fixture
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps tracebacks in the test's directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def opened(study_fields: Callable[..., dict[str, Any]]) -> OpenedStudy:
    """Opens a small study that was planned and never run."""
    text = yaml.safe_dump(study_fields())
    opened = open_study(parse_study(text, source="study.yaml"), text=text)
    opened.folder.write_plan(opened.plan, study_text=text)
    return opened


def commit(store: Store, manifests: list[Manifest]) -> None:
    for manifest in manifests:
        store.put(Layout.manifest(manifest.kind, manifest.id), manifest.to_json())


def fails_in_words(result: Result, code: int) -> None:
    """Checks the exit code, that there is a message, and that nothing was unforeseen."""
    assert result.exit_code == code, result.output
    assert "Error: " in result.stderr
    assert "not foreseen" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", sorted(cli.commands))
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("why"), FAILED, "Error: RuntimeError: why\nThis error was not foreseen."),
        (MemoryError(), FAILED, "Error: MemoryError"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
    ],
)
@pytest.mark.usefixtures("own_temporary_folder")
def test_errors_that_no_verb_expects_and_interrupts(  # noqa: PLR0917 pytest passes them by name
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    """They end in one place for all verbs."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.commands[verb], "callback", fail)
    result = call(verb, *ARGUMENTS[verb], *OPTIONS.get(verb, ()))
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.strip().startswith(said)
    assert "Traceback" not in result.output


BOMB = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 40)
)
STUDY_FILES: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "no mapping": b"- a\n",
    "not YAML": b"name: [a\n",
    "unknown field": b"nam: a\n",
    "bomb": BOMB,
    "impossible date": b"name: 2001-99-99\n",
    "surrogate": rb'name: "\udc80"',
    "keys that are no text": b"1: 2\n~: 3\n",
}


@pytest.mark.parametrize("verb", [*FILE_VERBS, "submit"])
@pytest.mark.parametrize("fault", STUDY_FILES)
def test_study_files_that_cannot_be_used(call: Call, verb: str, fault: str) -> None:
    """The message names the file."""
    path = Path("study.yaml")
    if (content := STUDY_FILES[fault]) is not None:
        path.write_bytes(content)
    result = call(verb, path, *OPTIONS.get(verb, ()))
    fails_in_words(result, BAD_INPUT)
    assert "study.yaml: " in result.stderr


@pytest.mark.parametrize("verb", [*FILE_VERBS, "submit"])
def test_directory_is_no_study_file(call: Call, tmp_path: Path, verb: str) -> None:
    """Click says so."""
    result = call(verb, tmp_path, *OPTIONS.get(verb, ()))
    fails_in_words(result, BAD_INPUT)
    assert "is a directory" in result.stderr


STORES = {
    "missing": "none",
    "a file": "file",
    "a name that is too long": "x" * 300,
    "a name that is no text": os.fsdecode(b"\xff"),
    "empty": "",
    "without a bucket": "s3://",
    "without credentials": "s3://bucket/prefix",
    "with an unknown scheme": "http://127.0.0.1/store",
}


@pytest.mark.parametrize("verb", [*NAME_VERBS, "gc"])
@pytest.mark.parametrize("fault", STORES)
def test_stores_that_cannot_be_used(call: Call, verb: str, fault: str) -> None:
    """A store that does not exist has no study of that name."""
    Path("file").touch()
    result = call(verb, *ARGUMENTS[verb], "--store", STORES[fault])
    fails_in_words(result, BAD_INPUT)
    assert not Path("none").exists()


@pytest.mark.parametrize("verb", NAME_VERBS)
@pytest.mark.parametrize("name", ["other", "Not A Name", "../small", "[red]", "\x1b[31m", ""])
def test_names_that_the_store_does_not_have(
    call: Call, opened: OpenedStudy, verb: str, name: str
) -> None:
    """The message names the study, and nothing of it acts on the terminal."""
    result = call(verb, name, "--store", opened.store_url)
    fails_in_words(result, BAD_INPUT)
    assert repr(name) in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.parametrize("verb", ["plan", "run", "prepare", "resume", "results", "status"])
def test_damaged_study(call: Call, opened: OpenedStudy, verb: str) -> None:
    """The message has the command that shows the damage."""
    Path("study.yaml").write_text(opened.text)
    opened.folder.write_bytes("plan.json", b"{")
    options = () if verb in FILE_VERBS else ("--store", opened.store_url)
    result = call(verb, *ARGUMENTS[verb], *options)
    fails_in_words(result, BAD_INPUT)
    assert "mergesweep verify small --store" in result.stderr


@pytest.mark.parametrize("verb", CLUSTER_VERBS)
@pytest.mark.parametrize(
    "address",
    ["head", "http://", "http://127.0.0.1:9", "http://[", "http://head:port", "http://a b"],
)
def test_clusters_that_do_not_answer(call: Call, verb: str, address: str) -> None:
    """A typing error and a server that is down are both about the address."""
    result = call(verb, "small", "--address", address)
    fails_in_words(result, BAD_INPUT)
    assert address in result.stderr


OPTION_FAULTS = [
    ("plan", "--slots", "0"),
    ("plan", "--slots", "many"),
    ("results", "--format", "xml"),
    ("results", "--experts", "--means"),
    ("ui", "--port", "0"),
    ("ui", "--port", "65536"),
    ("gc", "--min-age", "-1"),
    ("gc", "--min-age", "nan"),
    ("gc", "--min-age", "inf"),
    ("merge", "--set", "density"),
    ("merge", "--set", "density=[", "--set", "x=2001-99-99"),
    ("merge", "--threads", "0"),
    ("report", "-o", "."),
    ("run", "--take-over=yes"),
]


@pytest.mark.parametrize("words", OPTION_FAULTS, ids=" ".join)
def test_options_that_cannot_be_used(call: Call, words: tuple[str, ...]) -> None:
    """They are refused before anything is opened."""
    verb, *options = words
    result = call(verb, *ARGUMENTS[verb], *options)
    fails_in_words(result, BAD_INPUT)
    assert options[0].partition("=")[0].lstrip("-") in result.stderr.replace("--output", "-o")


@pytest.mark.parametrize("verb", sorted({*ARGUMENTS} - {"gc", "methods", "init", "schema"}))
def test_missing_arguments(call: Call, verb: str) -> None:
    """The usage is shown."""
    result = call(verb)
    fails_in_words(result, BAD_INPUT)
    assert "Usage: " in result.stderr


@contextmanager
def held(opened: OpenedStudy) -> Iterator[None]:
    with Lease.acquire(opened.artifacts.store, "small"):
        yield


@pytest.mark.parametrize(
    "words",
    [
        ("run", "study.yaml"),
        ("prepare", "study.yaml"),
        ("resume",),
        ("verify",),
        ("gc", "--delete"),
    ],
    ids=" ".join,
)
def test_study_that_another_driver_holds(
    call: Call, opened: OpenedStudy, words: tuple[str, ...]
) -> None:
    """Nothing is wrong with the input: it works once the other driver has ended."""
    Path("study.yaml").write_text(opened.text)
    verb, *rest = words
    name = () if verb in (*FILE_VERBS, "gc") else ("small",)
    options = () if verb in FILE_VERBS else ("--store", opened.store_url)
    with held(opened):
        result = call(verb, *rest, *name, *options)
    assert result.exit_code == FAILED
    assert "held by" in result.output


READING = ("status", "watch", "results", "report")


@pytest.mark.parametrize("verb", ["status", "gc"])
def test_store_that_does_not_answer_is_named_within_seconds(
    call: Call, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Requests of a run are repeated for a minute; somebody at a terminal does not wait that long.

    The first verb opens a study by name, the second the store alone.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    began_s = time.monotonic()
    name = () if verb == "gc" else ("small",)
    result = call(verb, *name, "--store", "s3://bucket?endpoint_url=http://127.0.0.1:9")
    assert time.monotonic() - began_s < RETRY_TIMEOUT_S / 2
    assert result.exit_code == BAD_INPUT
    assert "did not answer" in result.output


@pytest.mark.parametrize("verb", READING)
def test_study_that_lacks_something_is_incomplete(
    call: Call, opened: OpenedStudy, verb: str
) -> None:
    """Nothing was run yet."""
    assert call(verb, "small", "--store", opened.store_url).exit_code == INCOMPLETE


@pytest.mark.parametrize("verb", READING)
def test_study_that_has_everything_is_done(
    call: Call,
    opened: OpenedStudy,
    all_manifests: Callable[..., list[Manifest]],
    verb: str,
) -> None:
    """All experts and merges are committed."""
    commit(opened.artifacts.store, all_manifests(opened.plan))
    assert call(verb, "small", "--store", opened.store_url).exit_code == DONE
