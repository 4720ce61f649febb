from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.study.local_paths import local_problems, node_paths
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Merge, Study

S3 = "s3://bucket/prefix"
Read = Callable[..., Study]


@pytest.fixture
def read(
    study_fields: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Read:
    """Reads a study in a directory with a checkpoint, without contacting its store."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.safetensors").write_bytes(b"")

    def make(**changes: object) -> Study:
        text = yaml.safe_dump(study_fields(**changes))
        return parse_study(text, source="study.yaml", checks_store=False)

    return make


def backbone(weights: object, **more: object) -> dict[str, Any]:
    return {"model": "test_resnet", "weights": weights, "image_size": 32, **more}


def fields(study: Study) -> list[str]:
    return [problem.field for problem in local_problems(study)]


def test_study_in_object_storage_can_go_anywhere(read: Read) -> None:
    """MLflow may be a server, or left out: it can be filled later."""
    for tracking in (None, "http://mlflow:5000", "postgresql://db/mlflow"):
        study = read(store=S3, tracking=tracking)
        assert fields(study) == []
        assert node_paths(study) == {}


@pytest.mark.parametrize("store", ["./store", "/data/store", "file:///data/store"])
def test_store_in_a_directory_is_refused(read: Read, store: str) -> None:
    """Any form of path is refused, and the message shows a right value."""
    (problem,) = local_problems(read(store=store))
    assert problem.field == "store"
    assert "s3://bucket/prefix" in str(problem)


def test_all_local_paths_are_named_at_once(read: Read) -> None:
    """These are the store, tracking, weights, their axis and the task root."""
    study = read(
        store="./store",
        tracking="sqlite:///runs.db",
        backbone=backbone("base.safetensors", axes={"weights": ["none", "base.safetensors"]}),
        tasks={"names": ["mnist_5k", "font_letters"], "root": "data"},
    )
    assert fields(study) == [
        "store",
        "tracking",
        "backbone.weights",
        "backbone.axes.weights[1]",
        "tasks.root",
    ]


def test_absolute_paths_are_left_to_the_nodes(read: Read, tmp_path: Path) -> None:
    """A directory may be shared by all machines, so the submitter does not judge it."""
    weights = str(tmp_path / "base.safetensors")
    study = read(
        store=S3,
        backbone=backbone({"test_resnet": weights}),
        tasks={"names": ["mnist_5k", "font_letters"], "root": "/data"},
    )
    assert fields(study) == []
    assert node_paths(study) == {"backbone.weights.test_resnet": weights, "tasks.root": "/data"}


def test_file_of_a_users_method_is_not_sent_along(read: Read) -> None:
    """A submission carries the study file alone; packages are installed on every node."""
    study = read(store=S3)
    merges = [Merge(method="./my_method.py:Mine"), Merge(method="package:mine")]
    (problem,) = local_problems(study.model_copy(update={"merge": merges}))
    assert problem.field == "merge[0].method"
    assert "a method of an installed package" in problem.remedy
