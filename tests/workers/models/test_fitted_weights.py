from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from workers.models import likely_models
from workers.models.backbones import create_backbone
from workers.models.fitted_weights import fit_weights
from workers.models.pretrained_weights import WeightsError

CPU = torch.device("cpu")
MODEL = "test_efficientnet"
State = dict[str, Tensor]
Save = Callable[[State, Path], None]


def save_pth(tensors: State, path: Path) -> None:
    torch.save(tensors, path)


FORMATS = [
    pytest.param("x.pth", save_pth, id="pth"),
    pytest.param("x.safetensors", save_file, id="safetensors"),
]


def state_of(model: str, **changes: int) -> State:
    """Returns the tensors of a whole model with its classifier, in timm's order and names."""
    torch.manual_seed(5)
    state: State = timm.create_model(model, pretrained=False, **changes).state_dict()
    return state


@pytest.fixture(autouse=True)
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the search for the likely model after seconds, where there is none to find."""
    monkeypatch.setattr(likely_models, "SEARCH_S", 0.0)


@pytest.fixture
def long_search(short_search: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the search run until it finds the model."""
    del short_search
    monkeypatch.setattr(likely_models, "SEARCH_S", 60.0)


@pytest.fixture
def whole() -> State:
    """Returns the tensors of a small model."""
    return state_of(MODEL)


def renamed(state: State) -> State:
    """Returns the same tensors under other names; only the last parts of the names are timm's."""
    return {
        f"_layers.{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(state.items())
    }


def refusal(path: Path, *, model: str = MODEL) -> str:
    with pytest.raises(WeightsError) as caught:
        fit_weights(path, model=model)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize(("name", "save"), FORMATS)
def test_checkpoint_gives_the_backbone_without_its_classifier(
    whole: State, tmp_path: Path, name: str, save: Save
) -> None:
    """Both formats give tensors with timm's names that load strictly; the remark has the rest."""
    save(whole, tmp_path / name)
    fitted = fit_weights(tmp_path / name, model=MODEL)
    create_backbone(MODEL, seed=0, device=CPU).module.load_state_dict(dict(fitted.tensors))
    assert set(whole) - set(fitted.tensors) == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, whole[key]) for key, tensor in fitted.tensors.items())
    (remark,) = fitted.remarks
    assert "left out" in remark
    assert "classifier.weight" in remark


def test_negative_variance_is_refused(whole: State, tmp_path: Path) -> None:
    """The model's outputs would be NaN; a variance of zero is that of a dead channel."""
    name = next(each for each in whole if each.endswith("running_var"))
    torch.save({**whole, name: whole[name] * 0}, tmp_path / "zero.pth")
    fit_weights(tmp_path / "zero.pth", model=MODEL)
    torch.save({**whole, name: -whole[name]}, tmp_path / "x.pth")
    assert f"variances are negative, so that the model's outputs are NaN: {name}" in refusal(
        tmp_path / "x.pth"
    )


@pytest.mark.usefixtures("long_search")
def test_deeper_model_is_refused_by_name(tmp_path: Path) -> None:
    """All tensors of a ResNet-18 are in a file of a ResNet-34, which has others too."""
    torch.save(state_of("resnet34"), tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth", model="resnet18")
    assert "it looks like resnet34" in message
    assert "resnet18 does not have 96 of its 218 tensors (layer1.2.conv1.weight, " in message
    assert "and 91 more" in message


@pytest.mark.usefixtures("long_search")
def test_shallower_model_is_refused_by_name(tmp_path: Path) -> None:
    """The message names the model that the file fits."""
    torch.save(state_of("resnet18"), tmp_path / "x.pth")
    assert "it looks like resnet18" in refusal(tmp_path / "x.pth", model="resnet34")


def test_model_of_another_family_is_found_by_the_name_of_the_file(tmp_path: Path) -> None:
    """Files are often called like the model."""
    torch.save(state_of("resnet18"), tmp_path / "ResNet18-f37072fd.pth")
    message = refusal(tmp_path / "ResNet18-f37072fd.pth", model="test_vit")
    assert "it looks like resnet18" in message
    assert "none of its 122 tensors has a name of test_vit" in message


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "backbone.", "model.net.", "module.m."]
)
@pytest.mark.parametrize(("name", "save"), FORMATS)
def test_one_prefix_of_all_names_is_removed(
    whole: State, tmp_path: Path, name: str, save: Save, prefix: str
) -> None:
    """Wrappers for several GPUs, compilation and training put one before every name."""
    save({prefix + key: tensor for key, tensor in whole.items()}, tmp_path / name)
    fitted = fit_weights(tmp_path / name, model=MODEL)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in fitted.tensors.items())
    assert any(f"named {prefix}*" in remark for remark in fitted.remarks)


def test_own_expert_can_be_a_base(whole: State, tmp_path: Path) -> None:
    """An expert's file has the head beside the backbone."""
    expert = {f"backbone.{name}": t for name, t in whole.items() if "classifier" not in name}
    head = {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}
    save_file({**expert, **head}, tmp_path / "expert.safetensors")
    fitted = fit_weights(tmp_path / "expert.safetensors", model=MODEL)
    assert any("head.bias, head.weight" in remark for remark in fitted.remarks)


def test_tensors_beside_the_prefix_are_refused(whole: State, tmp_path: Path) -> None:
    """Two encoders in one file, as from contrastive training, leave one unused."""
    both = {f"{each}.{name}": t for each in ("query", "key") for name, t in whole.items()}
    torch.save(both, tmp_path / "x.pth")
    assert "does not have" in refusal(tmp_path / "x.pth")


def test_other_names_are_matched_in_order(whole: State, tmp_path: Path) -> None:
    """The packaged EfficientNet has other names than timm; the remark says so."""
    torch.save(renamed(whole), tmp_path / "x.pth")
    fitted = fit_weights(tmp_path / "x.pth", model=MODEL)
    assert all(torch.equal(tensor, whole[key]) for key, tensor in fitted.tensors.items())
    assert any("in their order" in remark for remark in fitted.remarks)


def test_order_decides_nothing_where_names_are_timms(tmp_path: Path) -> None:
    """The last norm of this model stands after its pooling, and the file's before."""
    state = state_of("test_vit")
    before = {name.replace("fc_norm.", "norm."): t for name, t in state.items()}
    after = {name: t for name, t in state.items() if not name.startswith("norm.")}
    torch.save({**after, "other.weight": torch.ones(3)}, tmp_path / "x.pth")
    assert before.keys() == state.keys()
    assert "other.weight" in refusal(tmp_path / "x.pth", model="test_vit")


def test_sorted_file_with_other_names_is_refused(whole: State, tmp_path: Path) -> None:
    """Matching a sorted file by order could silently exchange tensors of equal shapes."""
    save_file(renamed(whole), tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors")
    assert "has a name of test_efficientnet in timm, such as conv_stem.weight" in message


def test_order_needs_equal_numbers_and_last_parts(whole: State, tmp_path: Path) -> None:
    """A bias in the place of a weight is detected by its name."""
    names = renamed(whole)
    for wrong in (dict(reversed(names.items())), dict(list(names.items())[:-1])):
        torch.save(wrong, tmp_path / "x.pth")
        assert "has a name of test_efficientnet in timm" in refusal(tmp_path / "x.pth")


def test_wrong_shapes_are_named_up_to_five(whole: State, tmp_path: Path) -> None:
    """The message for a checkpoint of another width has the first five tensors only."""
    wrong = {name: tensor.reshape(*tensor.shape, 1) for name, tensor in whole.items()}
    torch.save(wrong, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    shape = tuple(whole["conv_stem.weight"].shape)
    assert f"conv_stem.weight has shape {(*shape, 1)}, expected {shape}" in message
    assert message.count("has shape") == 5
    assert message.endswith(" more")


def test_numbers_are_converted_to_the_dtypes_of_the_model(whole: State, tmp_path: Path) -> None:
    """A base in another dtype than its experts could not be merged with them."""
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        torch.save({name: t.to(dtype) for name, t in whole.items()}, tmp_path / "x.pth")
        tensors = fit_weights(tmp_path / "x.pth", model=MODEL).tensors
        assert all(tensor.dtype == whole[name].dtype for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.bool, torch.complex64]
)
@pytest.mark.parametrize(("name", "save"), FORMATS)
def test_weights_that_are_codes_are_refused_by_name(
    whole: State, tmp_path: Path, name: str, save: Save, dtype: torch.dtype
) -> None:
    """Quantised weights without their scales are not the model's weights."""
    save({**whole, "conv_stem.weight": whole["conv_stem.weight"].to(dtype)}, tmp_path / name)
    said = f"conv_stem.weight ({str(dtype).removeprefix('torch.')})"
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_refused_by_name(
    whole: State, tmp_path: Path, value: float
) -> None:
    """1e300 is finite in float64, but not in the model's float32."""
    weight = whole["conv_stem.weight"].double()
    weight[0, 0, 0, 0] = value
    torch.save({**whole, "conv_stem.weight": weight}, tmp_path / "x.pth")
    assert "NaN or infinite values: conv_stem.weight" in refusal(tmp_path / "x.pth")


def test_weights_of_torchvision_resnets_are_taken_as_they_are(tmp_path: Path) -> None:
    """They have timm's names; the oldest files lack the batch counters of later ones."""
    whole = torchvision.models.resnet18(weights=None).state_dict()
    old = {name: t for name, t in whole.items() if not name.endswith("num_batches_tracked")}
    torch.save(whole, tmp_path / "new.pth")
    torch.save(old, tmp_path / "old.pth")
    save_file(old, tmp_path / "old.safetensors")
    for name in ("new.pth", "old.pth", "old.safetensors"):
        read = fit_weights(tmp_path / name, model="resnet18").tensors
        assert set(whole) - set(read) == {"fc.weight", "fc.bias"}
        assert all(torch.equal(tensor, whole[key]) for key, tensor in read.items())


def test_only_batch_counters_may_be_missing(whole: State, tmp_path: Path) -> None:
    """A file that also lacks a weight is refused; for statistics the message has the remedy."""
    counted = {name: t for name, t in whole.items() if not name.endswith("num_batches_tracked")}
    save_file({n: t for n, t in counted.items() if n != "bn1.weight"}, tmp_path / "x.safetensors")
    assert "(bn1.weight)" in refusal(tmp_path / "x.safetensors")
    parameters = {name: t for name, t in counted.items() if "running" not in name}
    save_file(parameters, tmp_path / "y.safetensors")
    assert "BatchNorm's statistics: save model.state_dict()" in refusal(tmp_path / "y.safetensors")


def test_tied_tensors_may_be_in_a_file_once_or_often(tmp_path: Path) -> None:
    """CoaT uses one convolution in many blocks; torch saves it under each name."""
    whole = state_of("coat_lite_tiny")
    often, once = "serial_blocks1.0.cpe.proj.weight", "cpe1.proj.weight"
    torch.save(whole, tmp_path / "x.pth")
    fitted = fit_weights(tmp_path / "x.pth", model="coat_lite_tiny").tensors
    assert once in fitted
    assert often not in fitted
    torch.save({n: t for n, t in whole.items() if n != once}, tmp_path / "x.pth")
    assert torch.equal(
        fit_weights(tmp_path / "x.pth", model="coat_lite_tiny").tensors[once], whole[once]
    )
    torch.save({**whole, often: whole[often] + 1}, tmp_path / "x.pth")
    assert f"{often} and {once}" in refusal(tmp_path / "x.pth", model="coat_lite_tiny")


def test_file_may_be_for_the_images_of_the_study(tmp_path: Path) -> None:
    """An expert of an earlier study at 64 pixels has fewer positions than the model has."""
    model, size = "vit_tiny_patch16_224", 64
    torch.save(state_of(model, img_size=size), tmp_path / "x.pth")
    fitted = fit_weights(tmp_path / "x.pth", model=model, image_size=size).tensors
    assert fitted["pos_embed"].shape == (1, 17, 192)
    message = refusal(tmp_path / "x.pth", model=model)
    assert "pos_embed has shape (1, 17, 192), expected (1, 197, 192)" in message


def as_in_open_clip(tower: State) -> State:
    """Returns a CLIP tower under open_clip's names, with the text tower's logit scale."""
    swaps = {
        "patch_embed.proj": "conv1",
        "blocks.": "transformer.resblocks.",
        "norm_pre": "ln_pre",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    found = {"logit_scale": torch.ones(()), "text_projection": torch.ones(2, 2)}
    for name, tensor in tower.items():
        given = name
        for ours, theirs in swaps.items():
            given = given.replace(ours, theirs)
        given = f"ln_post.{given[5:]}" if given.startswith("norm.") else given
        found[f"visual.{given}"] = tensor
    found["visual.class_embedding"] = found.pop("visual.cls_token")[0, 0]
    found["visual.positional_embedding"] = found.pop("visual.pos_embed")[0]
    found["visual.proj"] = found.pop("visual.head.weight").T.contiguous()
    del found["visual.head.bias"]
    return found


def test_image_tower_of_open_clip_is_taken_whole(tmp_path: Path) -> None:
    """The text tower is left out; a tensor of the image tower that timm lacks is not."""
    model = "vit_xsmall_patch16_clip_224"
    tower = state_of(model, num_classes=512)
    tower["head.bias"].zero_()
    found = as_in_open_clip(tower)
    torch.save(found, tmp_path / "x.pth")
    fitted = fit_weights(tmp_path / "x.pth", model=model)
    assert fitted.tensors.keys() == tower.keys()
    assert all(torch.equal(tensor, tower[name]) for name, tensor in fitted.tensors.items())
    assert any("2 tensors of the text tower" in remark for remark in fitted.remarks)
    torch.save({**found, "visual.attn_pool.query": torch.ones(3)}, tmp_path / "x.pth")
    assert "attn_pool.query" in refusal(tmp_path / "x.pth", model=model)
    patches = {**found, "visual.conv1.weight": torch.ones(256, 3, 32, 32)}
    torch.save(patches, tmp_path / "x.pth")
    assert "patch_embed.proj.weight has shape (256, 3, 32, 32)" in refusal(
        tmp_path / "x.pth", model=model
    )
    assert "has a name of test_resnet" in refusal(tmp_path / "x.pth", model="test_resnet")
