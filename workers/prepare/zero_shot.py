"""Makes zero-shot heads: classifiers computed from class names by a CLIP model's text tower."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from eval.digests import sha256_of_file
from workers.artifacts.manifests import Manifest
from workers.artifacts.provenance import Provenance
from workers.models.pretrained_weights import WeightsError
from workers.models.tensor_files import write_tensors
from workers.models.text_towers import TextTower, open_text_tower
from workers.specs.head import HeadJob
from workers.store.scratch import scratch_directory
from workers.workspace import HEAD_FILE, Workspace

OpenTower = Callable[..., TextTower]


def zero_shot_weight(
    classes: Sequence[str], *, templates: Sequence[str], tower: TextTower
) -> Tensor:
    """Returns the weight that turns an image's normalized embedding into logits.

    Row c is the mean embedding of class c over the templates, scaled to norm 1 and then multiplied
    by the model's logit scale. The logits are therefore scaled cosines.

    Shapes:
        returns: (classes, width), float32.

    Source:
        Radford 2021, section 3.1.4 (ensembles of prompts, averaged in embedding space).
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    embeddings = tower.encode(texts).reshape(len(classes), len(templates), -1)
    return nn.functional.normalize(embeddings.mean(dim=1)) * tower.logit_scale


def prepare_head(
    job: HeadJob, *, workspace: Workspace, open_tower: OpenTower = open_text_tower
) -> Manifest:
    """Commits the zero-shot head of a task.

    Raises:
        WeightsError: The text tower or its weights cannot be obtained, or the weights are not the
            plan's.
    """
    started = time.monotonic()
    spec = job.spec
    weight = zero_shot_weight(
        spec.classes,
        templates=spec.templates,
        tower=open_tower(spec.model, weights=_checked_weights(job)),
    )
    if not torch.isfinite(weight).all():
        raise WeightsError(f"{spec.model}: the text tower returned embeddings that are not finite")
    with scratch_directory("head") as scratch:
        path = scratch / HEAD_FILE
        write_tensors(path, {"weight": weight}, about={"task": spec.task, "id": spec.id})
        return workspace.artifacts.commit(
            Provenance.of(spec, kind="head", inputs={}),
            files={HEAD_FILE: path},
            metrics={"num_classes": len(spec.classes), "width": weight.shape[1]},
            seconds={"prepare": time.monotonic() - started},
        )


def _checked_weights(job: HeadJob) -> str:
    """Returns the tag of open_clip's weights, or the path of a checkpoint with the right sha256."""
    if job.path is None:
        return job.spec.weights
    digest = sha256_of_file(Path(job.path))
    if job.spec.weights != f"sha256:{digest}":
        raise WeightsError(f"{job.path}: sha256 is {digest}, the plan expects {job.spec.weights}")
    return job.path
