from dataclasses import replace
from pathlib import Path

import timm
from safetensors.torch import save_file

from workers.check.report import FileUse, ModelReport, ModelUse, use_of
from workers.check.weights import check_file


def use_of_file(path: Path) -> FileUse:
    return FileUse(model="test_resnet", image_size=32, path=str(path), num_bytes=1, modified_ns=1)


def test_checkpoint_of_the_model_has_no_fault(tmp_path: Path) -> None:
    """A whole model is a checkpoint for its backbone; the classifier that it also has is named."""
    path = tmp_path / "whole.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    report = check_file(use_of_file(path))
    (remark,) = report.remarks
    assert report == ModelReport(remarks=(remark,))
    assert remark.endswith("left out, because a base has no classifier: fc.bias, fc.weight")
    assert ModelReport.from_json(report.to_json()) == report


def test_other_files_are_refused_in_the_words_of_preparation(tmp_path: Path) -> None:
    """The fault names the file; the remedy follows it."""
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"")
    (fault,) = check_file(use_of_file(path)).faults
    assert fault.fault == f"{path}: has only 0 bytes: copy or download it again"
    save_file(timm.create_model("test_vit").state_dict(), path)
    (fault,) = check_file(use_of_file(path)).faults
    assert fault.fault.startswith(f"{path} is not a checkpoint of test_resnet")


def test_file_for_the_images_of_the_study_fits_a_model_that_is_built_for_them(
    tmp_path: Path,
) -> None:
    """An expert of a study at 32 pixels is a base for another study at 32 pixels only."""
    path = tmp_path / "expert.safetensors"
    model = "vit_tiny_patch16_224"
    save_file(timm.create_model(model, img_size=32, num_classes=0).state_dict(), path)
    use = replace(use_of_file(path), model=model)
    assert check_file(use) == ModelReport()
    (fault,) = check_file(replace(use, image_size=64)).faults
    assert "pos_embed has shape (1, 5, 192)" in f"{fault.fault} {fault.remedy}"


def test_file_for_the_images_is_taken_where_one_for_the_own_size_cannot_be(tmp_path: Path) -> None:
    """A mixer's weights cannot be interpolated, but may come from images of the study's size."""
    use = replace(use_of_file(tmp_path / "mixer.safetensors"), model="gmixer_12_224")
    save_file(timm.create_model(use.model, num_classes=0, img_size=32).state_dict(), use.path)
    assert check_file(use) == ModelReport()
    save_file(timm.create_model(use.model, num_classes=0).state_dict(), use.path)
    (fault,) = check_file(use).faults
    assert fault.kind == "resizing"
    assert "or a checkpoint that was trained at that size" in fault.remedy


def test_every_use_can_be_read_back_from_its_key(tmp_path: Path) -> None:
    """The key is also the question that the process reads."""
    model_use = ModelUse(model="a", image_size=8, weights=("none",), steps=())
    for use in (use_of_file(tmp_path), model_use):
        assert use_of(use.key) == use
