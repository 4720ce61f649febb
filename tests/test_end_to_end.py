"""Runs one small study through the real command line: undisturbed, disturbed, and on S3."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from known_models import remember_models
from waiting import wait_until

from orchestrator.cli.command_line import cli
from orchestrator.record.folder import TRACKING_FILE

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
NAME = "small"
STUDY = """
name: small
backbone: {{model: test_efficientnet, weights: none, image_size: 16}}
tasks: {{names: [mnist_5k, font_letters, emoji_objects], max_train: 32, max_test: 16}}
finetune:
  optimizer: {{name: adam}}
  defaults: {{steps: 6, batch_size: 8, lr: 0.001}}
  axes: {{lr: [0.001, 0.01], steps: [3, 6]}}
groups: {{size: 2}}
merge: [{{method: average}}, {{method: ties}}]
resources: {{trial: {{cpu: 2}}, merge: {{cpu: 2}}}}
store: {store}
"""
NUM_EXPERTS = 3 * 3  # tasks x points: (lr, steps) = (0.001, 6), (0.01, 6), (0.001, 3)
NUM_MERGES = 3 * 3 * 2  # groups x points x methods
NUM_ROWS = 4 * 3 * 2 * (2 + 2)  # settings x groups x methods x (tasks and means)
MARK = "MERGESWEEP_TEST_RUN"
TIMEOUT_S = 300
GONE_S = 120


class Home:
    """A directory that holds the study file and in which the commands run."""

    def __init__(self, folder: Path, *, store: str = "./store") -> None:
        folder.mkdir()
        self.folder = folder
        self.store = folder / "store"
        (folder / "study.yaml").write_text(STUDY.format(store=store))
        remember_models(folder / "cache")
        self.mark = uuid4().hex
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self._environment = {
            **kept,
            MARK: self.mark,
            "MERGESWEEP_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts a command in its own process group, as a terminal does."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("mergesweep")), *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs a command to its end and returns its printed output."""
        return self.end(self.start(*arguments), exit_code=exit_code)

    def end(self, process: subprocess.Popen[str], *, exit_code: int) -> str:
        """Waits for the end of a command and returns its printed output."""
        try:
            printed, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == exit_code, printed
        return printed

    def num_committed(self, kind: str) -> int:
        """Counts the committed artifacts of a kind."""
        return sum(1 for _ in (self.store / "artifacts" / kind).glob("*/*/manifest.json"))

    def manifests(self) -> dict[Path, bytes]:
        """Returns every manifest in the store by path."""
        found = (self.store / "artifacts").glob("*/*/*/manifest.json")
        return {path.relative_to(self.store): path.read_bytes() for path in found}

    def study_file(self, name: str) -> Path:
        """Returns the path of a file of the study."""
        return self.store / "studies" / NAME / name

    def runs_by_kind(self) -> dict[str, int]:
        """Counts the MLflow runs of each kind in the database."""
        with closing(sqlite3.connect(self.store / "mlflow.db")) as database:
            query = "select value, count(*) from tags where key = 'kind' group by value"
            return dict(database.execute(query).fetchall())

    def processes(self) -> list[str]:
        """Returns the command lines of the processes that descend from this home's commands."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # the process has ended
        return found


def called(*arguments: str, home: Home, exit_code: int = 0) -> str:
    """Calls a command on a home's store in this process, which spares its start."""
    ended = CliRunner().invoke(cli, [*arguments, "--store", str(home.store)])
    assert ended.exit_code == exit_code, ended.output
    return ended.output


def wait_until_gone(home: Home) -> None:
    """Waits until all processes of this home's commands have ended."""
    deadline_s = time.monotonic() + GONE_S
    while left := home.processes():
        assert time.monotonic() < deadline_s, left
        time.sleep(0.2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Runs the study from nothing to its end."""
    home = Home(tmp_path_factory.mktemp("undisturbed") / "home")
    printed = home.run("run", "study.yaml")
    assert "Traceback" not in printed
    assert f"mergesweep ui {NAME} --store" in printed
    yield home
    assert home.processes() == []


def test_study_leaves_tables_report_and_runs(undisturbed: Home) -> None:
    """A finished study has tables, a report, and an MLflow run for every expert and merge."""
    assert undisturbed.num_committed("expert") == NUM_EXPERTS
    assert undisturbed.num_committed("merge") == NUM_MERGES
    results = pq.read_table(undisturbed.study_file("results.parquet"))
    assert results.num_rows == NUM_ROWS
    assert set(results["axis"].to_pylist()) == {"lr", "steps"}
    assert all(0 <= accuracy <= 1 for accuracy in results["accuracy"].to_pylist())
    assert undisturbed.study_file("report.html").stat().st_size > 10_000
    runs = undisturbed.runs_by_kind()
    assert (runs["expert"], runs["merge"]) == (NUM_EXPERTS, NUM_MERGES)
    assert runs["setting"] == 4 * 2
    assert runs["report"] == 1


def test_finished_study_runs_nothing(undisturbed: Home) -> None:
    """A run of a finished study ends within 10 s and says that nothing is left to run.

    The promise is 5 s; the test allows twice as long, for a busy machine.
    """
    before = undisturbed.manifests()
    started_s = time.monotonic()
    printed = undisturbed.run("run", "study.yaml")
    assert time.monotonic() - started_s < 10
    assert "nothing left to run" in printed
    assert undisturbed.manifests() == before


def test_replay_adds_no_run_to_mlflow(undisturbed: Home) -> None:
    """Sending all artifacts to MLflow a second time adds no MLflow run."""
    before = undisturbed.runs_by_kind()
    undisturbed.study_file(TRACKING_FILE).unlink()
    undisturbed.run("resume", NAME, "--store", "./store")
    assert undisturbed.study_file(TRACKING_FILE).exists()
    assert undisturbed.runs_by_kind() == before


def test_interrupted_study_ends_with_the_same_bytes(undisturbed: Home, tmp_path: Path) -> None:
    """A study that Ctrl-C stopped during the merges ends with the same tables, byte for byte.

    It is resumed by its name, without the study file. `tests/chaos` kills drivers.
    """
    home = Home(tmp_path / "home")
    printed = _interrupt_after_first_merge(home)
    committed = home.manifests()
    command = re.search(rf"mergesweep (resume {NAME} --store \S+)", printed)
    assert command is not None, printed
    (home.folder / "study.yaml").unlink()
    home.run(*command.group(1).split())
    for name in ("results.parquet", "experts.parquet"):
        assert home.study_file(name).read_bytes() == undisturbed.study_file(name).read_bytes()
    now = home.manifests()
    assert {path: now[path] for path in committed} == committed  # no artifact was made again
    assert home.runs_by_kind() == undisturbed.runs_by_kind()


def _interrupt_after_first_merge(home: Home) -> str:
    driver = home.start("run", "study.yaml")
    wait_until(lambda: home.num_committed("merge"), timeout_s=TIMEOUT_S)
    os.killpg(driver.pid, signal.SIGINT)
    printed = home.end(driver, exit_code=130)
    assert home.num_committed("merge") < NUM_MERGES
    assert "Traceback" not in printed
    assert "ERROR" not in printed
    wait_until_gone(home)
    return printed


@pytest.mark.large
def test_second_run_beside_the_first_is_refused(tmp_path: Path) -> None:
    """A second run is refused and names the first; with --take-over, the first run stops."""
    home = Home(tmp_path / "home")
    text = STUDY.format(store="./store").replace("steps: 6", "steps: 5000")
    (home.folder / "study.yaml").write_text(text.replace("[3, 6]", "[3, 5000]"))
    first = home.start("run", "study.yaml")
    wait_until(lambda: home.num_committed("expert"), timeout_s=TIMEOUT_S)
    refused = home.run("run", "study.yaml", exit_code=1)
    assert f"pid {first.pid}" in refused
    assert "--take-over" in refused
    assert f"pid {first.pid}" in home.run("verify", NAME, "--store", "./store", exit_code=1)
    assert first.poll() is None
    second = home.start("resume", NAME, "--store", "./store", "--take-over")
    assert "taken over" in home.end(first, exit_code=1)
    assert second.poll() is None
    os.killpg(second.pid, signal.SIGINT)
    home.end(second, exit_code=130)
    wait_until_gone(home)


def test_broken_expert_is_found_and_made_again(undisturbed: Home, tmp_path: Path) -> None:
    """A run retrains a corrupted expert and no other; `gc` then deletes the corrupted file."""
    home = Home(tmp_path / "home")
    shutil.copytree(undisturbed.store, home.store)
    before = home.manifests()
    broken = min(home.store.glob("artifacts/expert/*/*/*/expert.safetensors"))
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    assert broken.parts[-3] in called("verify", NAME, home=home, exit_code=1)
    home.run("run", "study.yaml")
    called("verify", NAME, home=home)
    now = home.manifests()
    changed = [path for path in before if now[path] != before[path]]
    assert [path.parts[-2] for path in changed] == [broken.parts[-3]]
    for name in ("results.parquet", "experts.parquet"):
        assert home.study_file(name).read_bytes() == undisturbed.study_file(name).read_bytes()
    assert broken.exists()
    assert broken.name in called("gc", "--min-age", "0", home=home)
    called("gc", "--min-age", "0", "--delete", home=home)
    assert not broken.exists()
    assert home.manifests() == now
    called("verify", NAME, home=home)


@pytest.mark.large
def test_measure_makes_each_measurement_once(undisturbed: Home, tmp_path: Path) -> None:
    """Workers commit constants, reaches and operators; a second call starts none; theory reads."""
    home = Home(tmp_path / "home")
    shutil.copytree(undisturbed.store, home.store)
    command = ("measure", NAME, "--store", "./store")
    first = home.run(*command)
    assert "measurements are missing" in first
    assert "proved form: score, not a bound" in first
    constants = sorted((home.store / "artifacts" / "constants").glob("*/*/manifest.json"))
    assert len(constants) == 3
    assert "measurements are missing" not in home.run(*command)
    told = home.run("theory", NAME, "--store", "./store")
    assert "constants of the bases are not measured" not in told


def test_runs_are_made_again_from_the_store_alone(undisturbed: Home, tmp_path: Path) -> None:
    """`track --rebuild` gives an empty MLflow the same runs, from the store alone."""
    home = Home(tmp_path / "home")
    shutil.copytree(undisturbed.store, home.store)
    for path in home.store.glob("mlflow*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    home.run("track", NAME, "--store", "./store", "--rebuild")
    assert home.runs_by_kind() == undisturbed.runs_by_kind()


@pytest.mark.s3
@pytest.mark.large
def test_study_on_s3_has_the_same_results(undisturbed: Home, tmp_path: Path, s3_url: str) -> None:
    """A study with its store on S3 has the same result rows as one with a local store."""
    home = Home(tmp_path / "home", store=s3_url)
    home.run("run", "study.yaml")
    home.run("results", NAME, "--store", s3_url, "--format", "table")
    (home.folder / "rows.json").write_text(
        home.run("results", NAME, "--store", s3_url, "--format", "json")
    )
    local = undisturbed.run("results", NAME, "--store", "./store", "--format", "json")
    assert (home.folder / "rows.json").read_text() == local
