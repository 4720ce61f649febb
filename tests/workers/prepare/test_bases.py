import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from eval.digests import sha256_of_file
from eval.own.files import OwnFiles
from eval.own.task import describe_own_task
from eval.suites import find_task
from eval.task_source import TaskSource
from workers.models.backbones import create_backbone
from workers.models.pretrained_weights import PACKAGED, WeightsError
from workers.models.tensor_files import TensorFile
from workers.prepare import bases as base_preparation
from workers.prepare.bases import prepare_base
from workers.prepare.images import prepare_data
from workers.specs.bases import BaseJob, BaseSpec
from workers.specs.data import DataJob, DataSpec, EvaluateOn
from workers.workspace import Workspace

CPU = torch.device("cpu")
GOLDEN = {
    ("mnist_5k", "test"): "8a22145cf1bbcf87c15affdc991519d1985863558684ec4557eefb8fdff911f0",
    ("mnist_5k", "validation"): "2a290269da182ef23fdc17585e27513792c140a487845ad63c603647b4870043",
    ("bluemarble_regions", "test"): (
        "a32cbb8c0a57d9dc87d8b5b1e766ff1da650855f2ae3e37a38fe2538a802f764"
    ),
}
"""sha256 over training images, their labels, 48 test images and their labels, at 32 pixels.

The training images are all of them, or 40 of them for `validation`. The digests are older than the
division into shards.
"""


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    """Returns a workspace on an empty store."""
    return Workspace(str(tmp_path / "store"), cache_root=tmp_path / "cache", device=CPU)


def test_committed_images_are_those_of_the_task(
    workspace: Workspace, datasets: Mapping[str, DataSpec]
) -> None:
    """Sizes, channels and number of classes are right for a grey and a coloured task."""
    for name, channels in [("mnist_5k", 1), ("bluemarble_regions", 3)]:
        data = datasets[name]
        train, test = (workspace.split(data.id, split) for split in ("train", "test"))
        assert train.images.shape == (40, 32, 32, channels)
        assert test.images.shape == (48, 32, 32, channels)
        assert workspace.num_classes(data.id) == find_task(name).num_classes
        metrics = workspace.manifest("data", data.id).metrics
        assert (metrics["num_train"], metrics["num_test"]) == (40, 48)


@pytest.mark.parametrize(("name", "evaluate_on"), GOLDEN)
def test_committed_bytes_are_those_of_earlier_releases(
    empty: Workspace,
    datasets: Mapping[str, DataSpec],
    data_job: Callable[[DataSpec], DataJob],
    name: str,
    evaluate_on: EvaluateOn,
) -> None:
    """The embedded images, their order and the effect of limits never change."""
    max_train = None if evaluate_on == "test" else 40
    spec = replace(datasets[name], evaluate_on=evaluate_on, max_train=max_train)
    list(prepare_data(data_job(spec), workspace=empty))
    splits = [empty.split(spec.id, split) for split in ("train", "test")]
    content = b"".join(each.tobytes() for split in splits for each in (split.images, split.labels))
    assert hashlib.sha256(content).hexdigest() == GOLDEN[name, evaluate_on]


def test_second_preparation_loses_without_overwriting(
    workspace: Workspace,
    datasets: Mapping[str, DataSpec],
    base: BaseSpec,
    data_job: Callable[[DataSpec], DataJob],
) -> None:
    """The first manifest stays, for images and for a base."""
    data = datasets["mnist_5k"]
    first = workspace.manifest("data", data.id), workspace.manifest("base", base.id)
    *_, last = prepare_data(data_job(data), workspace=workspace)
    second = (
        last.committed,
        prepare_base(BaseJob(spec=base, path=None), workspace=workspace),
    )
    assert second == first


def test_two_preparations_give_the_same_bytes(
    workspace: Workspace,
    empty: Workspace,
    datasets: Mapping[str, DataSpec],
    base: BaseSpec,
    data_job: Callable[[DataSpec], DataJob],
) -> None:
    """Two stores get equal files, so that everything derived from them is equal too."""
    data = datasets["mnist_5k"]
    list(prepare_data(data_job(data), workspace=empty))
    prepare_base(BaseJob(spec=base, path=None), workspace=empty)
    for kind, artifact_id in [("data", data.id), ("base", base.id)]:
        files = [each.manifest(kind, artifact_id).files for each in (workspace, empty)]
        assert files[0] == files[1]


def test_own_task_is_prepared_from_its_files(empty: Workspace, tmp_path: Path) -> None:
    """Images are shuffled, cropped to the central square and paired with their labels."""
    colours = {"a": (250, 0, 0), "b": (0, 250, 0)}
    for split in ("train", "val"):
        for name, colour in colours.items():
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for number in range(8):
                path = tmp_path / "own" / split / name / f"{number}.png"
                Image.new("RGB", (20 + number, 16), colour).save(path)
    files = OwnFiles(layout="folder", place=str(tmp_path / "own"))
    task = describe_own_task("mine", files=files, root=tmp_path)
    spec = DataSpec(
        task="mine",
        fingerprint=task.fingerprint,
        image_size=8,
        max_train=None,
        max_test=5,
        evaluate_on="test",
    )
    source = TaskSource(task=task, files=files)
    *_, last = prepare_data(DataJob(spec=spec, source=source), workspace=empty)
    assert last.committed is not None
    assert last.committed.metrics["num_classes"] == 2
    train, test = (empty.split(spec.id, split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((16, 8, 8, 3), (5, 8, 8, 3))
    assert sorted(train.labels.tolist()) == [0] * 8 + [1] * 8 != train.labels.tolist()
    for image, label in zip(train.images, train.labels, strict=True):
        assert tuple(image[4, 4]) == tuple(colours.values())[label]


def test_random_base_is_drawn_from_its_seed(empty: Workspace) -> None:
    """The committed weights are those that `create_backbone` draws."""
    spec = BaseSpec(model="test_resnet", weights="none", seed=3)
    prepare_base(BaseJob(spec=spec, path=None), workspace=empty)
    drawn = create_backbone("test_resnet", seed=3, device=CPU).module.state_dict()
    assert same(empty.base_tensors(spec.id), drawn)


def test_base_from_a_file_is_that_file(empty: Workspace, tmp_path: Path) -> None:
    """A checkpoint of the user's own is found by its digest."""
    whole = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save(whole, tmp_path / "x.pth")
    digest = sha256_of_file(tmp_path / "x.pth")
    spec = BaseSpec(model="test_resnet", weights=f"sha256:{digest}", seed=0)
    manifest = prepare_base(BaseJob(spec=spec, path=str(tmp_path / "x.pth")), workspace=empty)
    committed = empty.base_tensors(spec.id)
    assert same(committed, {name: whole[name] for name in committed})
    assert manifest.outcome == "done"


def test_file_with_another_digest_is_refused(empty: Workspace, tmp_path: Path) -> None:
    """A file that has changed since it was planned is refused; nothing is committed."""
    (tmp_path / "x.pth").write_bytes(b"changed")
    spec = BaseSpec(model="test_resnet", weights="sha256:" + "0" * 64, seed=0)
    with pytest.raises(WeightsError, match=r"x\.pth: sha256 is .*, the plan expects sha256:0000"):
        prepare_base(BaseJob(spec=spec, path=str(tmp_path / "x.pth")), workspace=empty)
    assert empty.artifacts.find("base", spec.id) is None


def test_packaged_base_is_the_trained_network(empty: Workspace) -> None:
    """The stem's statistics come from training; random weights have means of 0."""
    model = "tf_efficientnet_lite0"
    spec = BaseSpec(model=model, weights=f"sha256:{PACKAGED[model].sha256}", seed=0)
    prepare_base(BaseJob(spec=spec, path=None), workspace=empty)
    tensors = empty.base_tensors(spec.id)
    empty.base_backbone(spec.id)  # loads strictly
    assert float(tensors["bn1.running_var"].std()) > 0.1
    assert float(tensors["bn1.running_mean"].abs().max()) > 0.01


def test_hub_without_weights_is_reported_with_a_way_out(
    empty: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message tells users of machines without a network to use a file."""

    def offline(*_arguments: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(base_preparation.timm, "create_model", offline)
    spec = BaseSpec(model="test_resnet", weights="timm", seed=0)
    with pytest.raises(WeightsError, match=r"no route to host.*set backbone\.weights to a file"):
        prepare_base(BaseJob(spec=spec, path=None), workspace=empty)


def same(left: TensorFile, right: Mapping[str, Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in left)
