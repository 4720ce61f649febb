from collections.abc import Callable, Mapping

import pytest
import torch

from workers import workspace as module
from workers.artifacts.manifests import Manifest
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.workspace import MissingArtifactError, Workspace

FEATURES_BYTES = 48 * 256 * 4
"""Features of 48 test images, 256 entries wide, in float32."""


def test_backbone_comes_back_as_the_base(workspace: Workspace, base: BaseSpec) -> None:
    """Weights, buffers and gradients that a job has changed are reset."""
    backbone = workspace.base_backbone(base.id).module
    for parameter in backbone.parameters():
        parameter.grad = torch.ones_like(parameter)
    for tensor in backbone.state_dict().values():
        tensor.fill_(9)
    again = workspace.base_backbone(base.id).module
    assert again is backbone
    state = again.state_dict()
    expected = workspace.base_tensors(base.id)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert all(parameter.grad is None for parameter in again.parameters())


def test_base_features_do_not_depend_on_earlier_trials(
    workspace: Workspace,
    new_workspace: Callable[[], Workspace],
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """Features computed after a trial equal those of a fresh process."""
    spec = make_expert()
    run(spec, workspace=workspace)
    other = make_expert("bluemarble_regions")
    late = workspace.base_features(other.base_id, other.data_id)
    assert torch.equal(late, new_workspace().base_features(other.base_id, other.data_id))


def test_base_features_are_kept_up_to_a_limit(
    workspace: Workspace,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features beyond the limit are computed again and are equal; the kept ones stay."""
    first, second, _ = (data.id for data in datasets.values())
    monkeypatch.setattr(module, "MAX_FEATURE_BYTES", FEATURES_BYTES)
    kept, not_kept = (workspace.base_features(base.id, data_id) for data_id in (first, second))
    assert kept.nbytes == FEATURES_BYTES
    assert workspace.base_features(base.id, first) is kept
    again = workspace.base_features(base.id, second)
    assert again is not not_kept
    assert torch.equal(again, not_kept)


def test_base_features_evict_features_of_another_base(
    workspace: Workspace,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    make_base: Callable[..., BaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features of a base that trials no longer use are evicted first."""
    data_id, other = datasets["mnist_5k"].id, make_base(model=base.model, seed=1)
    kept = workspace.base_features(base.id, data_id)
    monkeypatch.setattr(module, "MAX_FEATURE_BYTES", kept.nbytes)
    later = workspace.base_features(other.id, data_id)
    assert workspace.base_features(other.id, data_id) is later
    assert not torch.equal(later, kept)


def test_features_of_an_expert_leave_the_backbone_as_it_is(
    workspace: Workspace, base: BaseSpec, experts: tuple[ExpertSpec, ...]
) -> None:
    """A merge asks for them while the backbone has the merged weights."""
    backbone = workspace.base_backbone(base.id).module
    for tensor in backbone.state_dict().values():
        tensor.fill_(1)
    workspace.expert_features(experts[0])
    state = backbone.state_dict().values()
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in state)


def test_features_of_recently_used_experts_are_kept(
    new_workspace: Callable[[], Workspace],
    experts: tuple[ExpertSpec, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room for two experts, the third evicts the least recently used one."""
    monkeypatch.setattr(module, "MAX_FEATURE_BYTES", 2 * FEATURES_BYTES)
    workspace = new_workspace()
    first, second, third = experts
    kept, evicted = (workspace.expert_features(expert) for expert in (first, second))
    assert workspace.expert_features(first) is kept
    workspace.expert_features(third)
    assert workspace.expert_features(first) is kept
    again = workspace.expert_features(second)
    assert again is not evicted
    assert torch.equal(again, evicted)


def test_manifests_are_read_once(workspace: Workspace, base: BaseSpec) -> None:
    """A manifest never changes, so the second call makes no request."""
    workspace.manifest("base", base.id)
    before = workspace.artifacts.store.num_requests
    workspace.manifest("base", base.id)
    assert workspace.artifacts.store.num_requests == before


def test_number_of_kept_manifests_is_limited(
    new_workspace: Callable[[], Workspace],
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory of a process does not grow with the number of its trials."""
    monkeypatch.setattr(module, "MAX_MANIFESTS", 2)
    workspace = new_workspace()
    first, second, _ = (data.id for data in datasets.values())
    workspace.manifest("base", base.id)
    workspace.manifest("data", first)
    workspace.manifest("base", base.id)
    workspace.manifest("data", second)
    before = workspace.artifacts.store.num_requests
    workspace.manifest("base", base.id)
    assert workspace.artifacts.store.num_requests == before
    workspace.manifest("data", first)
    assert workspace.artifacts.store.num_requests == before + 1


def test_files_of_tensors_are_mapped_once(
    workspace: Workspace, base: BaseSpec, experts: tuple[ExpertSpec, ...]
) -> None:
    """Consecutive merges share experts, and opening a file takes milliseconds."""
    first, second, _ = experts
    tensors = workspace.expert_tensors(first.id)
    assert workspace.expert_tensors(first.id) is tensors
    assert workspace.expert_tensors(second.id) is not tensors
    assert workspace.base_tensors(base.id) is workspace.base_tensors(base.id)


def test_an_experts_weights_and_its_head_are_kept_apart(
    workspace: Workspace, experts: tuple[ExpertSpec, ...]
) -> None:
    """Both are in one file, under two prefixes."""
    names = set(workspace.expert_tensors(experts[0].id))
    head = workspace.expert_head(experts[0].id)
    assert names == set(workspace.expert_tensors(experts[0].id))
    assert torch.equal(head.weight, workspace.expert_head(experts[0].id).weight)
    assert "weight" not in names


def test_number_of_mapped_files_is_limited(
    new_workspace: Callable[[], Workspace],
    experts: tuple[ExpertSpec, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that merges thousands of experts does not keep thousands of files open."""
    monkeypatch.setattr(module, "MAX_TENSOR_FILES", 2)
    workspace = new_workspace()
    first, second, third = (expert.id for expert in experts)
    kept, evicted = workspace.expert_tensors(first), workspace.expert_tensors(second)
    assert workspace.expert_tensors(first) is kept
    workspace.expert_tensors(third)
    assert workspace.expert_tensors(first) is kept
    assert workspace.expert_tensors(second) is not evicted


def test_uncommitted_artifact_is_missing(workspace: Workspace) -> None:
    """The message has the kind and the id."""
    with pytest.raises(MissingArtifactError, match="expert 0123456789abcdef is not committed"):
        workspace.expert_head("0123456789abcdef")


def test_images_are_mapped_once(workspace: Workspace, datasets: Mapping[str, DataSpec]) -> None:
    """All trials on a task share the same memory-mapped images."""
    data_id = datasets["mnist_5k"].id
    assert workspace.split(data_id, "train") is workspace.split(data_id, "train")
    assert not workspace.split(data_id, "train").images.flags.owndata


def test_bases_of_one_model_share_a_backbone(
    workspace: Workspace, base: BaseSpec, make_base: Callable[..., BaseSpec]
) -> None:
    """Another base of the same model takes no more device memory."""
    other = make_base(model=base.model, seed=1)
    backbone = workspace.base_backbone(base.id).module
    assert workspace.base_backbone(other.id).module is backbone
    weights = dict(workspace.base_tensors(other.id))
    assert torch.equal(backbone.state_dict()["conv_stem.weight"], weights["conv_stem.weight"])


def test_backbones_of_several_models_are_kept_up_to_a_limit(
    new_workspace: Callable[[], Workspace],
    base: BaseSpec,
    make_base: Callable[..., BaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With room for two models, the third evicts the least recently used one."""
    resnet, vit = (make_base(model=model, seed=0) for model in ("test_resnet", "test_vit"))
    sizes = [
        sum(tensor.nbytes for tensor in new_workspace().base_tensors(each.id).values())
        for each in (base, resnet, vit)
    ]
    monkeypatch.setattr(module, "MAX_BACKBONE_BYTES", sum(sizes) - min(sizes))
    workspace = new_workspace()
    first = workspace.base_backbone(base.id).module
    second = workspace.base_backbone(resnet.id).module
    assert workspace.base_backbone(base.id).module is first
    third = workspace.base_backbone(vit.id).module
    assert workspace.base_backbone(vit.id).module is third
    assert workspace.base_backbone(base.id).module is first
    assert workspace.base_backbone(resnet.id).module is not second


def test_backbone_in_use_is_kept_even_if_it_exceeds_the_limit(
    new_workspace: Callable[[], Workspace], base: BaseSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model larger than the limit is not built again for every job."""
    monkeypatch.setattr(module, "MAX_BACKBONE_BYTES", 0)
    workspace = new_workspace()
    assert workspace.base_backbone(base.id).module is workspace.base_backbone(base.id).module
