"""Makes the models of a study again, writes them to a folder, and checks that they are the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import timm
import torch

from eval.metrics import TaskSums
from workers.artifacts.metrics import MergeMetrics
from workers.artifacts.node_cache import cache_root
from workers.export.model_folder import SHARED, ModelFolder
from workers.export.outcome import DifferentModelError, Exported
from workers.merging.kept_weights import kept_models
from workers.merging.merge_job import score_task
from workers.merging.merged_models import merged_models, use_task_statistics
from workers.merging.weights_digest import WeightsDigest
from workers.models.backbones import Backbone
from workers.models.heads import head_of
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.tensor_files import TensorFile
from workers.models.tied_weights import load_state, own_state
from workers.sampling.determinism import compute_deterministically
from workers.specs.bases import BaseSpec
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.train.pretrain import HEADS_FILE
from workers.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The place where models are made again."""

    store_url: str
    num_threads: int
    """Threads of torch: those of the job that made the model, for equal bits."""
    uses_gpu: bool
    """Whether to use a GPU if this machine has one, as the job did."""

    def workspace(self) -> Workspace:
        """Opens a workspace with the settings of a worker process."""
        compute_deterministically()
        torch.set_num_threads(self.num_threads)
        has_gpu = self.uses_gpu and torch.cuda.is_available()
        device = torch.device("cuda" if has_gpu else "cpu")
        return Workspace(self.store_url, cache_root=cache_root(), device=device)


def export_expert(spec: ExpertSpec, *, folder: ModelFolder, machine: Machine) -> Exported:
    """Writes an expert's backbone and head; its file was compared with its digest when read.

    A LoRA adapter is written as it is stored.

    Raises:
        MissingArtifactError: The expert or its base is not in the store.
    """
    workspace = machine.workspace()
    backbone = workspace.base_backbone(spec.base_id)
    load_state(backbone.module, workspace.expert_tensors(spec.id))
    folder.write_model(backbone, place=SHARED)
    folder.add_task(spec.task, place=SHARED, head=workspace.expert_head(spec.id))
    if spec.hyperparameters.trains_adapters:
        folder.add_adapter(
            {name: workspace.file("expert", spec.id, name) for name in (CONFIG_FILE, ADAPTER_FILE)}
        )
    folder.finish()
    return _as_stored(backbone, base_id=spec.base_id, workspace=workspace)


def export_multi_task(spec: BaseSpec, *, folder: ModelFolder, machine: Machine) -> Exported:
    """Writes a multi-task model and the head of each task; files are compared with their digests.

    Raises:
        MissingArtifactError: The model is not in the store, or has no weights.
    """
    assert spec.pretrain is not None
    workspace = machine.workspace()
    backbone = workspace.base_backbone(spec.id)
    folder.write_model(backbone, place=SHARED)
    heads = workspace.file("base", spec.id, HEADS_FILE)
    for task in spec.pretrain.tasks:
        head = head_of(TensorFile(heads, prefix=f"{task}."))
        folder.add_task(task, place=SHARED, head=head)
    folder.finish()
    return _as_stored(backbone, base_id=spec.initial.id, workspace=workspace)


def export_merge(
    spec: MergeSpec, *, recorded: MergeMetrics, folder: ModelFolder, machine: Machine
) -> Exported:
    """Makes a merge again and writes a backbone, or one for each task, and the heads.

    A merge that keeps its weights is read from the store instead.
    Tuned parameters have the values that the evaluation chose; no image is read to choose again.
    The weights are compared with the digest that the evaluation recorded. If an earlier release
    recorded none, the merge is evaluated again, and its sums are compared.

    Raises:
        MissingArtifactError: An expert or its weights are not in the store.
        merge.errors.MergeError: The experts do not fit together.
        DifferentModelError: The merge is not the one that was evaluated.
    """
    workspace = machine.workspace()
    merge_id, stored = spec.id, None
    if recorded.tuning is not None:
        spec = spec.at(recorded.tuning.chosen)
    if spec.keeps_weights:
        stored = kept_models(spec, merge_id=merge_id, workspace=workspace)
    digest = WeightsDigest()
    sums: dict[str, TaskSums] = {}
    evaluates = recorded.weights_sha256 is None or spec.surgery is not None
    for backbone, experts in stored or merged_models(spec, workspace=workspace):
        digest.add(own_state(backbone.module))
        for expert in experts:
            adapter = None
            if evaluates:
                scored = score_task(spec, expert=expert, backbone=backbone, workspace=workspace)
                sums[expert.task], adapter = scored.sums, scored.adapter
                digest.add_adapter(adapter)
            else:
                use_task_statistics(spec, expert=expert, backbone=backbone, workspace=workspace)
            if expert not in spec.experts:
                continue
            place = expert.task if _has_own_model(spec) else SHARED
            if place != SHARED or expert == spec.experts[0]:
                folder.write_model(backbone, place=place)
            head = workspace.expert_head(expert.id)
            folder.add_task(expert.task, place=place, head=head, adapter=adapter)
    folder.finish()
    found = digest.hexdigest()
    _check(spec, found=found, sums=sums, recorded=recorded)
    return Exported(
        weights_sha256=found,
        check="digest" if recorded.weights_sha256 else "sums",
        device=workspace.device.type,
        base_model=_hub_name(spec.base_id, workspace=workspace),
    )


def _as_stored(backbone: Backbone, *, base_id: str, workspace: Workspace) -> Exported:
    """Returns the outcome for weights that were read from the store."""
    digest = WeightsDigest()
    digest.add(own_state(backbone.module))
    return Exported(
        weights_sha256=digest.hexdigest(),
        check="file",
        device=workspace.device.type,
        base_model=_hub_name(base_id, workspace=workspace),
    )


def _hub_name(base_id: str, *, workspace: Workspace) -> str | None:
    base = workspace.manifest("base", base_id).spec
    config = timm.get_pretrained_cfg(base["model"]) if base["weights"] == "timm" else None
    return config.hf_hub_id if config is not None else None


def _has_own_model(spec: MergeSpec) -> bool:
    """Returns whether a merge has a backbone for each task."""
    return spec.card.is_per_task or spec.batch_norm == "per_task"


def _check(
    spec: MergeSpec, *, found: str, sums: Mapping[str, TaskSums], recorded: MergeMetrics
) -> None:
    if recorded.weights_sha256 is not None:
        if found != recorded.weights_sha256:
            raise DifferentModelError(
                f"merge {spec.id} was made again, but its weights have the digest {found[:16]}, "
                f"and those that were evaluated had {recorded.weights_sha256[:16]}"
            )
        return
    differing = [
        f"{task}: {sums[task].num_correct} correct, loss sum {sums[task].loss_sum!r}; stored: "
        f"{before.num_correct}, {before.loss_sum!r}"
        for task, before in recorded.tasks.items()
        if sums[task].to_json() != before.to_json()
    ]
    if differing:
        raise DifferentModelError(
            f"merge {spec.id} was made again, but it does not score what is stored "
            f"({'; '.join(differing)})"
        )
