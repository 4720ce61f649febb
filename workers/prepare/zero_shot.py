"""Zero-shot heads: a CLIP model's classifier made of the classes' names, and left as it is."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from workers.artifacts.manifests import Manifest
from workers.models.tensor_files import write_tensors
from workers.models.text_towers import TextTower, open_text_tower
from workers.models.weights import WeightsError, sha256_of
from workers.specs.data import HeadJob
from workers.specs.ids import VERSIONS
from workers.specs.spec_json import spec_to_json
from workers.workspace import HEAD_FILE, Workspace

OpenTower = Callable[..., TextTower]


def zero_shot_weight(
    classes: Sequence[str], *, templates: Sequence[str], tower: TextTower
) -> Tensor:
    """Returns what cosines become logits by: the mean embedding of each class, times the scale.

    Each text's embedding has norm 1, and so has their mean over the templates.

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
        WeightsError: The text tower or its weights cannot be had, or are not those of the plan.
    """
    started = time.monotonic()
    spec = job.spec
    weight = zero_shot_weight(
        spec.classes,
        templates=spec.templates,
        tower=open_tower(spec.model, weights=_checked_weights(job)),
    )
    if not torch.isfinite(weight).all():
        raise WeightsError(f"{spec.model}: the text tower gave embeddings that are not finite")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / HEAD_FILE
        write_tensors(path, {"weight": weight}, about={"task": spec.task, "id": spec.id})
        return workspace.artifacts.commit(
            "head",
            spec.id,
            version=VERSIONS["head"],
            spec=spec_to_json(spec),
            inputs={},
            files={HEAD_FILE: path},
            outcome="done",
            metrics={"num_classes": len(spec.classes), "width": weight.shape[1]},
            seconds={"prepare": time.monotonic() - started},
        )


def _checked_weights(job: HeadJob) -> str:
    if job.path is None:
        return job.spec.weights
    digest = sha256_of(Path(job.path))
    if job.spec.weights != f"sha256:{digest}":
        raise WeightsError(f"{job.path}: sha256 is {digest}, the plan expects {job.spec.weights}")
    return job.path
