import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from workers.models.tensor_files import TensorFile, write_tensors
from workers.models.tensor_header import TensorFileError, layout

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.float8_e8m0fnu, torch.bool, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
)
TENSORS = {"a.x": torch.arange(3.0), "a.y": torch.tensor(7), "b.x": torch.ones(2, 2)}


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    """With several metadata entries, every second file had other bytes."""
    digests = set()
    for number in range(20):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, TENSORS, about={"task": "mnist", "id": "0", "model": "m"})
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_files_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    """Every type, shape and name gives the same bytes, so digests of stored files stay."""
    numbers = torch.arange(24.0)
    tensors = {f"{dtype}é\n": numbers.to(dtype, copy=True) for dtype in DTYPES}
    tensors |= {"b": torch.ones(2, 3, 4), "a": torch.tensor(1), "empty": torch.zeros(0, 3)}
    write_tensors(tmp_path / "ours", tensors, about={"task": 'ü"\\', "id": "\x01/"})
    with safe_open(tmp_path / "ours", framework="pt") as file:
        save_file(tensors, tmp_path / "theirs", metadata=file.metadata())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_file_may_be_larger_than_the_memory(tmp_path: Path) -> None:
    """Mapping a sparse file of 4 TB reserves none of it."""
    header, beginning = layout({"w": ("F32", (1 << 40,))}, metadata={})
    with (tmp_path / "x").open("wb") as file:
        file.write(beginning)
        try:
            file.truncate(header.num_bytes)
        except OSError:
            pytest.skip("this file system has no files of 4 TB")
    assert TensorFile(tmp_path / "x")["w"][-1] == 0


def test_numbers_of_less_than_a_byte_are_refused(tmp_path: Path) -> None:
    """Torch packs two of them into one entry, which no method could merge."""
    header, beginning = layout({"w": ("F4", (4,))}, metadata={})
    (tmp_path / "x").write_bytes(beginning + bytes(header.num_bytes - len(beginning)))
    with pytest.raises(TensorFileError, match=r"'w' as F4, quantised .* convert the model"):
        TensorFile(tmp_path / "x")


def test_memory_layout_does_not_reach_the_file(tmp_path: Path) -> None:
    """Channels-last tensors give the same bytes as contiguous ones."""
    weights = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    for name, order in [("a", torch.contiguous_format), ("b", torch.channels_last)]:
        write_tensors(tmp_path / name, {"w": weights.contiguous(memory_format=order)}, about={})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_metadata_describes_the_tensors(tmp_path: Path) -> None:
    """A file that is found alone identifies its artifact."""
    write_tensors(tmp_path / "x", TENSORS, about={"task": "mnist", "id": "0"})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert json.loads(file.metadata()["mergesweep"]) == {"task": "mnist", "id": "0"}


def test_prefix_selects_tensors_and_is_stripped(tmp_path: Path) -> None:
    """Tensors with other prefixes are not in the mapping."""
    write_tensors(tmp_path / "x", TENSORS, about={})
    below_a = TensorFile(tmp_path / "x", prefix="a.")
    assert set(below_a) == {"x", "y"}
    assert len(below_a) == 2
    assert "b.x" not in below_a
    assert below_a["x"].tolist() == [0.0, 1.0, 2.0]
    assert below_a["y"].dtype == torch.int64
    assert set(TensorFile(tmp_path / "x")) == set(TENSORS)


def test_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    """An unknown name raises `KeyError`, as in any mapping."""
    write_tensors(tmp_path / "x", TENSORS, about={})
    with pytest.raises(KeyError, match=r"b\.x"):
        TensorFile(tmp_path / "x", prefix="a.")["b.x"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_equal_those_that_safetensors_reads(dtype: torch.dtype, tmp_path: Path) -> None:
    """All dtypes and shapes are read, also at odd offsets after a tensor of bools."""
    written = {
        "odd": torch.ones(3, dtype=torch.bool),
        "matrix": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 4).to(dtype),
    }
    save_file(written, tmp_path / "x")
    found = TensorFile(tmp_path / "x")
    expected = load_file(tmp_path / "x")
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].tolist() == tensor.tolist()
    assert set(found) == set(expected)


def test_tensors_at_odd_offsets_are_read(tmp_path: Path) -> None:
    """The format does not require aligned offsets."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}
    flag = {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}
    header = json.dumps({"flag": flag, "w": entry}).encode()
    values = torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\x01" + values)
    assert TensorFile(tmp_path / "x")["w"].tolist() == [1.5, -2.0]


def test_writing_into_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    """A write to a tensor changes a private copy only."""
    write_tensors(tmp_path / "x", TENSORS, about={})
    before = (tmp_path / "x").read_bytes()
    TensorFile(tmp_path / "x")["a.x"].fill_(9)
    assert (tmp_path / "x").read_bytes() == before
