"""Finds paths in a study that other machines cannot see, and paths that every node must have."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import Study
from workers.models.pretrained_weights import SUFFIXES, is_remote
from workers.own_methods.sources import parse_reference

_NOT_FILES = ("package", "timm", "none")
_WEIGHTS = "weights lie in object storage for a cluster: s3://bucket/key#sha256=<digest>"


def local_problems(study: Study) -> Iterator[StudyProblem]:
    """Yields the fields of a study that a cluster cannot use, as other machines cannot see them.

    Absolute paths of weights and task data may exist on every node. Only the nodes can check them:
    see `node_paths`.
    """
    if not study.store.startswith("s3://"):
        yield StudyProblem(
            field="store",
            fault=f"{study.store!r} is a directory, which a cluster's nodes do not share",
            remedy="use s3://bucket/prefix",
        )
    if study.tracking is not None and study.tracking.startswith(("sqlite:", "file:")):
        yield wrong_value(
            "tracking",
            study.tracking,
            remedy="the driver runs on the head, which does not have this file; give an MLflow "
            "server's address, or leave the field out and use `mergesweep track` afterwards",
        )
    for field, path, advice in _paths(study):
        if not Path(path).is_absolute():
            yield StudyProblem(
                field=field,
                fault=f"{path!r} is relative to this directory, which the nodes do not have",
                remedy=f"{advice}; or give an absolute path that every node has",
            )


def node_paths(study: Study) -> dict[str, str]:
    """Returns the absolute paths that every node must have, by the field with each."""
    return {field: path for field, path, _ in _paths(study) if Path(path).is_absolute()}


def _paths(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yields field, path and advice for each file or directory that the study names."""
    for field, weights in _weights(study):
        if weights not in _NOT_FILES and not is_remote(weights):
            yield field, weights, _WEIGHTS
    zero_shot = study.finetune.zero_shot
    if zero_shot is not None and Path(zero_shot.weights).suffix in SUFFIXES:
        yield "finetune.zero_shot.weights", zero_shot.weights, "one of open_clip's tags"
    if study.tasks.root is not None:
        yield "tasks.root", study.tasks.root, "leave it out and set MERGESWEEP_DATA on the nodes"
    for index, merge in enumerate(study.merge):
        reference = parse_reference(merge.method)
        if reference is not None and reference.path is not None:
            yield f"merge[{index}].method", reference.path, "a method of an installed package"
    for name, own in study.tasks.own.items():
        if own.hub is None:
            field = "folder" if own.folder is not None else "parquet"
            yield f"tasks.own.{name}.{field}", own.place, "a data set of the hub"


def _weights(study: Study) -> Iterator[tuple[str, str]]:
    backbone = study.backbone
    if isinstance(backbone.weights, str):
        yield "backbone.weights", backbone.weights
    else:
        for model, weights in backbone.weights.items():
            yield f"backbone.weights.{model}", weights
    for index, weights in enumerate(backbone.axes.weights):
        yield f"backbone.axes.weights[{index}]", weights
    for task, expert in study.experts.items():
        yield f"experts.{task}", expert.file
