"""The checks of models, in this process. `test_ask.py` has the process that the driver starts."""

from dataclasses import replace

import pytest
import torch
from known_models import MODEL_SIZES, USUAL_STEP

from workers.check.model_check import check_model
from workers.check.names import similar_names
from workers.check.report import ModelReport, ModelUse
from workers.check.weights import hub_fault
from workers.models.backbones import create_backbone
from workers.train.trainer import create_head
from workers.train.trainer_state import model_tensors

VIT = "vit_tiny_patch16_224"
USE = ModelUse(model="test_resnet", image_size=32, weights=("none",), steps=(USUAL_STEP,))


def fault_of(use: ModelUse) -> tuple[str, str]:
    """Returns the kind and the whole text of the only fault of a use."""
    (fault,) = check_model(use).faults
    return fault.kind, f"{fault.fault}; {fault.remedy}"


@pytest.mark.parametrize("model", MODEL_SIZES)
def test_sizes_equal_those_of_built_models(model: str) -> None:
    """A report has the sizes of the model that a worker builds, with and without a head."""
    report = check_model(replace(USE, model=model))
    assert report == ModelReport(size=MODEL_SIZES[model])
    assert report.size is not None
    backbone = create_backbone(model, seed=0, device=torch.device("cpu"))
    head = create_head(backbone.num_features, num_classes=7, seed=0, task="any")
    tensors = model_tensors(backbone.module, head).values()
    assert report.size.expert_bytes(num_classes=7) == sum(tensor.nbytes for tensor in tensors)


def test_model_is_built_for_the_images_if_it_does_not_take_them_otherwise() -> None:
    """A ViT has fewer positions for smaller images; one with dynamic positions stays as it is."""
    resized = check_model(replace(USE, model=VIT, weights=("timm",)))
    assert resized.is_resized
    assert resized.faults == ()
    own = create_backbone(VIT, seed=0, device=torch.device("meta"))
    assert resized.size is not None
    num_own = sum(each.numel() for each in own.module.parameters())
    assert num_own - resized.size.num_parameters == (14**2 - 2**2) * 192
    assert not check_model(replace(USE, model="test_vit")).is_resized


def test_layers_with_another_memory_layout_are_told() -> None:
    """RepVGG has one strided 1 x 1 convolution of the image's three channels."""
    report = check_model(replace(USE, model="repvgg_a0"))
    assert report.faults == ()
    (remark,) = report.remarks
    assert remark.startswith("repvgg_a0: on CPUs, its strided 1 x 1 convolutions of few input")
    assert "(number: 1)" in remark


def test_other_sizes_are_named_where_a_size_does_not_work() -> None:
    """A size that no form of the model takes is refused with the model's own and nearby sizes."""
    kind, text = fault_of(replace(USE, model=VIT, image_size=8))
    assert kind == "image_size"
    assert text.startswith(f"{VIT} takes no images of 8 pixels (")
    assert text.endswith("; the model's own size is 224; it also takes 28, 32, 56")


def test_size_to_which_weights_cannot_be_interpolated_is_refused() -> None:
    """A mixer is built for any size with random weights, and has pretrained ones for its own."""
    use = replace(USE, model="gmixer_12_224")
    assert check_model(replace(use, weights=("file", "none"))).faults == ()
    kind, text = fault_of(replace(use, weights=("elsewhere", "none")))
    assert kind == "resizing"
    assert "cannot interpolate the weights of gmixer_12_224 to 32 pixels" in text
    assert "its own size is 224; other sizes need weights: none, or a checkpoint" in text


def test_hub_without_weights_of_a_model_is_told_before_it_is_asked() -> None:
    """Timm knows which models have weights in its hub."""
    untrained = replace(USE, model="darknet17")
    assert hub_fault(untrained) is None
    assert hub_fault(replace(USE, weights=("timm",))) is None
    replaced = replace(USE, model="convnext_tiny_in22ft1k", weights=("timm",))
    assert hub_fault(replaced) is None
    fault = hub_fault(replace(untrained, weights=("none", "timm")))
    assert fault is not None
    assert fault.fault == "timm's hub has no weights of darknet17"


def test_one_image_is_too_few_for_batch_norm_with_one_value_per_channel() -> None:
    """A batch of one image is refused where BatchNorm is trained on it, and only there."""
    step = replace(USUAL_STEP, batch_size=1)
    assert check_model(replace(USE, steps=(step,))).faults == ()
    kind, text = fault_of(replace(USE, steps=(replace(step, trains_batch_norm=True),)))
    assert kind == "batch_size"
    assert text.endswith("; expected 2 or more")
    assert "Expected more than 1 value per channel" in text


def test_model_that_cannot_be_linearised_is_refused_for_that() -> None:
    """Hard sigmoid has no second derivative in torch."""
    linearised = replace(USUAL_STEP, linearised=True)
    use = replace(USE, model="mobilenetv3_small_050", steps=(USUAL_STEP, linearised))
    kind, text = fault_of(use)
    assert kind == "linearised"
    assert text.startswith("mobilenetv3_small_050 cannot be linearised (")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet_18", "'resnet18'"),
        ("ResNet-18", "'resnet18'"),
        ("timm/resnet18", "'resnet18'"),
        ("vit_b_16", "'vit_base_patch16_224'"),
        ("swin_t", "'swin_tiny_patch4_window7_224'"),
        ("eficientnet_b0", "'efficientnet_b0'"),
        ("resnet18.a1in1k", "'resnet18.a1_in1k'"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    """Names of other libraries and misspelt names, models' and weights', lead to timm's."""
    kind, text = fault_of(replace(USE, model=name))
    assert kind == "name"
    assert f"did you mean {nearest}, or " in text


@pytest.mark.parametrize("name", ["", "zzz", "hf-hub:"])
def test_name_like_no_other_has_no_similar_names(name: str) -> None:
    """A name without similar names says how to list all."""
    assert (
        "`timm.list_models(include_tags=True)` returns all names"
        in fault_of(replace(USE, model=name))[1]
    )
    assert similar_names(name, known=["resnet18"]) == []
