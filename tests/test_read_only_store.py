"""Commands on a store that is mounted read-only, in which nothing can be written even by root."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ARCHIVE = Path(__file__).parent / "golden" / "finished_store.tar.xz"
CALLS = """
import json, sys
from click.testing import CliRunner
from orchestrator.cli.command_line import cli
ends = []
for words in json.loads(sys.argv[1]):
    end = CliRunner().invoke(cli, words)
    ends.append([end.exit_code, end.output])
print(json.dumps(ends))
"""
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacks the store of a finished study."""
    folder = tmp_path_factory.mktemp("read-only") / "store"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def call_all(commands: list[list[str]], *, store: Path, folder: Path) -> list[tuple[int, str]]:
    """Calls the command line once for each list of words; returns exit codes and outputs."""
    names = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    called = [sys.executable, "-c", CALLS, json.dumps(commands)]
    done = subprocess.run(
        [*names, "sh", "-c", MOUNT, "sh", str(store), *called],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"this machine allows no mounts: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return [(code, output) for code, output in json.loads(done.stdout.splitlines()[-1])]


def test_reading_commands_only_read_and_others_say_why_not(store: Path, tmp_path: Path) -> None:
    """A colleague's store, or an archive, can be looked at; a run of it is refused in one line."""
    study_file = tmp_path / "study.yaml"
    text = (store / "studies" / "before" / "study.yaml").read_text()
    study_file.write_text(text.replace("store: ./store", f"store: {store}"))
    at = ["before", "--store", str(store)]
    reading = [
        ["status", *at],
        ["results", *at],
        ["watch", *at],
        ["report", *at, "-o", "page.html"],
        ["gc", "--store", str(store)],
        ["advise", *at],
        ["plan", str(study_file)],
    ]
    writing = [["run", str(study_file)], ["resume", *at], ["track", *at], ["report", *at]]
    writing[-1] += ["-o", str(store / "page.html")]
    ends = call_all([*reading, ["verify", *at], *writing], store=store, folder=tmp_path)
    for words, (code, output) in zip(reading, ends, strict=False):
        assert code == 0, (words, output)
    assert "this user cannot write to the store" in ends[len(reading) - 1][1]
    _, verified = ends[len(reading)]
    assert "nothing is withdrawn" in verified
    for words, (code, output) in zip(writing, ends[-len(writing) :], strict=True):
        assert code == (1 if words[0] == "report" else 2), (words, output)
        assert "Read-only file system" in output
        assert len(output.splitlines()) <= 2, output
    assert (tmp_path / "page.html").stat().st_size > 0
