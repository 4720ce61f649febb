"""Opens a finished study written by the release of November 2026, before the rooms.

The archive has the manifests and the study's own files, without the artifacts' tensors and images.
Its study pretrains two bases and varies steps, heads, averaged weights, sharpness-aware
minimization and the number of tasks, so that every kind of manifest and specification occurs.
"""

import io
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
