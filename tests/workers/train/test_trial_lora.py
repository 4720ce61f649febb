"""Trials that train LoRA adapters, by peft."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workers.artifacts.manifests import Manifest
from workers.models.lora.adapter import DOWN, PREFIX, UP
from workers.models.lora.files import ADAPTER_FILE, CONFIG_FILE
from workers.models.tensor_files import TensorFile
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import BACKBONE_PREFIX, BASE_FILE, EXPERT_FILE, Workspace

pytest.importorskip("peft")

Run = Callable[..., list[Manifest]]
MakeExpert = Callable[..., ExpertSpec]
LORA: dict[str, Any] = {
    "lora_rank": 2,
    "lora_alpha": 3.0,
    "freeze_batch_norm": True,
    "optimizer": "adam",
    "lr": 0.01,
    "head": "frozen",
    "probe_l2": 1.0,
}
AT_EVERY_STEP = Timing(report_every_s=-1.0)
_LOAD_WITH_PEFT = """
import sys, timm, torch, warnings
warnings.simplefilter("ignore")
from peft import PeftModel
from safetensors.torch import load_file, save_file

model, base, folder, out = sys.argv[1:]
module = timm.create_model(model, num_classes=0)
module.load_state_dict(load_file(base))
merged = PeftModel.from_pretrained(module, folder).merge_and_unload()
save_file({name: each.contiguous() for name, each in merged.state_dict().items()}, out)
"""
"""Uses timm, peft and safetensors alone, as somebody who was given the files would."""


@pytest.fixture
def new_store(prepared_store: Path, tmp_path: Path) -> Callable[[str], Workspace]:
    """Returns a function that opens a workspace on a store by name, with base and images linked."""

    def open_one(name: str) -> Workspace:
        root = tmp_path / name / "artifacts"
        root.mkdir(parents=True, exist_ok=True)
        for kind in ("base", "data"):
            if not (root / kind).exists():
                (root / kind).symlink_to(prepared_store / "artifacts" / kind)
        return Workspace(str(root.parent), cache_root=tmp_path / "c", device=torch.device("cpu"))

    return open_one


def bits(manifest: Manifest) -> tuple[Any, ...]:
    """Returns everything of an expert that must not depend on how it was trained."""
    files = [(entry.name, entry.sha256) for entry in manifest.files]
    return manifest.id, files, dict(manifest.metrics), manifest.outcome


def files_of(manifest: Manifest, *, workspace: Workspace) -> dict[str, Mapping[str, Tensor]]:
    """Returns the tensors of an expert's files of tensors."""
    names = (EXPERT_FILE, ADAPTER_FILE)
    return {
        name: dict(TensorFile(workspace.file("expert", manifest.id, name)).items())
        for name in names
    }


def test_expert_is_base_plus_product_and_nothing_else_moves(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """Layers without adapter, norms and statistics keep the base's bits; the rest has rank 2."""
    spec = make_expert(**LORA)
    (manifest,) = run(spec, workspace=workspace)
    files, base = files_of(manifest, workspace=workspace), workspace.base_tensors(spec.base_id)
    adapter, moved = files[ADAPTER_FILE], []
    for name, weight in base.items():
        change = files[EXPERT_FILE][BACKBONE_PREFIX + name] - weight
        layer = PREFIX + name.removesuffix(".weight")
        if f"{layer}{UP}" in adapter:
            up, down = (adapter[f"{layer}{end}"].double().flatten(1) for end in (UP, DOWN))
            expected = 1.5 * (up @ down).reshape(change.shape)
            torch.testing.assert_close(change.double(), expected, rtol=1e-4, atol=1e-7)
            moved.append(bool(change.any()))
        else:
            assert not change.any(), name
    assert 2 * len(moved) == len(adapter)
    assert all(moved)


def test_peft_loads_the_adapter_onto_the_timm_model(
    workspace: Workspace, make_expert: MakeExpert, run: Run, tmp_path: Path
) -> None:
    """In a process without our code, peft makes the expert's dense weights of its adapter."""
    spec = make_expert(**LORA)
    (manifest,) = run(spec, workspace=workspace)
    folder, merged = tmp_path / "adapter", tmp_path / "merged.safetensors"
    folder.mkdir()
    for name in (ADAPTER_FILE, CONFIG_FILE):
        (folder / name).write_bytes(workspace.file("expert", manifest.id, name).read_bytes())
    model = str(workspace.manifest("base", spec.base_id).spec["model"])
    base = workspace.file("base", spec.base_id, BASE_FILE)
    command = [sys.executable, "-c", _LOAD_WITH_PEFT, model, str(base), str(folder), str(merged)]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"})
    found = dict(TensorFile(merged).items())
    expert = workspace.expert_tensors(manifest.id)
    assert set(found) == set(expert)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expert[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_stopped_trial_ends_with_the_bits_of_an_undisturbed_one(
    new_store: Callable[[str], Workspace], make_expert: MakeExpert, run: Run, head: str
) -> None:
    """A checkpoint has the adapters and their momenta, after any step."""
    spec = make_expert(**{**LORA, "head": head}, steps=6)
    trial = TrialSpec(longest=spec, snapshots=(3, 6))
    stopped = run_trial(trial, workspace=new_store("stopped"), timing=AT_EVERY_STEP)
    assert next(each.step for each in stopped if each.step == 4) == 4
    stopped.close()  # type: ignore[attr-defined]
    store = new_store("stopped")
    assert [entry.key for entry in store.artifacts.store.list("in-flight/")]
    resumed = run(spec, 3, 6, workspace=store)
    whole = run(spec, 3, 6, workspace=new_store("whole"))
    assert [bits(each) for each in resumed] == [bits(each) for each in whole]


def test_trial_leaves_nothing_in_the_process(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """The trial of an expert without adapters gives the same bits after one with adapters."""
    plain = make_expert("mnist_m", freeze_batch_norm=True)
    run(make_expert(**LORA), workspace=workspace)
    backbone = workspace.base_backbone(plain.base_id)
    assert all(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not any("lora" in name for name, _ in backbone.module.named_modules())


def test_snapshot_is_bit_for_bit_a_shorter_trial(
    new_store: Callable[[str], Workspace], make_expert: MakeExpert, run: Run
) -> None:
    """The commit of a snapshot leaves the adapters as they are."""
    spec = make_expert(**LORA, steps=4)
    snapshot, _ = run(spec, 2, 4, workspace=new_store("long"))
    (short,) = run(spec.with_steps(2), workspace=new_store("short"))
    assert bits(short) == bits(snapshot)


@pytest.mark.parametrize("change", [{"lora_rank": 3}, {"lora_alpha": 1.0}, {"seed": 5}])
def test_rank_alpha_and_seed_make_other_experts(
    workspace: Workspace, make_expert: MakeExpert, run: Run, change: dict[str, Any]
) -> None:
    """Each of them changes the adapter that is trained."""
    (one,) = run(make_expert(**LORA), workspace=workspace)
    (other,) = run(make_expert(**{**LORA, **change}), workspace=workspace)
    assert one.file(ADAPTER_FILE).sha256 != other.file(ADAPTER_FILE).sha256


def test_diverged_adapter_is_committed_without_files(
    workspace: Workspace, make_expert: MakeExpert, run: Run
) -> None:
    """Weights that are not finite are an outcome, with adapters too."""
    diverging = {**LORA, "optimizer": "sgd", "lr": 1e30, "steps": 5, "head": "trained"}
    (manifest,) = run(make_expert(**diverging), workspace=workspace)
    assert manifest.outcome == "diverged"
    names = {entry.name for entry in manifest.files}
    assert names in (set(), {EXPERT_FILE, ADAPTER_FILE, CONFIG_FILE})
