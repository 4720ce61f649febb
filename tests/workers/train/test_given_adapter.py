"""Experts that other people trained as LoRA adapters: read and merged here, without peft."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval.digests import sha256_of_file
from workers.artifacts.manifests import Manifest
from workers.models.lora.adapter import DOWN, PREFIX, UP
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.lora.reading import check_adapter, read_adapter
from workers.models.pretrained_weights import WeightsError
from workers.specs.expert import ExpertSpec, GivenWeights
from workers.specs.hyperparameters import UNKNOWN_TRAINING, TrainingConstants
from workers.workspace import EXPERT_FILE, Workspace

MakeExpert = Callable[..., ExpertSpec]
Run = Callable[..., list[Manifest]]


def given_by(folder: Path, *, make_expert: MakeExpert) -> ExpertSpec:
    given = GivenWeights(
        sha256=sha256_of_file(folder / ADAPTER_FILE),
        config_sha256=sha256_of_file(folder / CONFIG_FILE),
        head="probe",
        path=str(folder),
    )
    return replace(
        make_expert("mnist_5k"),
        hyperparameters=UNKNOWN_TRAINING,
        constants=TrainingConstants(momentum=0.0, freeze_batch_norm=False, probe_l2=1.0),
        given=given,
    )


@pytest.fixture
def base(workspace: Workspace, make_expert: MakeExpert) -> Mapping[str, torch.Tensor]:
    """Returns the tensors of the base of all experts."""
    return workspace.base_tensors(make_expert().base_id)


@pytest.fixture
def folder(base: Mapping[str, torch.Tensor], tmp_path: Path) -> Path:
    """Writes an adapter of two layers of the base, with random matrices of rank 2."""
    names = [name for name in base if name.endswith("conv_pw.weight")][:2]
    torch.manual_seed(3)
    tensors = {}
    for name in names:
        out, into = base[name].shape[:2]
        layer = PREFIX + name.removesuffix(".weight")
        tensors[layer + DOWN] = torch.randn(2, into, 1, 1)
        tensors[layer + UP] = torch.randn(out, 2, 1, 1)
    path = tmp_path / "adapter"
    path.mkdir()
    save_file(tensors, path / ADAPTER_FILE)
    configure(path)
    return path


def configure(folder: Path, **changes: Any) -> None:  # noqa: ANN401 any setting
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none", **changes}
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(("rslora", "scale"), [(False, 3 / 2), (True, 3 / 2**0.5)])
def test_expert_is_the_base_plus_the_scaled_product(
    folder: Path,
    workspace: Workspace,
    make_expert: MakeExpert,
    run: Run,
    *,
    rslora: bool,
    scale: float,
) -> None:
    """Layers without adapter have the base's bits; rank-stabilised LoRA has its own scale."""
    configure(folder, use_rslora=rslora)
    spec = given_by(folder, make_expert=make_expert)
    (manifest,) = run(spec, workspace=workspace)
    adapter = load_file(folder / ADAPTER_FILE)
    found, base = workspace.expert_tensors(manifest.id), workspace.base_tensors(spec.base_id)
    moved = 0
    for name, weight in base.items():
        layer = PREFIX + name.removesuffix(".weight")
        expected = weight
        if layer + UP in adapter:
            up, down = (adapter[layer + end].flatten(1) for end in (UP, DOWN))
            expected = weight + scale * (up @ down).reshape(weight.shape)
            moved += 1
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-6)
    assert moved == 2
    assert [entry.name for entry in manifest.files] == [EXPERT_FILE]


def test_configuration_is_part_of_the_id(folder: Path, make_expert: MakeExpert) -> None:
    """Equal matrices with another alpha are another expert, and dense weights keep their id."""
    first = given_by(folder, make_expert=make_expert)
    configure(folder, lora_alpha=6)
    second = given_by(folder, make_expert=make_expert)
    assert first.id != second.id
    assert ExpertSpec.from_json(first.to_json()) == first
    assert GivenWeights(sha256="a", head="probe").to_json() == {"sha256": "a", "head": "probe"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"a": 4}}, "several ranks"),
        ({"modules_to_save": ["head"]}, "whole layers"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, "shapes"),
        ({"lora_alpha": "x"}, "lora_alpha 'x'"),
    ],
)
def test_adapter_of_another_kind_is_refused(
    folder: Path, base: Mapping[str, torch.Tensor], changes: dict[str, Any], text: str
) -> None:
    """The message names the file, the setting and its value."""
    configure(folder, **changes)
    with pytest.raises(WeightsError, match="adapter") as refused:
        check_adapter(read_adapter(folder), base=base, shown=str(folder))
    assert text in str(refused.value)


@pytest.mark.parametrize("change", [lambda each: each / 0, lambda each: (9 * each).to(torch.int8)])
def test_matrices_without_finite_floats_are_refused(
    folder: Path, base: Mapping[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """NaN would reach the expert's weights, and codes of quantised matrices are no numbers."""
    tensors = {name: change(each) for name, each in load_file(folder / ADAPTER_FILE).items()}
    save_file(tensors, folder / ADAPTER_FILE)
    with pytest.raises(WeightsError, match=r"adapter.* must be floats with a finite product"):
        check_adapter(read_adapter(folder), base=base, shown=str(folder))


@pytest.mark.parametrize("name", [PREFIX + "no_such.lora_A.weight", "magnitude"])
def test_matrices_that_are_not_the_models_are_refused(
    folder: Path, workspace: Workspace, make_expert: MakeExpert, run: Run, name: str
) -> None:
    """A matrix without its partner, and a tensor of another name, are told by name."""
    tensors = {**load_file(folder / ADAPTER_FILE), name: torch.zeros(2, 2)}
    save_file(tensors, folder / ADAPTER_FILE)
    with pytest.raises(WeightsError, match="expected two matrices") as refused:
        run(given_by(folder, make_expert=make_expert), workspace=workspace)
    assert name.removesuffix("A.weight") in str(refused.value)


def test_adapter_of_another_model_is_refused_with_names(
    folder: Path, workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """Layers that the base lacks are counted, and some of the base's are shown."""
    tensors = {
        name.replace("blocks", "layers"): tensor
        for name, tensor in load_file(folder / ADAPTER_FILE).items()
    }
    save_file(tensors, folder / ADAPTER_FILE)
    with pytest.raises(WeightsError, match="2 of 2 layers are not the model's"):
        run(given_by(folder, make_expert=make_expert), workspace=workspace)


def test_changed_adapter_is_refused(
    folder: Path, workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """Files that changed after the plan would make another expert under the same id."""
    spec = given_by(folder, make_expert=make_expert)
    configure(folder, lora_alpha=9)
    with pytest.raises(WeightsError, match="the plan expects"):
        run(spec, workspace=workspace)
