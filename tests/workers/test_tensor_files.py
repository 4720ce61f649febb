import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from workers.tensor_files import TensorFile, write_tensors

TENSORS = {"a.x": torch.arange(3.0), "a.y": torch.tensor(7), "b.x": torch.ones(2, 2)}


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    """With several metadata entries one file in two came out different."""
    digests = set()
    for number in range(20):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, TENSORS, about={"task": "mnist", "id": "0", "model": "m"})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_memory_layout_does_not_reach_the_file(tmp_path: Path) -> None:
    """Channels-last weights of a device are written as any others."""
    weights = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    for name, layout in [("a", torch.contiguous_format), ("b", torch.channels_last)]:
        write_tensors(tmp_path / name, {"w": weights.contiguous(memory_format=layout)}, about={})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_metadata_says_what_the_tensors_are(tmp_path: Path) -> None:
    """Whoever finds the file alone learns which artifact it was."""
    write_tensors(tmp_path / "x", TENSORS, about={"task": "mnist", "id": "0"})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert json.loads(file.metadata()["mergesweep"]) == {"task": "mnist", "id": "0"}


def test_prefix_selects_tensors_and_is_stripped(tmp_path: Path) -> None:
    """What lies under another prefix is not there at all."""
    write_tensors(tmp_path / "x", TENSORS, about={})
    below_a = TensorFile(tmp_path / "x", prefix="a.")
    assert set(below_a) == {"x", "y"}
    assert len(below_a) == 2
    assert "b.x" not in below_a
    assert below_a["x"].tolist() == [0.0, 1.0, 2.0]
    assert below_a["y"].dtype == torch.int64
    assert set(TensorFile(tmp_path / "x")) == set(TENSORS)


def test_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    """As in any mapping, so that `get` and `in` work."""
    write_tensors(tmp_path / "x", TENSORS, about={})
    with pytest.raises(KeyError, match=r"b\.x"):
        TensorFile(tmp_path / "x", prefix="a.")["b.x"]
