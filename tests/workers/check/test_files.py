from pathlib import Path

import timm
from safetensors.torch import save_file

from workers.check.report import FileUse, ModelUse, use_of
from workers.check.weights import file_fault


def use_of_file(path: Path) -> FileUse:
    return FileUse(model="test_resnet", path=str(path), num_bytes=1, modified_ns=1)


def test_checkpoint_of_the_model_has_no_fault(tmp_path: Path) -> None:
    """A whole model, with its classifier, is a checkpoint for its backbone."""
    path = tmp_path / "whole.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    assert file_fault(use_of_file(path)) is None


def test_other_files_are_refused_in_the_words_of_preparation(tmp_path: Path) -> None:
    """The fault names the file; the remedy follows it."""
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"")
    fault = file_fault(use_of_file(path))
    assert fault is not None
    assert (fault.fault, fault.remedy) == (f"{path}: it is empty", "copy or download it again")
    save_file(timm.create_model("test_vit").state_dict(), path)
    fault = file_fault(use_of_file(path))
    assert fault is not None
    assert fault.fault.startswith(f"{path} is not a checkpoint of test_resnet")


def test_every_use_can_be_read_back_from_its_key(tmp_path: Path) -> None:
    """The key is also the question that the process reads."""
    model_use = ModelUse(model="a", image_size=8, weights=("none",), steps=())
    for use in (use_of_file(tmp_path), model_use):
        assert use_of(use.key) == use
