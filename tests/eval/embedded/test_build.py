import hashlib
import itertools
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from eval.digests import sha256_of_file
from eval.embedded import sprites, vendored
from eval.embedded.build import COMPOSERS, compose_splits
from eval.embedded.glyphs import faces_by_split
from eval.embedded.index import SOURCES_DIR, embedded_labels, read_index
from eval.embedded.randomness import held_out, random_stream, split_per_class
from eval.embedded.regions import REGIONS
from eval.embedded.vendored import SourceDigestError, read_json, verified
from eval.images.decoding import resized
from eval.images.split import Split
from eval.suites import find_task

EMBEDDED = tuple(read_index()["tasks"])

# sha256 of train images, train labels, test images, test labels at 16 pixels. If one changes with a
# new Pillow, SciPy or NumPy, raise COMPOSER_VERSION in eval/embedded/index.py.
GOLDEN = {
    "mnist_5k": "04c5c9c0612473c5b8c1cfdc1bd1404f82f05099e8335445b8900a0b0189ce8c",
    "fashion_mnist_5k": "9cdba4c62cea171d6030bb25c7c9779685c3fdfb04d1784ab67ba6e553048a72",
    "font_letters": "7ebe9fa26fa99a6bfedc60bcc44975ecfc9fd9726ad6e3ddf5554e24fc90c8d1",
    "traffic_signs": "d6d6b2d5998065f4438dc7fdf7b91ce8ac01e079136a656b425e78961eeae395",
    "bluemarble_regions": "bc7156a2f85f2a18bceee3d2b1b1e5a2ebfaf23a03364277105add18739ebbe3",
    "skimage_textures": "f9af6b97e3fb2042d7ae3c7d8efc8cf4f3feccc53802291a48a311521fe3d293",
    "emoji_objects": "8e84b29595c240a794f1ef4c8f7a61df248c165182b2874233a55093f15e086b",
    "mnist_m": "b68a42064965116ee45829aeb902312e19d8876b2e731ce732c6980dc79b9eb7",
    "digits8x8": "afcb96335621763b2b499fd7eafcbd9a7f9ca12f38d0c2648e5f5e31600b894a",
    "kana": "b6d003a50cbd21b2980ee69b0cb58d78a88c80eb4fa74e5b45a1f7dcbd08d725",
    "ihc_stain": "f542bfba9cac8311e108044126ceb1776b2bfce1e72f600a837e61638459deac",
    "textile": "93f4ec88c1d03a8382867831c817b6a3ec21a468cc329c3d839f9bdc18ecd676",
    "review_words": "3fcfe003ba522888fcda758ebb0b5704b2a10f5f0b20fdf6751575e698efa33a",
    "emoji_animals": "36a585723cd760c027d18d557e8ea33bce9a79490cad68b915684cc73e7db1c8",
    "emoji_plants": "9ec6e2281ce7cbb3176243423ba96c29d627c4b9aff1039fc3aa42f35f5167e7",
    "emoji_food": "53d617cbb9e244ee275bda95793ea5ea77950b90e0ff719afa7622c3e7b6731f",
    "emoji_vehicles": "255df8e75b7961514349d0f98a15c9d1b945d6e6215a32d8429583a6c8ef4798",
    "emoji_places": "1ab33f817ff40f4ca83eea7e4a3573eb94c269bee277547e15dcb1474197dc5b",
    "emoji_faces": "6632ce6ec2ef01f40bd712a8d1ccb2c8207725f56f72ed2c93269013a8e8e61c",
    "emoji_flags": "6a0b855381417f07c5cba5ca51560390e7e91687ec301278caeb96b1218c4bdf",
}
SIZE = 16
_SAME_COMPOSER = (
    "emoji_animals",
    "emoji_plants",
    "emoji_food",
    "emoji_vehicles",
    "emoji_places",
    "emoji_faces",
    "emoji_flags",
)
"""Composed by the same code as `emoji_objects`; `make test-all` builds them."""
BUILT = tuple(
    pytest.param(name, marks=pytest.mark.large) if name in _SAME_COMPOSER else name
    for name in EMBEDDED
)
# A flaw can be anywhere, so no single pixel tells the class. test_material.py tests that images of
# cloth match their labels.
NOT_LINEAR = ("textile",)


@cache
def built(name: str) -> dict[str, Split]:
    """Composes a task, shuffles each split as a study stores it, and shrinks the images."""
    return shuffled_and_shrunk(name)


def shuffled_and_shrunk(name: str) -> dict[str, Split]:
    splits = {}
    for split, composed in compose_splits(find_task(name)).items():
        order = random_stream(name, split, "order").permutation(len(composed))
        channels = find_task(name).channels
        images = [resized(composed.image(i), image_size=SIZE, channels=channels) for i in order]
        splits[split] = Split(images=np.stack(images), labels=composed.labels[order])
    return splits


def content_digest(splits: dict[str, Split]) -> str:
    parts = [a for s in ("train", "test") for a in (splits[s].images, splits[s].labels)]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_every_task_has_a_composer() -> None:
    """The index and the table of composers have the same tasks."""
    assert tuple(COMPOSERS) == EMBEDDED


@pytest.mark.parametrize("name", BUILT)
def test_task_builds_as_the_index_says(name: str) -> None:
    """Counts, shapes and dtypes are right, and classes share each split equally."""
    task, splits = find_task(name), built(name)
    assert list(splits) == ["train", "test"]
    for split, num in (("train", task.num_train), ("test", task.num_test)):
        assert splits[split].images.shape == (num, SIZE, SIZE, task.channels)
        assert splits[split].images.dtype == np.uint8
        assert splits[split].labels.dtype == np.int64
        per_class = np.bincount(splits[split].labels, minlength=task.num_classes)
        assert per_class.tolist() == [num // task.num_classes] * task.num_classes


@pytest.mark.parametrize("name", BUILT)
def test_labels_are_known_without_composing(name: str) -> None:
    """The labels that a plan counts are those of the composed images, in their order."""
    for split, labels in embedded_labels(find_task(name)).items():
        order = random_stream(name, split, "order").permutation(len(labels))
        np.testing.assert_array_equal(labels[order], built(name)[split].labels)


@pytest.mark.parametrize("name", BUILT)
def test_task_builds_the_same_bytes_on_every_machine(name: str) -> None:
    """Pixels and labels are still those that the task's fingerprint stands for."""
    assert content_digest(built(name)) == GOLDEN[name]


@pytest.mark.parametrize("name", ["font_letters", "bluemarble_regions", "mnist_m", "ihc_stain"])
def test_second_build_equals_the_first(name: str) -> None:
    """The first build leaves no state in the process that changes the second."""
    assert content_digest(shuffled_and_shrunk(name)) == content_digest(built(name))


@pytest.mark.parametrize("name", BUILT)
def test_no_test_image_is_a_training_image(name: str) -> None:
    """No image is in both splits, even after shrinking."""
    splits = built(name)
    train = {image.tobytes() for image in splits["train"].images}
    assert sum(image.tobytes() in train for image in splits["test"].images) == 0


@pytest.mark.parametrize("name", BUILT)
def test_labels_are_shuffled(name: str) -> None:
    """A short prefix of a split has nearly every class, so a small subset is representative."""
    task = find_task(name)
    prefix = built(name)["train"].labels[: 8 * task.num_classes]
    assert len(np.unique(prefix)) >= 0.9 * task.num_classes


@pytest.mark.parametrize("name", [each for each in BUILT if each not in NOT_LINEAR])
def test_pixels_say_more_than_chance(name: str) -> None:
    """Images match their labels: a linear fit to the pixels is 1.5 times as good as chance."""
    task, splits = find_task(name), built(name)
    train, test = (splits[s].images.reshape(len(splits[s]), -1) / 255 for s in ("train", "test"))
    centre = train.mean(axis=0)
    train, test = train - centre, test - centre
    targets = np.eye(task.num_classes)[splits["train"].labels] - 1 / task.num_classes
    ridge = train.T @ train + 30 * np.eye(train.shape[1])
    guesses = (test @ np.linalg.solve(ridge, train.T @ targets)).argmax(axis=1)
    assert (guesses == splits["test"].labels).mean() > 1.5 / task.num_classes


@pytest.mark.parametrize("source", sorted(read_index()["files"]))
def test_source_matches_its_digest(source: str) -> None:
    """The installed source is the file that the fingerprints cover."""
    assert sha256_of_file(vendored.locate(source)) == read_index()["files"][source]


def test_index_lists_exactly_what_tasks_use() -> None:
    """The index, the tasks and the folder have the same sources."""
    index = read_index()
    used = {source for task in index["tasks"].values() for source in task["sources"]}
    assert used == set(index["files"])
    lying = {str(p.relative_to(SOURCES_DIR)) for p in SOURCES_DIR.rglob("*.*") if p.suffix != ".md"}
    assert lying - {"index.json"} == {source for source in used if ":" not in source}


def test_sources_stay_small() -> None:
    """The sources fit into 15 MB."""
    assert sum(path.stat().st_size for path in SOURCES_DIR.rglob("*") if path.is_file()) < 15e6


def test_changed_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source with other bytes raises an error that names the file."""
    monkeypatch.setattr(vendored, "sha256_of_file", lambda _path: "0" * 64)
    with pytest.raises(SourceDigestError, match=r"mnist_5k\.npz: sha256 is 0000"):
        verified("digits/mnist_5k.npz")


def test_building_never_uses_the_network() -> None:
    """Photographs are read from scikit-image's wheel, and its downloader is not even imported."""
    code = (
        "import sys, socket; socket.socket.connect = None;"
        "from eval.embedded.build import compose_splits;"
        "from eval.embedded.index import embedded_task;"
        "compose_splits(embedded_task('skimage_textures'));"
        "print([m for m in ('pooch', 'skimage', 'torch', 'requests') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_two_digit_tasks_share_one_split() -> None:
    """A digit in one task's training split is never in the other's test split."""
    composed = COMPOSERS["mnist_m"](find_task("mnist_m"))
    digits = COMPOSERS["mnist_5k"](find_task("mnist_5k"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(composed[split].labels, digits[split].labels)


@pytest.mark.parametrize(
    ("task_name", "source", "num_families"),
    [
        ("font_letters", "glyphs/fonts.json", (60, 17)),
        ("kana", "glyphs/kana_fonts.json", (17, 5)),
    ],
)
def test_font_families_are_in_one_split_each(
    task_name: str, source: str, num_families: tuple[int, int]
) -> None:
    """The bold and the regular font of a family are in the same split."""
    fonts = read_json(source)["fonts"]
    faces = faces_by_split(fonts, task_name=task_name)
    train, test = ({fonts[face]["family"] for face in faces[split]} for split in ("train", "test"))
    assert not train & test
    assert (len(train), len(test)) == num_families
    assert sorted(faces["train"] + faces["test"]) == list(range(len(fonts)))


def test_emoji_of_the_test_are_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every emoji is in one split, and both splits show every class."""
    pools: list[dict[str, list[int]]] = []
    monkeypatch.setattr(sprites, "compose_sheet", lambda _task, *, sheet, pools: (sheet, pools))
    sheet, pools = sprites.compose_emoji(find_task("emoji_objects"))  # type: ignore[assignment]
    dealt = [number for pool in pools for split in pool.values() for number in split]
    assert sorted(dealt) == list(range(len(sheet.sprites)))
    assert all(len(pool["test"]) >= 2 for pool in pools)


def test_no_two_sprites_are_alike() -> None:
    """No drawing has two names, which could put it into both splits."""
    for name in ("openmoji/emoji", "signs/signs"):
        pictures = [sprite.tobytes() for sprite in sprites.read_sheet(name).sprites]
        assert len(set(pictures)) == len(pictures)


def test_regions_do_not_overlap() -> None:
    """No place on the map has two labels."""
    for one, other in itertools.combinations(REGIONS, 2):
        (south, west, north, east), (south2, west2, north2, east2) = REGIONS[one], REGIONS[other]
        apart = north <= south2 or north2 <= south or east <= west2 or east2 <= west
        assert apart, f"{one} overlaps {other}"


def test_streams_differ_by_purpose() -> None:
    """Two purposes give different numbers, and one purpose always gives the same."""
    assert random_stream("a", "train").random() == random_stream("a", "train").random()
    assert random_stream("a", "train").random() != random_stream("a", "test").random()


def test_split_per_class_is_stratified_and_disjoint() -> None:
    """Each split gets the requested number of each class, and no position is in both."""
    labels = np.array([0, 1, 2] * 10)
    dealt = split_per_class(labels, num_train=6, num_test=3, rng=random_stream("test"))
    assert np.bincount(labels[dealt["train"]]).tolist() == [6, 6, 6]
    assert np.bincount(labels[dealt["test"]]).tolist() == [3, 3, 3]
    assert not set(dealt["train"]) & set(dealt["test"])


def test_held_out_keeps_at_least_two_for_the_test() -> None:
    """Even a small pool has two members for the test."""
    dealt = held_out([5, 6, 7, 8], frac=0.01, rng=random_stream("test"))
    assert len(dealt["test"]) == 2
    assert sorted(dealt["train"] + dealt["test"]) == [5, 6, 7, 8]
