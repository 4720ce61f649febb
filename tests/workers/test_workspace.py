from collections.abc import Callable, Mapping

import pytest
import torch

from workers import workspace as module
from workers.artifacts.manifests import Manifest
from workers.specs.data import DataSpec
from workers.specs.training import BaseSpec, ExpertSpec
from workers.workspace import MissingArtifactError, Workspace


def test_backbone_comes_back_as_the_base(workspace: Workspace, base: BaseSpec) -> None:
    """Whatever a job did to weights, buffers and gradients."""
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


def test_features_are_those_of_the_base_after_any_trial(
    workspace: Workspace,
    new_workspace: Callable[[], Workspace],
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
) -> None:
    """Computed late they are what they are when computed first."""
    spec = make_expert()
    run(spec, workspace=workspace)
    other = make_expert("bluemarble_regions")
    late = workspace.base_features(other.base_id, other.data_id)
    assert torch.equal(late, new_workspace().base_features(other.base_id, other.data_id))


def test_features_are_kept_up_to_a_limit(
    workspace: Workspace,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond it they are computed again, and are the same; what is kept stays kept."""
    first, second, _ = (data.id for data in datasets.values())
    one = 48 * 256 * 4
    monkeypatch.setattr(module, "FEATURE_BYTES", one)
    kept, passing = (workspace.base_features(base.id, data_id) for data_id in (first, second))
    assert kept.nbytes == one
    assert workspace.base_features(base.id, first) is kept
    again = workspace.base_features(base.id, second)
    assert again is not passing
    assert torch.equal(again, passing)


def test_features_of_an_expert_leave_the_backbone_as_it_is(
    workspace: Workspace, base: BaseSpec, experts: tuple[ExpertSpec, ...]
) -> None:
    """They are asked for while a merged model stands in it."""
    module = workspace.base_backbone(base.id).module
    for tensor in module.state_dict().values():
        tensor.fill_(1)
    workspace.expert_features(experts[0])
    assert all(torch.equal(each, torch.ones_like(each)) for each in module.state_dict().values())


def test_features_of_the_experts_used_last_are_kept(
    workspace: Workspace, experts: tuple[ExpertSpec, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merges of one setting share experts and follow one another."""
    first, second, third = experts
    monkeypatch.setattr(module, "FEATURE_BYTES", 2 * 48 * 256 * 4)
    kept, passing = (workspace.expert_features(expert) for expert in (first, second))
    assert workspace.expert_features(first) is kept
    workspace.expert_features(third)
    assert workspace.expert_features(first) is kept
    again = workspace.expert_features(second)
    assert again is not passing
    assert torch.equal(again, passing)


def test_manifests_are_read_once(workspace: Workspace, base: BaseSpec) -> None:
    """They never change; a merge asks for those of its experts again and again."""
    workspace.manifest("base", base.id)
    before = workspace.artifacts.store.num_requests
    workspace.manifest("base", base.id)
    assert workspace.artifacts.store.num_requests == before


def test_only_the_last_used_manifests_are_kept(
    workspace: Workspace,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that lives through thousands of trials does not grow with them."""
    monkeypatch.setattr(module, "NUM_MANIFESTS", 2)
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


def test_what_is_not_committed_is_missing(workspace: Workspace) -> None:
    """The message has the kind, the id and the store."""
    with pytest.raises(MissingArtifactError, match="expert 0123456789abcdef is not committed"):
        workspace.expert_head("0123456789abcdef")


def test_images_are_mapped_once(workspace: Workspace, datasets: Mapping[str, DataSpec]) -> None:
    """Every trial on the task reads the same pages."""
    data_id = datasets["mnist_5k"].id
    assert workspace.split(data_id, "train") is workspace.split(data_id, "train")
    assert not workspace.split(data_id, "train").images.flags.owndata


def test_bases_of_one_model_share_a_backbone(
    workspace: Workspace, base: BaseSpec, make_base: Callable[..., BaseSpec]
) -> None:
    """A base that is pretrained for longer costs no further model on the device."""
    other = make_base(model=base.model, seed=1)
    module = workspace.base_backbone(base.id).module
    assert workspace.base_backbone(other.id).module is module
    weights = dict(workspace.base_tensors(other.id))
    assert torch.equal(module.state_dict()["conv_stem.weight"], weights["conv_stem.weight"])


def test_backbones_of_several_models_are_kept_up_to_a_limit(
    workspace: Workspace,
    base: BaseSpec,
    make_base: Callable[..., BaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one in use always is; the one that was not used for longest goes first."""
    others = [make_base(model=model, seed=0) for model in ("test_resnet", "test_vit")]
    first = workspace.base_backbone(base.id).module
    second = workspace.base_backbone(others[0].id).module
    assert workspace.base_backbone(base.id).module is first
    sizes = [sum(t.nbytes for t in module.state_dict().values()) for module in (first, second)]
    monkeypatch.setattr("workers.workspace.BACKBONE_BYTES", sum(sizes))
    third = workspace.base_backbone(others[1].id).module
    assert workspace.base_backbone(others[1].id).module is third
    assert base.model in workspace._backbones
    assert "test_resnet" not in workspace._backbones
    monkeypatch.setattr("workers.workspace.BACKBONE_BYTES", 0)
    assert workspace.base_backbone(base.id).module is first
    assert list(workspace._backbones) == [base.model]


def test_features_of_another_base_make_room(
    workspace: Workspace,
    base: BaseSpec,
    datasets: Mapping[str, DataSpec],
    make_base: Callable[..., BaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the base that trials have left behind are forgotten first."""
    data_id, other = datasets["mnist_5k"].id, make_base(model=base.model, seed=1)
    kept = workspace.base_features(base.id, data_id)
    monkeypatch.setattr("workers.workspace.FEATURE_BYTES", kept.nbytes)
    later = workspace.base_features(other.id, data_id)
    assert workspace.base_features(other.id, data_id) is later
    assert not torch.equal(later, kept)
