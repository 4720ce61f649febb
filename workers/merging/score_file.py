"""Evaluates files of weights that other tools made, under the heads of a study's experts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from eval.digests import sha256_of_bytes, sha256_of_file
from eval.evaluate import evaluate
from eval.metrics import TaskSums
from workers.models.fitted_weights import FittedWeights, fit_weights
from workers.models.tied_weights import load_state
from workers.models.weights_files import files_of
from workers.specs.expert import ExpertSpec
from workers.workspace import Workspace


def digest_of(path: Path) -> str:
    """Returns the sha256 of a file of weights; of several files, that of their digests.

    Raises:
        WeightsError: The index of a checkpoint in several files cannot be read.
    """
    files = files_of(path)
    if files == [path]:
        return sha256_of_file(path)
    return sha256_of_bytes("\n".join(map(sha256_of_file, files)).encode())


def read_backbone(path: Path, *, base_id: str, workspace: Workspace) -> FittedWeights:
    """Reads a file as weights of the model of a base.

    Raises:
        WeightsError: The file does not fit the model, or holds numbers that are not finite; the
            message says what would be right.
        MissingArtifactError: The base is not in the store.
    """
    base = workspace.manifest("base", base_id).spec
    size = cast("int | None", base.get("image_size"))
    return fit_weights(path, model=str(base["model"]), image_size=size)


def score_weights(
    weights: FittedWeights, *, experts: Iterable[ExpertSpec], workspace: Workspace
) -> Mapping[str, TaskSums]:
    """Evaluates a backbone on the task of each expert, under the expert's head.

    Args:
        weights: The backbone's tensors.
        experts: Experts of one base, at most one for each task.
        workspace: A workspace of the study's store.

    Raises:
        WeightsError: The file is for images of another size than the study's.
        MissingArtifactError: An expert or its weights are not in the store.
    """
    experts = list(experts)
    backbone = workspace.base_backbone(experts[0].base_id)
    load_state(backbone.module, weights.tensors)
    return {
        expert.task: evaluate(
            backbone.model,
            workspace.expert_head(expert.id),
            split=workspace.split(expert.data_id, "test"),
            normalization=backbone.normalization,
            device=workspace.device,
        )
        for expert in experts
    }
