"""Opens a finished study written by the release of November 2026, before the rooms.

The archive has the manifests and the study's own files, without the artifacts' tensors and images.
Its study pretrains two bases and varies steps, heads, averaged weights, sharpness-aware
minimization and the number of tasks, so that every kind of manifest and specification occurs.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from orchestrator.cli.command_line import cli
from orchestrator.record.data_check import check_data
from orchestrator.run.opened import open_by_name

ARCHIVE = Path(__file__).parent / "golden" / "finished_store.tar.xz"
NAME = "before"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacks the archive and returns the folder of the store."""
    folder = tmp_path_factory.mktemp("old") / "store"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_study_is_found_finished(store: Path) -> None:
    """Every planned id is found among the old manifests, so the study counts as finished."""
    ended = CliRunner().invoke(cli, ["status", NAME, "--store", str(store)])
    assert ended.exit_code == 0, ended.output
    assert "experts 18 of 18, merge jobs 52 of 52" in ended.output
    assert "finished" in ended.output


def test_a_lost_file_is_told_with_its_remedy(store: Path, tmp_path: Path) -> None:
    """The archive has no tensors: an export names the file and the command that withdraws it."""
    words = ["export", NAME, "--best", "--store", str(store), "-o", str(tmp_path / "model")]
    # In a process of its own: the libraries that it loads complain when a test process ends.
    called = [sys.executable, "-m", "orchestrator", *words]
    ended = subprocess.run(called, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "file backbone.safetensors of attempt" in ended.stderr
    assert "it is missing; run `mergesweep verify STUDY" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(("options", "name"), [((), "results"), (("--experts",), "experts")])
def test_tables_are_the_same(store: Path, options: tuple[str, ...], name: str) -> None:
    """Tables computed from the old manifests equal the earlier release's tables, byte for byte."""
    command = ["results", NAME, "--store", str(store), "--format", "parquet", *options]
    ended = CliRunner().invoke(cli, command)
    assert ended.exit_code == 0, ended.stderr
    now = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(ended.stdout_bytes)), now, compression="zstd")
    assert now.getvalue() == (store / "studies" / NAME / f"{name}.parquet").read_bytes()


def test_data_of_old_manifests_is_shown_as_far_as_it_goes(store: Path) -> None:
    """Manifests without counts and without a comparison of images are no error."""
    opened = open_by_name(NAME, store_url=str(store), is_read_only=True)
    check = check_data(opened.ledger.committed())
    assert [task.task for task in check.tasks] == list(opened.plan.sources)
    assert {task.shared for task in check.tasks} == {None}
    assert not check.has_no_pairs


def test_merges_of_a_lost_expert_become_holes(store: Path, tmp_path: Path) -> None:
    """All rows show a merge beside its experts, so a merge without one of them has no rows."""
    partial = tmp_path / "store"
    shutil.copytree(store, partial)
    rows = pq.read_table(store / "studies" / NAME / "results.parquet").to_pylist()
    lost = next(row["expert_id"] for row in rows if row["expert_id"])
    shutil.rmtree(next(partial.glob(f"artifacts/expert/*/{lost}")))
    command = ["results", NAME, "--store", str(partial), "--format", "json"]
    ended = CliRunner().invoke(cli, command)
    kept = {row["merge_id"] for row in json.loads(ended.stdout)}
    without = {row["merge_id"] for row in rows if row["expert_id"] == lost}
    assert kept == {row["merge_id"] for row in rows} - without
    state = open_by_name(NAME, store_url=str(partial), is_read_only=True).ledger.state()
    reasons = {hole.id: hole.reason for hole in state.holes()}
    assert reasons.keys() == {*without, lost}
    assert all(f"blocked by missing expert {lost}" in reasons[each] for each in without)
