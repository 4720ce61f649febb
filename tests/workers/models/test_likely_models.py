import pytest
import timm
import torch
from torch import Tensor

from workers.models import likely_models
from workers.models.likely_models import likely_model


def tensors_of(model: str, **changes: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(timm.create_model(model, pretrained=False, **changes).state_dict())


def likely(found: dict[str, Tensor], *, model: str, file_name: str = "x.pth") -> str:
    return str(likely_model(found, model=model, file_name=file_name))


def test_relatives_are_found_by_names_and_shapes() -> None:
    """The classifier may be another than timm's."""
    assert likely(tensors_of("resnet34"), model="resnet18") == "it looks like resnet34"
    found = tensors_of("vit_tiny_patch16_224", num_classes=7)
    assert likely(found, model="vit_small_patch16_224") == "it looks like vit_tiny_patch16_224"


def test_name_of_the_file_is_tried_first() -> None:
    """Files from the web have the model's name, with other characters around it."""
    found = tensors_of("mobilenetv3_small_050")
    for name in ("mobilenetv3-small-050.pth", "MobileNetV3_small_050_lamb-4b7bbe87.pth"):
        said = likely(found, model="resnet18", file_name=name)
        assert said == "it looks like mobilenetv3_small_050"


def test_model_that_timm_lacks_has_a_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more tensor is not enough to make a file unlike its model."""
    monkeypatch.setattr(likely_models, "NUM_SIMILAR", 2)
    found = tensors_of("resnet34")
    found["extra.weight"] = torch.empty(3, device="meta")
    said = likely(found, model="resnet18", file_name="resnet34.pth")
    assert said == "the nearest of timm's models is resnet34, but it does not fit either"


def test_search_ends_after_its_time_and_names_no_distant_model() -> None:
    """The clock passes the limit at the second model."""
    times = iter([0.0, *[1e9] * 9])
    found = {"nothing.weight": torch.empty(3)}
    clock = lambda: next(times)  # noqa: E731 a clock
    assert likely_model(found, model="resnet18", file_name="x.pth", clock=clock) is None
