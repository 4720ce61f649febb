import argparse
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from workers.models.pretrained_weights import WeightsError
from workers.models.weights_files import read_weights

STATE = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin", "weights"])
def test_content_decides_how_a_file_is_read(tmp_path: Path, name: str) -> None:
    """A safetensors file may have the name of a torch file, and the other way round."""
    for save, keeps_order in ((torch.save, True), (save_file, False)):
        save(STATE, tmp_path / name)
        found = read_weights(tmp_path / name)
        assert found.keeps_order == keeps_order
        assert sorted(found.tensors) == ["conv.bias", "conv.weight"]
        assert torch.equal(found.tensors["conv.weight"], STATE["conv.weight"])


def test_old_format_of_torch_is_read(tmp_path: Path) -> None:
    """Torch before 1.6 wrote no ZIP archives."""
    torch.save(STATE, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert list(read_weights(tmp_path / "x.pth").tensors) == list(STATE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has only 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>Log in</html>", "web page"),
        (b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002"}}', "index of a model"),
        (b'{"error": "not found"}', "JSON file"),
        (b"PK\x03\x04cut short", "is incomplete or damaged"),
        (b"\x80\x02cut short", "pickle that torch.save did not write"),
        (b"no checkpoint", "begins with 'no checkpoint'"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_other_files_are_refused_with_what_they_are(
    tmp_path: Path, content: bytes, said: str, name: str
) -> None:
    """The message is one line with the file and a remedy, whatever the name ends in."""
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert said in message
    assert "\n" not in message


def test_cut_files_are_refused(tmp_path: Path) -> None:
    """A file may end anywhere after a copy that was interrupted."""
    for path, save in ((tmp_path / "x.pth", torch.save), (tmp_path / "x.safetensors", save_file)):
        save(STATE, path)
        content = path.read_bytes()
        for size in (*range(1, len(content), 97), len(content) - 1):
            path.write_bytes(content[:size])
            assert str(path) in refusal(path)


def test_archives_of_other_programs_are_refused(tmp_path: Path) -> None:
    """TorchScript is loaded by running it, so the message says how to save its weights."""
    torch.save(STATE, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    assert "torch.jit.load" in refusal(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("weights.txt", "1 2 3")
    assert "ZIP archive of other files" in refusal(tmp_path / "x.bin")


class Exploding:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    """Objects are named and refused, in torch's format and in a plain pickle."""
    torch.save({"x": Exploding(tmp_path / "trace")}, tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps({"x": Exploding(tmp_path / "trace")}))
    assert "Python objects" in refusal(tmp_path / "x.pth")
    assert "weights alone" in refusal(tmp_path / "y.pth")
    assert not (tmp_path / "trace").exists()


def test_whole_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """Many files hold `torch.save(model)`."""
    torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict(), 'weights.pth')" in message


def test_only_set_of_weights_is_found_in_a_training_checkpoint(tmp_path: Path) -> None:
    """Timm's scripts save weights beside the optimizer, the epoch and the options."""
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters())
    saved = {
        "epoch": 3,
        "best": torch.tensor(76.0),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(model="resnet18"),
    }
    for key in ("state_dict", "model"):
        torch.save({**saved, key: STATE}, tmp_path / "x.pth")
        found = read_weights(tmp_path / "x.pth")
        assert (found.wrapper, found.beside, list(found.tensors)) == (key, ("best",), list(STATE))
    torch.save({**saved, "net": {"inner": STATE}}, tmp_path / "x.pth")
    assert read_weights(tmp_path / "x.pth").wrapper == "net.inner"


def test_two_sets_of_weights_are_refused(tmp_path: Path) -> None:
    """Nothing says whether the user means the weights or their average."""
    torch.save({"state_dict": STATE, "state_dict_ema": STATE}, tmp_path / "x.pth")
    assert "(state_dict, state_dict_ema)" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (torch.ones(3), "a value of type Tensor"),
        ([torch.ones(3)], "a value of type list"),
        ({}, "holds no tensors by name, but nothing"),
        ({"epoch": 3}, "holds no tensors by name, but 'epoch'"),
    ],
)
def test_values_that_are_no_weights_are_refused(tmp_path: Path, saved: object, said: str) -> None:
    """The message says what the file holds."""
    torch.save(saved, tmp_path / "x.pth")
    assert said in refusal(tmp_path / "x.pth")
    save_file({}, tmp_path / "x.safetensors")
    assert "holds no tensors" in refusal(tmp_path / "x.safetensors")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    """A file may vanish between the plan and the preparation."""
    assert "does not exist" in refusal(tmp_path / "x.pth")
    assert "is a folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.ones(2, 3).to_sparse(), "holds a sparse or nested tensor as conv.weight"),
        (torch.ones(2, 3).to("meta"), "holds no numbers (meta) as conv.weight"),
    ],
)
def test_tensors_without_plain_numbers_are_refused(
    tmp_path: Path, tensor: torch.Tensor, said: str
) -> None:
    """Models that were built on the meta device save so, and nothing computes with either."""
    torch.save({**STATE, "conv.weight": tensor}, tmp_path / "x.pth")
    assert said in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({}, "its weight_map names no file"),
        ({"a": "x.index.json"}, "names another index in place of a file: 'x.index.json'"),
    ],
)
def test_index_without_files_is_refused(
    tmp_path: Path, weight_map: dict[str, str], said: str
) -> None:
    """An index that names itself would be read without end."""
    path = tmp_path / "x.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    assert said in refusal(path)
