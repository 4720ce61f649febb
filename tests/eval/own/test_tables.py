from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_sets import fingerprint, listed, problems

from eval.own.files import OUTSIDE, OwnFiles
from eval.own.task import describe_own_task

WriteTable = Callable[..., None]
CD, DC = ["cat", "dog"], ["dog", "cat"]


@pytest.fixture
def files(tmp_path: Path) -> OwnFiles:
    """Returns a task of the tables in a directory."""
    return OwnFiles(layout="tables", place=str(tmp_path))


def labels(files: OwnFiles) -> dict[str, list[str]]:
    """Returns the names of the labels by split."""
    listing = listed(files)
    return {
        split: [listing.classes[number] for number in numbers]
        for split, numbers in listing.labels.items()
    }


def test_integer_labels_go_by_the_names_in_each_file(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Files may number the classes differently; the first training file has the order."""
    write_table("train-0.parquet", [0, 0, 1], names=DC)
    write_table("train-1.parquet", [0, 1, 1], names=CD)
    write_table("train-2.parquet", [0, 0], names=DC)
    write_table("test.parquet", [0, 1], names=CD)
    assert labels(files) == {
        "train": ["dog", "dog", "cat", "cat", "dog", "dog", "dog", "dog"],
        "test": CD,
    }
    listing = listed(files)
    assert listing.classes == ("dog", "cat")
    assert "train-1.parquet numbers the classes in another order than" in listing.remarks[0]


def test_names_in_rows_and_names_of_integers_mix(files: OwnFiles, write_table: WriteTable) -> None:
    """Strings and dictionaries agree with the names of integers in other files."""
    write_table("train-0.parquet", ["cat", "dog", "cat"])
    write_table("train-1.parquet", [0, 1, 1], names=DC)
    write_table("test.parquet", pa.array(["dog", "cat"]).dictionary_encode())
    assert labels(files) == {"train": ["cat", "dog", "cat", "dog", "cat", "cat"], "test": DC}


def test_given_classes_set_the_order_and_names_decide(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Names in files go by name; other names in the study file rename the classes in order."""
    write_table("train.parquet", [0, 0, 1], names=DC)
    write_table("test.parquet", [0, 1], names=CD)
    assert labels(replace(files, classes=("cat", "dog")))["train"] == ["dog", "dog", "cat"]
    write_table("test.parquet", [0, 1], names=DC)
    assert labels(replace(files, classes=("hound", "kitten")))["train"] == [
        "hound",
        "hound",
        "kitten",
    ]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (([0, 1], CD), ([0, 1], ["cat", "fox"]), ["train.parquet has no class fox, which"]),
        (([0, 1], CD), ([0, 1], [*CD, "fox"]), ["train.parquet has no class fox, which"]),
        (([0, 1], CD), ([0, 1], None), ["test.parquet: its labels are integers without names"]),
        ((CD, None), ([0, 1], None), ["the rows of the training split have names"]),
        (([0, 1], None), ([0, 1], CD), ["train.parquet: its labels are integers without names"]),
        (([0, 1], CD), (["cat", "fox"], None), ["test.parquet: its labels 'fox' are not among"]),
        (([0, 1], ["a", "a"]), ([0, 1], ["a", "a"]), ["it names two classes 'a'"]),
        (([0, 2], CD), ([0, -1], CD), ["labels from 0 to 2, but 2", "-1 marks images without"]),
        (
            (["cat", ""], None),
            (["cat", None], None),
            ["an empty 'label' in 1 row", "no 'label' in 1 row"],
        ),
        (
            ([0.5, 1.0], None),
            (pa.array([2**63], pa.uint64()), None),
            ["labels are integers or", "not in range"],
        ),
    ],
)
def test_contradictions_are_refused_with_both_places(
    first: tuple[object, list[str] | None],
    second: tuple[object, list[str] | None],
    told: list[str],
    files: OwnFiles,
    write_table: WriteTable,
) -> None:
    """Nothing is guessed, and the problems of all files are told at once."""
    write_table("train.parquet", first[0], names=first[1])
    write_table("test.parquet", second[0], names=second[1])
    found = problems(files)
    assert all(each in found for each in told)
    assert ".parquet" in found


def test_given_classes_that_contradict_files_are_refused(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """A name at another number is a contradiction and no new name."""
    write_table("train.parquet", [0, 1], names=CD)
    write_table("test.parquet", [0, 1], names=CD)
    found = problems(replace(files, classes=("dog", "fox")))
    assert "train.parquet has no class fox, which `classes` of the study file has" in found
    assert "`classes` of the study file has no class cat, which" in found


@pytest.mark.parametrize(
    "empty", [pa.array([], pa.int64()), pa.nulls(0), pa.array([], pa.string())]
)
def test_split_without_rows_is_told(
    files: OwnFiles, write_table: WriteTable, empty: pa.Array
) -> None:
    """The sentence is the same for every type of labels."""
    write_table("train.parquet", CD)
    write_table("test.parquet", empty)
    assert problems(files) == "no image in its test split"
    write_table("train.parquet", empty)
    assert problems(files).startswith("no image in its train split")


def test_file_without_rows_among_others_is_harmless(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Writers leave such files when they divide a small table."""
    write_table("train-0.parquet", CD)
    write_table("train-1.parquet", pa.array([], pa.int64()))
    write_table("test.parquet", CD)
    assert listed(files).class_counts("train") == (1, 1)


def test_two_kinds_of_files_for_a_split_are_refused(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Neither kind wins silently; `ignore` chooses."""
    for name in ("train-0.parquet", "train-1.arrow", "test.parquet"):
        write_table(name, CD)
    assert "has both Parquet and Arrow files, train-0.parquet, train-1.arrow" in problems(files)
    assert listed(replace(files, ignore=("*.arrow",))).class_counts("train") == (1, 1)


def test_folder_named_like_a_split_does_not_take_the_other_split(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """The directory's own name says nothing; a file that both splits would have is refused."""
    write_table("train/train.parquet", CD)
    write_table("train/test.parquet", DC)
    inside = replace(files, place=f"{files.place}/train")
    assert labels(inside) == {"train": CD, "test": DC}
    assert "train/test.parquet in" in problems(files)
    assert "would belong to both splits" in problems(files)


def test_unused_files_are_counted(files: OwnFiles, write_table: WriteTable) -> None:
    """Tables of other splits, caches and other files are named, and missing shards remarked."""
    names = ("train-00000-of-00003.parquet", "test.parquet", "validation.parquet", "cache-1.arrow")
    for name in (*names, "extra.parquet", ".cache/train.parquet"):
        write_table(name, CD)
    (Path(files.place) / "README.md").write_text("x")
    listing = listed(files)
    assert [str(each) for each in listing.left_out[OUTSIDE]] == [
        "tables of no split: 2 (extra.parquet, validation.parquet)",
        "cache files of the `datasets` library: 1 (cache-1.arrow)",
        "files that are no tables: 1 (README.md)",
        "hidden files and files of file managers: 1 (.cache/)",
    ]
    assert "`test: validation` would use them" in listing.remarks[0]
    assert "train-00001-of-00003, train-00002-of-00003" in listing.remarks[1]


def test_linked_folders_and_capital_suffixes_are_read(
    files: OwnFiles, write_table: WriteTable, tmp_path: Path
) -> None:
    """A linked split counts, as do files that end in `.PARQUET`; broken links are refused."""
    write_table("far/part.PARQUET", CD)
    write_table("set/test.parquet", CD)
    (tmp_path / "set" / "train").symlink_to(tmp_path / "far")
    inside = replace(files, place=str(tmp_path / "set"))
    assert listed(inside).class_counts("train") == (1, 1)
    (tmp_path / "set" / "README.md").symlink_to("nowhere")
    assert listed(inside).class_counts("train") == (1, 1)
    (tmp_path / "set" / "train-1.parquet").symlink_to("nowhere")
    assert "train-1.parquet is a link to nowhere, which cannot be opened" in problems(inside)


def test_test_split_of_tables_can_be_chosen(files: OwnFiles, write_table: WriteTable) -> None:
    """The hub marks images without a label by -1."""
    write_table("train.parquet", [0, 1], names=CD)
    write_table("test.parquet", [-1, -1], names=CD)
    write_table("validation.parquet", [0, 1], names=CD)
    found = problems(files)
    assert "-1 marks images without a label" in found
    assert "`test: validation` would use them instead" in found
    assert listed(replace(files, test="validation")).labels["test"] == [0, 1]


def test_fields_that_choose_files_enter_the_fingerprint_of_the_hub_alone(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Files are hashed where they count; the hub's are known by name, so the choice counts."""
    for name in ("train.parquet", "validation.parquet", "spare.parquet"):
        write_table(name, CD)
        write_table(f"me--pets/{name}", CD)
    root, hub = Path(files.place), replace(files, layout="hub", place="me/pets", revision="0" * 40)
    assert fingerprint(replace(files, place=str(root / "me--pets"))) == fingerprint(
        replace(files, place=str(root / "me--pets"), test="validation", ignore=("spare*",))
    )
    prints = {
        describe_own_task("pets", files=each, root=root).fingerprint
        for each in (hub, replace(hub, test="validation"), replace(hub, ignore=("spare*",)))
    }
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([0, 1], None),
        ([None, "cat"], "the class names of 'label' in its metadata are [None, 'cat'], where"),
        ([["cat"], ["dog"]], "in its metadata are [['cat'], ['dog']], where a list of texts"),
        ("ab", "in its metadata are ab, where a list of texts is expected"),
        ({"0": "cat", "1": "dog"}, "where a list of texts is expected"),
    ],
)
def test_class_names_in_metadata_are_a_list_of_texts(
    names: object, told: str | None, files: OwnFiles, write_table: WriteTable
) -> None:
    """Numbers are names, as in `datasets`; a text's letters and a mapping's keys are not."""
    for split in ("train", "test"):
        write_table(f"{split}.parquet", [0, 1], names=names)
    if told is None:
        assert listed(files).classes == ("0", "1")
    else:
        assert problems(files).count(told) == 2


def test_null_among_the_values_of_a_dictionary_is_no_label(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """The rows themselves have no null then."""
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), pa.array(["cat", None]))
    for split in ("train", "test"):
        write_table(f"{split}.arrow", column)
    assert problems(files).count("no 'label' in 2 rows") == 2


@pytest.mark.parametrize("name", ["image", "label"])
def test_two_columns_of_one_name_are_refused(name: str, files: OwnFiles, tmp_path: Path) -> None:
    """It is not known which of them counts."""
    cells = {"image": pa.array([b"x"]), "label": pa.array(["cat"])}
    names = [*cells, name]
    table = pa.Table.from_arrays([cells[each] for each in names], names=names)
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    told = f"train.parquet: 2 of its columns are called '{name}'; rename all but one"
    assert told in problems(files)


def test_columns_of_a_file_without_rows_have_any_type(
    files: OwnFiles, write_table: WriteTable, tmp_path: Path
) -> None:
    """Pandas gives such columns the type null or double."""
    write_table("train.parquet", CD)
    write_table("test-0.parquet", CD)
    empty = {"image": pa.array([], pa.null()), "label": pa.array([], pa.float64())}
    pq.write_table(pa.table(empty), tmp_path / "test-1.parquet")
    assert listed(files).class_counts("test") == (1, 1)
    full = {"image": pa.array([None], pa.null()), "label": pa.array([0.0])}
    pq.write_table(pa.table(full), tmp_path / "test-1.parquet")
    assert "column 'image' is null" in problems(files)


@pytest.mark.parametrize(
    ("names", "competing"),
    [
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], 3),
        (["train", "train-00000-of-00001"], 2),
        ([f"train-00000-of-00001-{digit * 16}" for digit in "ab"], 2),
        ([f"train-0000{number}-of-00002-{str(number) * 16}" for number in (0, 1)], 0),
        (["train-a", "train-b"], 0),
        (["train-a-00000-of-00001", "train-b-00000-of-00002", "train-b-00001-of-00002"], 0),
    ],
)
def test_several_versions_of_a_split_are_remarked(
    names: list[str], competing: int, files: OwnFiles, write_table: WriteTable
) -> None:
    """A second download beside the first one would double the images."""
    for name in (*names, "test"):
        write_table(f"{name}.parquet", CD)
    listing = listed(files)
    assert listing.class_counts("train") == (len(names), len(names))
    told = [each for each in listing.remarks if "look like several versions" in each]
    assert len(told) == bool(competing)
    assert all(f"{name}.parquet" in each for each in told for name in names)


def test_missing_shards_are_remarked_where_names_end_with_a_digest(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Older data sets of the hub have such names."""
    for name in (f"train-00000-of-00002-{'0f' * 8}", "test"):
        write_table(f"{name}.parquet", CD)
    (remark,) = listed(files).remarks
    assert "has no file train-00001-of-00002" in remark


def test_label_that_looks_like_a_class_is_named_with_it(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """Unicode spells one letter in two ways, and terminals show no difference."""
    write_table("train.parquet", ["caf\u00e9", "bar"])
    write_table("test.parquet", ["cafe\u0301", "bar"])
    assert r"; 'cafe\u0301' looks like 'caf\xe9'" in problems(files)


def test_pattern_that_leaves_out_no_table_is_remarked(
    files: OwnFiles, write_table: WriteTable
) -> None:
    """The user believes that the file is left out."""
    for name in ("train", "train-old", "test"):
        write_table(f"{name}.parquet", CD)
    assert not listed(replace(files, ignore=("train-old.*",))).remarks
    (remark,) = listed(replace(files, ignore=("train-OLD.*", "*old.parquet"))).remarks
    assert "matches 'train-OLD.*' under `ignore`" in remark
    assert "slash" not in remark


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_one_file_in_both_splits_is_refused(
    link: Callable[[Path, Path], None], files: OwnFiles, write_table: WriteTable, tmp_path: Path
) -> None:
    """Every test image would be one that is trained on, as for one folder in both splits."""
    write_table("train-0.parquet", CD)
    write_table("train-1.parquet", CD)
    link(tmp_path / "test.parquet", tmp_path / "train-1.parquet")
    assert "train-1.parquet and test.parquet in" in problems(files)
    assert "are the same file, through a link" in problems(files)
