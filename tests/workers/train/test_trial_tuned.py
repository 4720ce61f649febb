"""Trials with linear probes, averaged weights or linearised backbones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eval.evaluate import evaluate_head, features_of
from workers.artifacts.manifests import Manifest
from workers.merging.merge_job import run_merge
from workers.models.linear_probe import fit_probe
from workers.models.tangent import Tangent
from workers.models.tensor_files import TensorFile
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec, SurgerySpec
from workers.workspace import EXPERT_FILE, Workspace

Run = Callable[..., list[Manifest]]
MakeExpert = Callable[..., ExpertSpec]
PROBE: dict[str, Any] = {"head": "frozen", "probe_l2": 0.5}
TANGENT = {"linearised": True, "freeze_batch_norm": True}


def head_of(manifest: Manifest, *, workspace: Workspace) -> dict[str, Tensor]:
    path = workspace.file("expert", manifest.id, EXPERT_FILE)
    return dict(TensorFile(path, prefix="head."))


def probe_by_hand(spec: ExpertSpec, *, workspace: Workspace) -> nn.Linear:
    """Fits the head to the base's features of all training images."""
    train = workspace.split(spec.data_id, "train")
    backbone = workspace.base_backbone(spec.base_id)
    features = features_of(
        backbone.module,
        split=train,
        normalization=backbone.normalization,
        device=workspace.device,
    )
    num_classes = workspace.num_classes(spec.data_id)
    return fit_probe(features, labels=train.labels, num_classes=num_classes, l2=PROBE["probe_l2"])


def test_frozen_head_of_an_expert_is_the_probe_of_the_base(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """This holds at every snapshot, and the base's score under the head is the probe's."""
    spec = make_expert(**PROBE, steps=4)
    workspace = new_workspace()
    manifests = run(spec, 2, 4, workspace=workspace)
    expected = probe_by_hand(spec, workspace=new_workspace())
    for manifest in manifests:
        head = head_of(manifest, workspace=workspace)
        assert torch.equal(head["weight"], expected.weight)
        assert torch.equal(head["bias"], expected.bias)
    assert manifests[0].metrics["base"] == manifests[1].metrics["base"]
    assert manifests[0].metrics["test"] != manifests[1].metrics["test"]


def test_probe_comes_first_and_is_then_trained(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """The first step's loss equals that of a frozen head; then the head changes."""
    workspace = new_workspace()
    trained, frozen = (
        run(make_expert(head=head, probe_l2=0.5, freeze_batch_norm=True), workspace=workspace)[0]
        for head in ("probe_first", "frozen")
    )
    curves = [manifest.metrics["train_curve"] for manifest in (trained, frozen)]
    assert curves[0][0] == curves[1][0]
    heads = [head_of(manifest, workspace=workspace) for manifest in (trained, frozen)]
    assert not torch.equal(heads[0]["weight"], heads[1]["weight"])


def test_probe_depends_on_the_images_and_not_on_how_they_are_shuffled(
    workspace: Workspace, make_expert: MakeExpert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds that keep all images share one fit; another subset, task or penalty needs another."""
    fits = []

    def counted(*arguments: Any, **named: Any) -> nn.Linear:  # noqa: ANN401
        fits.append(named["l2"])
        return fit_probe(*arguments, **named)

    monkeypatch.setattr("workers.workspace.fit_probe", counted)
    spec = make_expert(**PROBE)
    alike = [make_expert(**PROBE, seed=seed, lr=0.1) for seed in range(3)]
    probes = [workspace.linear_probe(each) for each in alike]
    assert len(fits) == 1
    assert all(torch.equal(probe.weight, probes[0].weight) for probe in probes)
    with torch.no_grad():
        probes[0].weight.zero_()
    assert not torch.equal(workspace.linear_probe(spec).weight, probes[0].weight)
    for other in (
        make_expert(**PROBE, data_ratio=0.5),
        make_expert(**PROBE, data_ratio=0.5, seed=1),
        make_expert(head="frozen", probe_l2=2.0),
        make_expert("mnist_m", **PROBE),
    ):
        workspace.linear_probe(other)
    assert len(fits) == 5


def test_scores_are_those_of_the_stored_mean(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """They differ from the scores of the last weights, with which the training continues."""
    spec = make_expert(average_weights="ema", ema_decay=0.9, steps=4)
    workspace = new_workspace()
    manifests = run(spec, 2, 4, workspace=workspace)
    (plain,) = run(make_expert(steps=4), workspace=workspace)
    assert manifests[-1].metrics["train_curve"] == plain.metrics["train_curve"]
    assert manifests[-1].metrics["test"] != plain.metrics["test"]
    fresh = new_workspace()
    for manifest in manifests:
        module = fresh.base_backbone(spec.base_id).module
        module.load_state_dict(dict(fresh.expert_tensors(manifest.id)))
        assert scored(module, spec=spec, head_id=manifest.id, workspace=fresh) == dict(
            manifest.metrics["test"]
        )


def scored(
    model: nn.Module, *, spec: ExpertSpec, head_id: str, workspace: Workspace
) -> dict[str, Any]:
    """Evaluates a model on a task's test images under an expert's head."""
    split = workspace.split(spec.data_id, "test")
    backbone = workspace._backbone(spec.base_id, linearised=False)
    features = features_of(
        model, split=split, normalization=backbone.normalization, device=workspace.device
    )
    head = workspace.expert_head(head_id)
    return evaluate_head(head, features=features, labels=split.labels).to_json()


def expansion_at(state: dict[str, Tensor], *, base_id: str, workspace: Workspace) -> nn.Module:
    module = workspace.base_backbone(base_id).module
    tangent = Tangent(module, base=workspace.base_tensors(base_id))
    module.load_state_dict(state)
    return tangent


def test_linearised_expert_is_scored_as_its_expansion(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """The same weights in the model itself have another score."""
    spec = make_expert(steps=4, lr=0.2, **TANGENT)
    (manifest,) = run(spec, workspace=new_workspace())
    workspace = new_workspace()
    state = dict(workspace.expert_tensors(manifest.id))
    expansion = expansion_at(state, base_id=spec.base_id, workspace=workspace)
    module = expansion.module
    assert isinstance(module, nn.Module)
    at = {"spec": spec, "head_id": manifest.id, "workspace": workspace}
    assert scored(expansion, **at) == dict(manifest.metrics["test"])
    assert scored(module, **at) != dict(manifest.metrics["test"])


@pytest.mark.parametrize("policy", ["average", "per_task"])
def test_merge_of_linearised_experts_is_scored_as_the_expansion_at_the_merged_weights(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run, policy: str
) -> None:
    """This includes the held-out task."""
    experts = tuple(
        make_expert(task, lr=0.2, **TANGENT)
        for task in ("bluemarble_regions", "mnist_5k", "mnist_m")
    )
    for expert in experts:
        run(expert, workspace=new_workspace())
    spec = merge_of(experts[:2], held_out=experts[2:], batch_norm=policy)
    merged = run_merge(spec, workspace=new_workspace()).metrics["tasks"]
    workspace = new_workspace()
    states = [workspace.expert_tensors(expert.id) for expert in experts[:2]]
    mean = {
        name: (tensor + states[1][name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in states[0].items()
    }
    expansion = expansion_at(mean, base_id=spec.base_id, workspace=workspace)
    for expert in experts:
        expected = scored(expansion, spec=expert, head_id=expert.id, workspace=workspace)
        assert dict(merged[expert.task]) == expected


def merge_of(experts: tuple[ExpertSpec, ...], **changes: Any) -> MergeSpec:  # noqa: ANN401
    spec = MergeSpec(
        method="average",
        params={},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
    )
    return replace(spec, **changes)


LEARNING: dict[str, dict[str, Any]] = {
    "adamerging": {"steps": 2, "lr": 0.1, "batch_size": 8, "trim_density": 0.5},
    "fisher": {"images": 3},
    "frank_wolfe": {"iterations": 2, "images": 8, "granularity": "tensor"},
    "frank_wolfe_soft": {"iterations": 2, "images": 8, "steps": 2, "lr": 0.1, "batch_size": 8},
    "greedy_soup": {"images": 6},
}


@pytest.mark.parametrize("method", [*LEARNING, "surgery", "emr"])
def test_linearised_experts_are_merged_by_every_method_with_data(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run, method: str
) -> None:
    """Gradients, accuracies, features and models of tasks come from the expansion.

    A single expert merges into itself, so that its merge has the expert's score.
    """
    expert = make_expert(lr=0.2, **TANGENT)
    (manifest,) = run(expert, workspace=new_workspace())
    params = {
        "adamerging": {"initial": 1.0, "steps": 1, "lr": 1e-9},
        "frank_wolfe": {"scaling": 1.0, "iterations": 2},
        "frank_wolfe_soft": {"initial": 1.0, "iterations": 1, "steps": 1, "lr": 1e-9},
    }.get(method, LEARNING.get(method, {}))
    surgery = SurgerySpec(rank=2, steps=1, lr=1e-3, batch_size=4)
    spec = (
        merge_of((expert,), surgery=surgery)
        if method == "surgery"
        else merge_of((expert,), method=method, params=params)
    )
    merged = run_merge(spec, workspace=new_workspace()).metrics["tasks"][expert.task]
    assert merged["num_correct"] == manifest.metrics["test"]["num_correct"]
    assert merged["loss_sum"] == pytest.approx(manifest.metrics["test"]["loss_sum"], rel=1e-4)


def test_linearised_and_plain_trials_do_not_affect_each_other(
    new_workspace: Callable[[], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """Both orders in one process give the same bits."""
    spec, tangent = make_expert(), make_expert(**TANGENT)
    warm, digests = new_workspace(), []
    for each in (tangent, spec):
        (manifest,) = run(each, workspace=warm)
        digests.append(manifest.file(EXPERT_FILE).sha256)
    assert warm.base_backbone(spec.base_id).expansion is None
    assert digests[0] != digests[1]
