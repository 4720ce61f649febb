"""Runs a small search through the real command line, and kills another one with signal 9."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from known_models import remember_models
from searched_study import search_fields

from orchestrator.cli.command_line import cli

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
NAME = "searched"
TABLES = ("results.parquet", "experts.parquet", "candidates.parquet")
TIMEOUT_S = 600
NUM_KILLS = 5
MARK = "MERGESWEEP_TEST_RUN"
WITH_SEARCHER = {"algorithm": "tpe", "budget": {"candidates": 8}}
"""Two batches of four, the second of which the searcher proposes from the scores of the first."""


class Home:
    """A directory with a study file, in which the command runs."""

    def __init__(self, folder: Path, **search: object) -> None:
        folder.mkdir()
        self.folder = folder
        self.store = folder / "store"
        fields: dict[str, Any] = {
            **search_fields(self.store, **search),
            "resources": {"trial": {"cpu": 2}, "merge": {"cpu": 2}},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(fields))
        remember_models(folder / "cache")
        self.mark = uuid4().hex
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._environment = {
            **kept,
            MARK: self.mark,
            "MERGESWEEP_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> subprocess.Popen[str]:
        """Starts a run in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "run", "study.yaml", "--take-over"],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Runs the study to its end; returns what it printed."""
        process = self.start()
        try:
            printed, _ = process.communicate(timeout=TIMEOUT_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        assert process.returncode == 0, printed
        return printed

    def kill(self) -> int:
        """Kills all processes of the study with signal 9, Ray's too; returns their number."""
        killed: set[int] = set()
        while pids := self._pids():
            killed |= pids
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        return len(killed)

    def _pids(self) -> set[int]:
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes():
                    found.add(int(process.name))
        return found

    def num_committed(self) -> int:
        """Counts the committed experts and merges."""
        found = (self.store / "artifacts").glob("*/*/*/manifest.json")
        return sum(each.parts[-4] in {"expert", "merge"} for each in found)

    def file(self, name: str) -> bytes:
        """Returns a file of the study."""
        return (self.store / "studies" / NAME / name).read_bytes()

    def decisions(self) -> dict[str, bytes]:
        """Returns the recorded decisions by file name."""
        found = (self.store / "studies" / NAME).glob("search-*.json")
        return {path.name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """Runs a search from nothing to its end; returns it with what it printed."""
    home = Home(tmp_path_factory.mktemp("undisturbed") / "home", **WITH_SEARCHER)
    return home, home.finish()


def test_search_prints_its_winner_and_leaves_tables(tmp_path: Path) -> None:
    """The end names the best candidate; its table has every candidate at every rung."""
    home = Home(tmp_path / "home", budget={"candidates": 2}, halving={"factor": 2, "first": 4})
    printed = home.finish()
    rows = pq.read_table(home.store / "studies" / NAME / "candidates.parquet").to_pylist()
    words = ["results", NAME, "--candidates", "--format", "csv", "--store", str(home.store)]
    shown = CliRunner().invoke(cli, words)

    assert "Traceback" not in printed
    assert "best: candidate" in printed
    assert [row["outcome"] for row in rows].count("won") == 1
    assert len(rows) == 2 + 1
    assert shown.exit_code == 0
    assert "trained_steps" in shown.output


@pytest.mark.large
def test_search_killed_at_random_moments_ends_with_the_same_bytes(
    undisturbed: tuple[Home, str], tmp_path: Path
) -> None:
    """Signal 9 to all processes changes neither a decision nor a byte of the tables."""
    expected, _ = undisturbed
    home, draw = Home(tmp_path / "home", **WITH_SEARCHER), random.Random(1)
    for _ in range(NUM_KILLS):
        process = home.start()
        enough = home.num_committed() + draw.randint(1, 11)
        deadline_s = time.monotonic() + TIMEOUT_S
        while process.poll() is None and home.num_committed() < enough:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        time.sleep(3 * draw.random())
        assert process.poll() is None, "the study ended before it was killed"
        assert home.kill() > 1
        process.communicate()
    home.finish()

    assert home.decisions() == expected.decisions()
    assert [home.file(name) for name in TABLES] == [expected.file(name) for name in TABLES]
