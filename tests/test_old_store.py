"""Opens a finished study written by the release of November 2026, before the rooms.

The archive has the manifests and the study's own files, without the artifacts' tensors and images.
Its study pretrains two bases and varies steps, heads, averaged weights, sharpness-aware
minimization and the number of tasks, so that every kind of manifest and specification occurs.
"""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.command_line import cli

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


def test_plan_shows_the_data_of_old_manifests(store: Path, tmp_path: Path) -> None:
    """Manifests without counts and without a comparison of images are shown as far as they go."""
    study = yaml.safe_load((store / "studies" / NAME / "study.yaml").read_text("utf-8"))
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**study, "store": str(store)}), "utf-8")
    ended = CliRunner().invoke(cli, ["plan", str(path), "--json"])
    assert ended.exit_code == 0, ended.output
    summary = json.loads(ended.stdout)["summary"]
    assert summary["counts"]["num_experts_done"] == 18
    assert [task["shared"] for task in summary["data"]["tasks"]] == [None] * len(study["tasks"])
