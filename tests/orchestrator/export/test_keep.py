"""Merges that keep their weights: stored with the scores, read by `export`, checked by `verify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from in_process import small_study
from safetensors.torch import load_file

import workers.export.models
from orchestrator.cli.command_line import cli
from orchestrator.run.opened import OpenedStudy
from orchestrator.study.checks.merges import check_merges
from orchestrator.study.schema import Merge
from orchestrator.upkeep.gc import collect
from workers.artifacts.manifests import Manifest
from workers.workspace import Workspace

METHODS: list[dict[str, Any]] = [
    {"method": "average", "label": "scores"},
    {"method": "average", "label": "kept", "keep": "merged", "batch_norm": "base"},
    {"method": "emr", "label": "masks", "keep": "merged"},
    {"method": "magmax", "label": "tuned", "keep": "merged", "scaling": {"tune": [0.3, 1.0]}},
]
TASKS = ["emoji_objects", "mnist_5k"]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedStudy]:
    """Runs the study once for all tests of this module."""
    root = tmp_path_factory.mktemp("keep")
    with small_study(
        root,
        tasks={"names": TASKS, "max_train": 32, "max_test": 24, "max_validation": 16},
        finetune={"defaults": {"steps": 4, "batch_size": 8, "lr": 0.01}},
        merge=METHODS,
    ) as (study, _):
        yield study


def manifest_of(opened: OpenedStudy, label: str) -> Manifest:
    """Returns the manifest of the one merge by a method."""
    (cell,) = [each for each in opened.plan.cells if each.label == label]
    return opened.ledger.committed().merges[cell.merge.id]


def test_weights_are_part_of_the_artifact(opened: OpenedStudy) -> None:
    """One file, or one for each task; other merges have none, and their ids are as before."""
    names = {
        each["label"]: [file.name for file in manifest_of(opened, each["label"]).files]
        for each in METHODS
    }
    shared = ["merged.safetensors"]
    of_tasks = [f"merged.{task}.safetensors" for task in TASKS]
    assert names == {"scores": [], "kept": shared, "masks": of_tasks, "tuned": shared}
    assert "keeps_weights" not in manifest_of(opened, "scores").spec


@pytest.mark.parametrize("label", ["kept", "masks", "tuned"])
def test_export_reads_kept_weights(
    opened: OpenedStudy, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It merges nothing; the weights have the digest that the evaluation recorded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("merged again")

    monkeypatch.setattr(workers.export.models, "merged_models", refuse)
    words = ["export", "small", "--best", "--method", label, "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, [*words, "--store", opened.store_url])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / (TASKS[0] if label == "masks" else ".")
    workspace = Workspace(
        opened.store_url, cache_root=tmp_path / "cache", device=torch.device("cpu")
    )
    manifest = manifest_of(opened, label)
    stored = load_file(workspace.file("merge", manifest.id, manifest.files[0].name))
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, exported[name]) for name, tensor in stored.items())


def test_verify_and_gc_know_kept_weights(opened: OpenedStudy) -> None:
    """Gc keeps them; verify finds a damaged file, whose merge is then made again."""
    store = opened.artifacts.store
    assert collect(store, min_age_s=0, now_s=2e9).entries == ()
    manifest = manifest_of(opened, "kept")
    (path,) = Path(opened.store_url).glob(f"artifacts/merge/*/{manifest.id}/*/merged.safetensors")
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    words = ["verify", "small", "--store", opened.store_url, "--dry-run"]
    result = CliRunner().invoke(cli, words)
    assert f"merge {manifest.id}: " in result.output
    path.write_bytes(content)
    assert CliRunner().invoke(cli, words).exit_code == 0


def test_keeping_does_not_make_another_merge() -> None:
    """Two entries that differ in it alone are one merge, which is listed twice."""
    entries = [Merge(method="average"), Merge(method="average", keep="merged", label="kept")]
    (problem,) = check_merges(dict(enumerate(entries)))
    assert "the same merge as merge[0]" in problem.fault
