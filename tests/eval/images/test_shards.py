from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval.images.shards import (
    SHARD_BYTES,
    SplitFormatError,
    images_per_shard,
    open_shard,
    open_split,
    shard_name,
    shard_names,
    write_shard,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(7, dtype=np.int64)[::-1].copy()


def write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("channels", [1, 3])
def test_split_comes_back_as_written(tmp_path: Path, channels: int) -> None:
    """Pixels, labels, shapes and dtypes survive the file."""
    images = IMAGES[..., :channels]
    write_shard(tmp_path / "x.arrow", images, LABELS)
    split = open_split([tmp_path / "x.arrow"])
    assert len(split) == 7
    assert split.images.dtype == np.uint8
    assert split.labels.dtype == np.int64
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, LABELS)


def test_shards_are_one_split(tmp_path: Path) -> None:
    """Images have the order of the files, and only labels are copied."""
    paths = [tmp_path / shard_name("train", number) for number in range(3)]
    for path, (start, stop) in zip(paths, [(0, 3), (3, 6), (6, 7)], strict=True):
        write_shard(path, IMAGES[start:stop], LABELS[start:stop])
    before = pa.total_allocated_bytes()
    split = open_split(paths)
    assert pa.total_allocated_bytes() - before < 10_000
    np.testing.assert_array_equal(split.images, IMAGES)
    np.testing.assert_array_equal(split.labels, LABELS)
    assert not split.rows(3, 6).images.flags.owndata


def test_shards_of_other_shapes_are_refused(tmp_path: Path) -> None:
    """Files of two artifacts do not make a split."""
    write_shard(tmp_path / "a.arrow", IMAGES, LABELS)
    write_shard(tmp_path / "b.arrow", IMAGES[..., :1], LABELS)
    with pytest.raises(SplitFormatError, match=r"2 shards .* have images of shapes"):
        open_split([tmp_path / "a.arrow", tmp_path / "b.arrow"])


def test_no_shards_are_no_split() -> None:
    """Files of another version of artifacts have other names and are not found."""
    with pytest.raises(SplitFormatError, match="0 shards"):
        open_split([])


def test_metadata_of_the_writer_come_back(tmp_path: Path) -> None:
    """The writer's metadata are read back without the geometry of the images."""
    write_shard(tmp_path / "x.arrow", IMAGES, LABELS, about={"data": "0123", "shard": "7"})
    assert open_shard(tmp_path / "x.arrow").about == {"data": "0123", "shard": "7"}


def test_shards_of_a_split_are_found_by_name_in_their_order() -> None:
    """Shards of the other split and other files are ignored."""
    names = [shard_name("test", 0), *(shard_name("train", number) for number in (10, 2, 0))]
    assert shard_names([*names, "train.arrow"], split="train") == [
        "train-00000.arrow",
        "train-00002.arrow",
        "train-00010.arrow",
    ]


@pytest.mark.parametrize(
    ("image_size", "channels", "expected"), [(224, 3, 1783), (32, 3, 87381), (10_000, 3, 1)]
)
def test_shard_holds_256_megabytes(image_size: int, channels: int, expected: int) -> None:
    """The files of an artifact depend on this number."""
    assert SHARD_BYTES == 2**28
    assert images_per_shard(image_size=image_size, channels=channels) == expected


def test_equal_arrays_give_equal_files(tmp_path: Path) -> None:
    """Two nodes write the same bytes for one split, whatever the strides of the arrays."""
    write_shard(tmp_path / "a.arrow", IMAGES, LABELS)
    write_shard(tmp_path / "b.arrow", np.asfortranarray(IMAGES), LABELS.copy())
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_opened_split_is_a_view_of_the_file(tmp_path: Path) -> None:
    """Opening maps the file: no image is copied, and no array can be written to."""
    write_shard(tmp_path / "x.arrow", np.zeros((1000, 64, 64, 3), np.uint8), np.zeros(1000, int))
    before = pa.total_allocated_bytes()
    split = open_split([tmp_path / "x.arrow"])
    assert pa.total_allocated_bytes() - before < 10_000
    assert not split.images.flags.owndata
    assert not split.images.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 1


def test_split_outlives_its_reader(tmp_path: Path) -> None:
    """The arrays keep the mapping alive after the file was deleted."""
    write_shard(tmp_path / "x.arrow", IMAGES, LABELS)
    images = open_split([tmp_path / "x.arrow"]).images
    (tmp_path / "x.arrow").unlink()
    np.testing.assert_array_equal(images, IMAGES)


@pytest.mark.parametrize("keep", [0, 5, 200, -20])
def test_torn_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    """An incomplete file raises an error with its name, and never gives a shorter split."""
    path = tmp_path / "torn.arrow"
    write_shard(path, IMAGES, LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SplitFormatError, match=r"torn\.arrow: not a whole Arrow file"):
        open_split([path])


def test_other_content_is_refused(tmp_path: Path) -> None:
    """A file that is not Arrow raises the same error."""
    (tmp_path / "x.arrow").write_text("not arrow at all, but long enough to be read as if it were")
    with pytest.raises(SplitFormatError, match="not a whole Arrow file"):
        open_split([tmp_path / "x.arrow"])


def test_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    """A missing file is not reported as a damaged one."""
    with pytest.raises(FileNotFoundError):
        open_split([tmp_path / "none.arrow"])


def test_arrow_file_without_geometry_is_refused(tmp_path: Path) -> None:
    """An Arrow file without the metadata of a shard is no shard."""
    write_table(tmp_path / "x.arrow", pa.table({"label": LABELS}))
    with pytest.raises(SplitFormatError, match="no valid height/width/channels"):
        open_split([tmp_path / "x.arrow"])


def test_columns_that_contradict_the_geometry_are_refused(tmp_path: Path) -> None:
    """Images of another size than the metadata's are not reshaped."""
    images = pa.array([b"123"] * 7, pa.binary(3))
    geometry = {"height": "2", "width": "2", "channels": "1"}
    table = pa.table({"image": images, "label": LABELS}).replace_schema_metadata(geometry)
    write_table(tmp_path / "x.arrow", table)
    with pytest.raises(SplitFormatError, match="its metadata promises"):
        open_split([tmp_path / "x.arrow"])


def test_file_of_two_batches_is_refused(tmp_path: Path) -> None:
    """A shard has one record batch; a second one would be ignored silently."""
    schema = pa.schema({"label": pa.int64()})
    batch = pa.record_batch([pa.array(LABELS)], schema=schema)
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    with pytest.raises(SplitFormatError, match="2 record batches"):
        open_split([path])


def test_nulls_are_refused(tmp_path: Path) -> None:
    """A missing label is not read as an arbitrary number."""
    images = pa.array([b"1"] * 2, pa.binary(1))
    geometry = {"height": "1", "width": "1", "channels": "1"}
    table = pa.table({"image": images, "label": pa.array([1, None], pa.int64())})
    write_table(tmp_path / "x.arrow", table.replace_schema_metadata(geometry))
    with pytest.raises(SplitFormatError, match="column label has nulls"):
        open_split([tmp_path / "x.arrow"])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.float32), LABELS, "images must be uint8"),
        (IMAGES[..., 0], LABELS, "images must be uint8"),
        (IMAGES[:0], LABELS[:0], "not empty"),
        (IMAGES, LABELS[:3], r"labels must be int64 \(7,\)"),
        (IMAGES, LABELS.astype(np.int32), "labels must be int64"),
    ],
)
def test_wrong_arrays_are_refused_before_writing(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    """Arrays of a wrong shape or dtype leave no file behind."""
    with pytest.raises(SplitFormatError, match=message):
        write_shard(tmp_path / "x.arrow", images, labels)
    assert not (tmp_path / "x.arrow").exists()
