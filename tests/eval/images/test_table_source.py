import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eval.images import table_source
from eval.images.protocol import ImageSourceError
from eval.images.table_files import find_shards, walk_tables
from eval.images.table_source import TableSource, check_image_column, read_labels

Write = Callable[[pa.Table, Path], None]


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 3), value).save(stream, "png")
    return stream.getvalue()


def rows(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    return pa.table({"image": [png(n) for n in numbers], "label": [n % 2 for n in numbers]})


def as_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path.with_suffix(".parquet"), row_group_size=3)


def as_arrow(table: pa.Table, path: Path) -> None:
    target = str(path.with_suffix(".arrow"))
    with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def as_stream(table: pa.Table, path: Path) -> None:
    target = str(path.with_suffix(".arrow"))
    with pa.OSFile(target, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("write", [as_parquet, as_arrow, as_stream])
@pytest.mark.parametrize("cached_bytes", [0, 2**30])
def test_rows_come_in_the_order_of_the_shards(
    write: Write, cached_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images match their rows in any order, on several threads, and with a cache of any size."""
    monkeypatch.setattr(table_source, "CACHED_BYTES", cached_bytes)
    write(rows(0, 7), tmp_path / "train-0")
    write(rows(7, 12), tmp_path / "train-1")
    shards = find_shards(walk_tables(tmp_path), split="train")
    labels = read_labels(shards, column="label").values
    assert labels.tolist() == [n % 2 for n in range(12)]
    source = TableSource(shards, column="image", labels=labels, channels=1)
    asked = np.random.default_rng(0).permutation(12).tolist() * 3
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(source.image, asked))
    assert [int(image[0, 0, 0]) for image in found] == asked
    assert found[0].shape == (3, 4, 1)


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "train-00000-of-00002",
        "train_a",
        "train.b",
        "train/0000",
        "data/train-0",
        "train/x",
    ],
)
def test_shards_are_found_as_people_and_the_hub_name_them(name: str, tmp_path: Path) -> None:
    """Folders count too; other splits and a downloader's own files are ignored."""
    for each in (name, "training", "test", ".cache/train", "train_sets/y"):
        path = tmp_path / f"{each}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(0, 1), path)
    assert find_shards(walk_tables(tmp_path), split="train") == [tmp_path / f"{name}.parquet"]


def test_two_configurations_of_a_data_set_are_not_mixed(tmp_path: Path) -> None:
    """SVHN has its images twice, cropped and whole."""
    for name in ("cropped_digits", "full_numbers"):
        (tmp_path / name).mkdir()
        as_parquet(rows(0, 1), tmp_path / name / "train-0")
    with pytest.raises(ImageSourceError, match="cropped_digits, full_numbers: give one of these"):
        find_shards(walk_tables(tmp_path), split="train")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 0, 2], pa.int32()), [1, 0, 2]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array(["b", "a", "b"]), ["b", "a", "b"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["b", "a", "b"]),
    ],
)
def test_labels_are_integers_booleans_or_strings(
    column: Any,  # noqa: ANN401 pyarrow is untyped
    expected: list[Any],
    tmp_path: Path,
) -> None:
    """Labels may have any integer width, be booleans, strings or dictionary-encoded."""
    as_parquet(pa.table({"label": column}), tmp_path / "train")
    shards = find_shards(walk_tables(tmp_path), split="train")
    assert read_labels(shards, column="label").values.tolist() == expected


def test_class_names_stand_beside_the_schema(tmp_path: Path) -> None:
    """Names are read from the metadata that Hugging Face's `datasets` writes."""
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    as_parquet(rows(0, 4).replace_schema_metadata(metadata), tmp_path / "train")
    shards = find_shards(walk_tables(tmp_path), split="train")
    assert read_labels(shards, column="label").names == ("cat", "dog")


def test_wrong_columns_are_reported_with_the_existing_ones(tmp_path: Path) -> None:
    """A missing column, numbers for images, nulls and labels of a wrong type are reported."""
    path = tmp_path / "train"
    as_parquet(pa.table({"image": [1, 2], "label": [0, None], "score": [0.1, 0.2]}), path)
    shards = find_shards(walk_tables(tmp_path), split="train")
    with pytest.raises(ImageSourceError, match="no column 'img'; its columns are image, label"):
        check_image_column(shards, column="img")
    with pytest.raises(ImageSourceError, match="'image' is int64, where encoded images"):
        check_image_column(shards, column="image")
    with pytest.raises(ImageSourceError, match=r"no 'label' in 1 row$"):
        read_labels(shards, column="label")
    with pytest.raises(ImageSourceError, match="'score' is double; labels are integers or"):
        read_labels(shards, column="score")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_torn_file_is_named(suffix: str, tmp_path: Path) -> None:
    """An incomplete download raises an error with the file's name."""
    (tmp_path / f"train{suffix}").write_bytes(b"PAR1 and no more")
    with pytest.raises(ImageSourceError, match=rf"train\{suffix}: not a whole"):
        read_labels([tmp_path / f"train{suffix}"], column="label")


def test_cell_without_bytes_is_named(tmp_path: Path) -> None:
    """Some data sets of the hub have paths of files that do not exist."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = pa.array([{"bytes": None, "path": "a.png"}], kind)
    as_parquet(pa.table({"image": cells, "label": [0]}), tmp_path / "train")
    shards = find_shards(walk_tables(tmp_path), split="train")
    source = TableSource(shards, column="image", labels=np.zeros(1, dtype=np.int64), channels=3)
    with pytest.raises(ImageSourceError, match="row 0 of 'image' holds no bytes"):
        source.image(0)
