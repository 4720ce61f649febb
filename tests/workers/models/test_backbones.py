import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from workers.models.backbones import create_backbone, read_checkpoint
from workers.models.pretrained_weights import WeightsError

CPU = torch.device("cpu")
MODEL = "test_efficientnet"
Save = Callable[[dict[str, Tensor], Path], None]


def save_pth(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path)


FORMATS = [
    pytest.param("x.pth", save_pth, id="pth"),
    pytest.param("x.safetensors", save_file, id="safetensors"),
]


@pytest.fixture
def whole() -> dict[str, Tensor]:
    """Returns the tensors of a whole model with its classifier, in timm's order and names."""
    torch.manual_seed(5)
    state: dict[str, Tensor] = timm.create_model(MODEL, pretrained=False).state_dict()
    return state


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the same tensors under other names; only the last parts of the names are timm's."""
    return {
        f"_layers.{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(state.items())
    }


@pytest.mark.parametrize(
    "model",
    [
        *["test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_nfnet"],
        *["test_resnet", "test_vit", "mobilenetv3_small_050"],
    ],
)
def test_head_fits_the_features_of_the_backbone(model: str) -> None:
    """`num_features` is right even if the model widens its features before the classifier."""
    backbone = create_backbone(model, seed=0, device=CPU)
    backbone.module.eval()
    with torch.inference_mode():
        assert backbone.module(torch.zeros(1, 3, 32, 32)).shape == (1, backbone.num_features)


def test_random_weights_depend_on_the_seed_alone() -> None:
    """Weights do not depend on earlier random numbers of the process, nor change later ones."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, again, other = (
        create_backbone(MODEL, seed=seed, device=CPU).module.state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first["conv_stem.weight"], other["conv_stem.weight"])


def test_inputs_are_normalized_as_the_model_was_pretrained() -> None:
    """Timm has 0.5 for EfficientNet-Lite, and ImageNet's numbers for the other model."""
    lite = create_backbone("tf_efficientnet_lite0", seed=0, device=CPU).normalization
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    tiny = create_backbone(MODEL, seed=0, device=CPU).normalization
    assert tiny.mean == (0.485, 0.456, 0.406)
    assert tiny.std == (0.229, 0.224, 0.225)


def test_unknown_model_is_refused_with_similar_names(tmp_path: Path) -> None:
    """The message for a mistyped name has similar names."""
    for call in (
        lambda: create_backbone("resnet18x", seed=0, device=CPU),
        lambda: read_checkpoint(tmp_path / "x.pth", model="resnet18x"),
    ):
        with pytest.raises(WeightsError, match=r"'resnet18x'; similar names: .*resnet"):
            call()


@pytest.mark.parametrize(("name", "save"), FORMATS)
def test_checkpoint_gives_the_backbone_without_its_classifier(
    whole: dict[str, Tensor], tmp_path: Path, name: str, save: Save
) -> None:
    """Both formats give tensors with timm's names that load strictly."""
    save(whole, tmp_path / name)
    read = read_checkpoint(tmp_path / name, model=MODEL)
    create_backbone(MODEL, seed=0, device=CPU).module.load_state_dict(read, strict=True)
    assert set(whole) - set(read) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, whole[key]) for key, tensor in read.items())


def test_other_names_are_matched_in_order(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """The packaged EfficientNet has other names than timm."""
    torch.save(prefixed(whole), tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth", model=MODEL)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in read.items())


def test_sorted_file_with_other_names_is_refused(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """Matching a sorted file by order could silently exchange tensors of equal shapes."""
    save_file(prefixed(whole), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"does not have timm's names.*conv_stem\.weight"):
        read_checkpoint(tmp_path / "x.safetensors", model=MODEL)


def test_names_in_another_order_are_refused(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """A bias in the place of a weight is detected by its name."""
    torch.save(dict(reversed(prefixed(whole).items())), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="in the place of timm's"):
        read_checkpoint(tmp_path / "x.pth", model=MODEL)


def test_other_number_of_tensors_is_refused(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """The message has both numbers."""
    torch.save(dict(list(prefixed(whole).items())[:-1]), tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=f"{len(whole) - 1} tensors, but {MODEL} has {len(whole)}"
    ):
        read_checkpoint(tmp_path / "x.pth", model=MODEL)


def test_wrong_shapes_are_named_up_to_five(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """The message for a checkpoint of another width has the first five tensors only."""
    wrong = {name: tensor.reshape(*tensor.shape, 1) for name, tensor in whole.items()}
    torch.save(wrong, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(tmp_path / "x.pth", model=MODEL)
    message = str(caught.value)
    shape = tuple(whole["conv_stem.weight"].shape)
    assert f"conv_stem.weight has shape {(*shape, 1)}, expected {shape}" in message
    assert message.count("has shape") == 5
    assert re.search(r"; and \d+ more$", message)


def test_half_precision_is_converted_to_the_dtypes_of_the_model(
    whole: dict[str, Tensor], tmp_path: Path
) -> None:
    """A base in another dtype than its experts could not be merged with them."""
    half = {name: t.half() if t.is_floating_point() else t for name, t in whole.items()}
    torch.save(half, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth", model=MODEL)
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        name: whole[name].dtype for name in read
    }


@pytest.mark.parametrize(
    ("name", "content"), [("x.pth", b"no checkpoint"), ("x.safetensors", b"{}"), ("x.pth", b"")]
)
def test_file_that_is_not_a_checkpoint_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    """The message has the path, whichever error the reader raises."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(str(tmp_path / name))):
        read_checkpoint(tmp_path / name, model=MODEL)


def test_nested_checkpoint_is_refused_with_its_keys(
    whole: dict[str, Tensor], tmp_path: Path
) -> None:
    """The message has the keys, because the reader cannot know which part to take."""
    torch.save({"epoch": 3, "state_dict": whole}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"flat mapping.*'epoch', 'state_dict'"):
        read_checkpoint(tmp_path / "x.pth", model=MODEL)


class Exploding:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    """Reading a checkpoint never executes pickled code."""
    torch.save({"x": Exploding(tmp_path / "trace")}, tmp_path / "x.pth")
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "x.pth", model=MODEL)
    assert not (tmp_path / "trace").exists()


def test_weights_of_torchvision_resnets_are_taken_as_they_are(tmp_path: Path) -> None:
    """They have timm's names; the oldest files lack the batch counters of later ones."""
    whole = torchvision.models.resnet18(weights=None).state_dict()
    old = {name: t for name, t in whole.items() if not name.endswith("num_batches_tracked")}
    torch.save(whole, tmp_path / "new.pth")
    torch.save(old, tmp_path / "old.pth")
    save_file(old, tmp_path / "old.safetensors")
    for name in ("new.pth", "old.pth", "old.safetensors"):
        read = read_checkpoint(tmp_path / name, model="resnet18")
        assert set(whole) - set(read) == {"fc.weight", "fc.bias"}
        assert all(torch.equal(tensor, whole[key]) for key, tensor in read.items())


def test_only_batch_counters_may_be_missing(tmp_path: Path) -> None:
    """A file that also lacks a weight is refused."""
    whole = torchvision.models.resnet18(weights=None).state_dict()
    del whole["bn1.num_batches_tracked"], whole["bn1.weight"]
    save_file(whole, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"lacks .*bn1\.weight"):
        read_checkpoint(tmp_path / "x.safetensors", model="resnet18")
