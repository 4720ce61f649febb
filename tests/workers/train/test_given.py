"""Experts that were trained elsewhere: weights from a file, a head made here."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from eval.digests import sha256_of_file
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics
from workers.models.fitted_weights import FittedWeights
from workers.models.heads import classifier_of
from workers.models.pretrained_weights import WeightsError
from workers.specs.expert import ExpertSpec, GivenWeights, HeadSource
from workers.specs.hyperparameters import UNKNOWN_TRAINING, TrainingConstants
from workers.workspace import Workspace

MakeExpert = Callable[..., ExpertSpec]
Run = Callable[..., list[Manifest]]
NUM_CLASSES = 10


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Writes a whole model of timm with a classifier of ten classes, as another tool trained it."""
    return whole_model(tmp_path / "expert.safetensors", num_classes=NUM_CLASSES)


def whole_model(path: Path, *, num_classes: int) -> Path:
    torch.manual_seed(7)
    state = timm.create_model("test_efficientnet", num_classes=num_classes).state_dict()
    save_file(state, path)
    return path


def given_by(path: Path, *, make_expert: MakeExpert, head: HeadSource = "probe") -> ExpertSpec:
    given = GivenWeights(sha256=sha256_of_file(path), head=head, path=str(path))
    return replace(
        make_expert("mnist_5k"),
        hyperparameters=UNKNOWN_TRAINING,
        constants=TrainingConstants(momentum=0.0, freeze_batch_norm=False, probe_l2=1.0),
        given=given,
    )


def test_the_weights_of_the_file_are_committed_with_a_probe(
    file: Path, make_expert: MakeExpert, run: Run, workspace: Workspace
) -> None:
    """The backbone has the file's bits, and its probe knows the digits better than chance."""
    spec = given_by(file, make_expert=make_expert)
    (manifest,) = run(spec, workspace=workspace)
    torch.manual_seed(7)
    state = timm.create_model("test_efficientnet", num_classes=NUM_CLASSES).state_dict()
    found = workspace.expert_tensors(spec.id)
    assert all(torch.equal(found[name], state[name]) for name in found)
    metrics = ExpertMetrics.from_json(manifest.metrics)
    assert metrics.test is not None
    assert metrics.base is not None
    assert (metrics.training.steps_taken, metrics.training.num_classes) == (0, NUM_CLASSES)
    assert metrics.test.accuracy > 1 / NUM_CLASSES


def test_the_same_job_in_another_process_commits_equal_bytes(
    file: Path,
    make_expert: MakeExpert,
    run: Run,
    new_workspace: Callable[[], Workspace],
    store_root: Path,
) -> None:
    """A killed job leaves nothing behind and begins again."""
    spec = given_by(file, make_expert=make_expert)
    (first,) = run(spec, workspace=new_workspace())
    (folder,) = (store_root / "artifacts" / "expert").rglob(spec.id)
    folder.rename(store_root / "aside")
    (second,) = run(spec, workspace=new_workspace())
    assert first.files[0].sha256 == second.files[0].sha256
    assert first.metrics == second.metrics


def test_the_classifier_of_the_file_is_used_if_asked(
    file: Path, make_expert: MakeExpert, run: Run, workspace: Workspace
) -> None:
    """The head has the file's bits."""
    spec = given_by(file, make_expert=make_expert, head="file")
    run(spec, workspace=workspace)
    torch.manual_seed(7)
    model = timm.create_model("test_efficientnet", num_classes=NUM_CLASSES)
    head = workspace.expert_head(spec.id)
    assert torch.equal(head.weight, model.get_classifier().weight)
    assert torch.equal(head.bias, model.get_classifier().bias)


def test_a_classifier_of_other_classes_is_refused(
    tmp_path: Path, make_expert: MakeExpert, run: Run, workspace: Workspace
) -> None:
    """The message has both numbers of classes."""
    path = whole_model(tmp_path / "seven.safetensors", num_classes=7)
    spec = given_by(path, make_expert=make_expert, head="file")
    with pytest.raises(WeightsError, match="has 7 classes, and the task has 10"):
        run(spec, workspace=workspace)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weight": torch.full((10, 8), float("nan"))}, "classifier.weight holds NaN"),
        ({"bias": torch.full((10,), float("inf"))}, "classifier.bias holds NaN or infinite"),
        ({"weight": torch.full((10, 8), 1e300, dtype=torch.float64)}, "holds NaN or infinite"),
        ({"weight": torch.ones((10, 8), dtype=torch.int8)}, "classifier.weight is int8"),
        ({"bias": torch.ones(1)}, r"classifier.bias has shape \(1,\), expected \(10,\)"),
        ({"bias": torch.ones(5)}, r"classifier.bias has shape \(5,\)"),
        ({"0.running_var": torch.ones(8)}, "more than one linear layer.*classifier.0.running_var"),
        ({"scale": torch.ones(())}, "more than one linear layer.*classifier.scale"),
    ],
)
def test_a_classifier_that_is_no_linear_layer_of_finite_floats_is_refused(
    changes: dict[str, torch.Tensor], text: str
) -> None:
    """Its logits would be NaN, or another head's than the expert was trained with."""
    found = {"weight": torch.ones(10, 8), "bias": torch.ones(10)} | changes
    fitted = FittedWeights(
        tensors={},
        classifier={f"classifier.{name}": each for name, each in found.items()},
        remarks=(),
    )
    with pytest.raises(WeightsError, match=f"x.pth: .*{text}"):
        classifier_of(fitted, num_classes=NUM_CLASSES, num_features=8, shown="x.pth")


def test_a_changed_file_is_refused(
    file: Path, make_expert: MakeExpert, run: Run, workspace: Workspace
) -> None:
    """The plan holds the digest of the file as it was."""
    spec = given_by(file, make_expert=make_expert)
    whole_model(file, num_classes=11)
    with pytest.raises(WeightsError, match="the plan expects sha256:"):
        run(spec, workspace=workspace)


def test_the_place_of_the_file_is_not_in_the_id(file: Path, make_expert: MakeExpert) -> None:
    """A file that moves stays the same expert; another head is another one."""
    spec = given_by(file, make_expert=make_expert)
    assert spec.given is not None
    moved = replace(spec, given=replace(spec.given, path="/elsewhere"))
    assert (moved.id, moved) == (spec.id, spec)
    assert given_by(file, make_expert=make_expert, head="file").id != spec.id
    assert ExpertSpec.from_json(spec.to_json()) == spec
