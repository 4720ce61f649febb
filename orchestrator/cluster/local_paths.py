"""What of a study is on this machine only, and what every node of a cluster must have."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.study.problems import StudyProblem
from orchestrator.study.schema import Study
from workers.models.weight_sources import is_remote
from workers.models.weights import SUFFIXES

_NOT_FILES = ("package", "timm", "none")
_WEIGHTS = "weights lie in object storage for a cluster: s3://bucket/key#sha256=<digest>"


def local_problems(study: Study) -> Iterator[StudyProblem]:
    """Yields what of a study a cluster cannot use, because other machines cannot see it.

    Absolute paths of weights and task data may be on every node, which only the nodes can tell:
    see `node_paths`.
    """
    if not study.store.startswith("s3://"):
        yield StudyProblem(
            field="store",
            value=f"{study.store!r}, a directory,",
            allowed="the nodes of a cluster share no directory with this machine: "
            "s3://bucket/prefix",
        )
    if study.tracking is not None and study.tracking.startswith(("sqlite:", "file:")):
        yield StudyProblem(
            field="tracking",
            value=repr(study.tracking),
            allowed="the driver runs on the head, where this file is not: an MLflow server's "
            "address, or leave it out and use `mergesweep track` afterwards",
        )
    for field, path, advice in _paths(study):
        if not Path(path).is_absolute():
            yield StudyProblem(
                field=field,
                value=f"{path!r}, relative to this directory,",
                allowed=f"{advice}; or an absolute path that every node has",
            )


def node_paths(study: Study) -> dict[str, str]:
    """Returns the absolute paths that every node must have, by the field that names each."""
    return {field: path for field, path, _ in _paths(study) if Path(path).is_absolute()}


def _paths(study: Study) -> Iterator[tuple[str, str, str]]:
    """Yields field, path and advice for everything that names a file or a directory."""
    for field, weights in _weights(study):
        if weights not in _NOT_FILES and not is_remote(weights):
            yield field, weights, _WEIGHTS
    zero_shot = study.finetune.zero_shot
    if zero_shot is not None and Path(zero_shot.weights).suffix in SUFFIXES:
        yield "finetune.zero_shot.weights", zero_shot.weights, "one of open_clip's tags"
    if study.tasks.root is not None:
        yield "tasks.root", study.tasks.root, "leave it out and set MERGESWEEP_DATA on the nodes"
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
    for index, weights in enumerate(backbone.axes.weights or []):
        yield f"backbone.axes.weights[{index}]", weights
