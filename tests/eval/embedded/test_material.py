"""The sources of the twelve tasks beyond the first eight, and the separation of their splits."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from eval.embedded import designs, words
from eval.embedded.build import COMPOSERS
from eval.embedded.designs import LISTING, compose_designs, design_sheets
from eval.embedded.glyphs import faces_by_split
from eval.embedded.index import read_index
from eval.embedded.sprites import Sheet, cut_sheet
from eval.embedded.stains import brown_excess
from eval.embedded.vendored import Pixels, read_arrays, read_json
from eval.suites import SUITES, find_task

EMOJI_TASKS = [name for name in SUITES["embedded20"] if design_sheets(name)]


@pytest.mark.parametrize("name", EMOJI_TASKS)
def test_designers_are_in_one_split_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test split shows every class by one designer, training by all others."""
    monkeypatch.setattr(designs, "compose_sheet", lambda _task, *, sheet, pools: (sheet, pools))
    sheet: Sheet
    pools: list[dict[str, list[int]]]
    sheet, pools = compose_designs(find_task(name))  # type: ignore[assignment]
    dealt = [number for pool in pools for split in pool.values() for number in split]
    assert sorted(dealt) == list(range(len(sheet.sprites)))
    num_designs = len(design_sheets(name))
    for label, pool in enumerate(pools):
        assert {sheet.labels[number] for split in pool.values() for number in split} == {label}
        assert len(pool["train"]) == (num_designs - 1) * len(pool["test"]) > 0


def test_training_shows_no_test_designer() -> None:
    """EmojiOne's drawings are the test split of six tasks, OpenMoji's that of the flags."""
    tests = {name: design_sheets(name)[-1] for name in EMOJI_TASKS}
    assert tests.pop("emoji_flags") == "openmoji/flags.webp"
    assert list(tests.values()) == ["emoji/emojione.webp"] * 6


def test_no_drawing_is_shared_between_designers_or_emoji() -> None:
    """No drawing occurs twice, which could put it into both splits or under two labels."""
    listing = read_json(LISTING)
    drawings: list[bytes] = []
    for source, codes in listing["sheets"].items():
        cut = cut_sheet(source, size=64, columns=32, numbers=list(range(len(codes))))
        drawings += [drawing.tobytes() for drawing in cut]
    assert len(set(drawings)) == len(drawings)


def test_no_emoji_is_blank() -> None:
    """Every drawing covers at least a tenth of its square."""
    for source, codes in read_json(LISTING)["sheets"].items():
        for code, drawing in zip(
            codes,
            cut_sheet(source, size=64, columns=32, numbers=list(range(len(codes)))),
            strict=True,
        ):
            assert np.asarray(drawing.getchannel("A")).mean() > 25, f"{source}: {code}"


def test_share_alike_drawings_lie_in_their_own_folder() -> None:
    """Exactly the tasks that use OpenMoji have its share-alike licence."""
    for name, entry in read_index()["tasks"].items():
        uses_openmoji = any(source.startswith("openmoji/") for source in entry["sources"])
        assert uses_openmoji == ("CC-BY-SA-4.0" in entry["licence"]), name


def test_no_licence_forbids_commercial_use() -> None:
    """Anyone may run a study on the embedded tasks."""
    for name in SUITES["embedded20"]:
        assert "NC" not in find_task(name).licence


def test_digits_of_the_two_splits_are_from_two_ends() -> None:
    """Training digits of each class are the first of the file, test digits the last."""
    arrays, task = read_arrays("digits/uci_digits.npz"), find_task("digits8x8")
    composed = COMPOSERS["digits8x8"](task)
    grey = np.rint(arrays["images"] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    for label in range(task.num_classes):
        of_label = grey[arrays["labels"] == label]
        for split, expected in (("train", of_label[:130]), ("test", of_label[-40:])):
            images = composed[split].images[composed[split].labels == label]
            np.testing.assert_array_equal(images, expected)


def test_stain_is_that_of_the_middle() -> None:
    """Only the middle of a patch decides, not its surroundings."""
    blue, brown = (90, 90, 160), (150, 110, 80)
    patch = np.full((32, 32, 3), blue, np.uint8)
    assert brown_excess(patch) == -70
    patch[10:22, 10:22] = brown
    assert brown_excess(patch) == 70


def test_every_word_is_a_class_and_legible() -> None:
    """The classes are the chosen words, which are short enough to be legible."""
    vocabulary = read_json("words/words.json")
    chosen = [*vocabulary["negative"], *vocabulary["positive"]]
    assert tuple(chosen) == find_task("review_words").classes
    assert all(word.isascii() and word.islower() and len(word) <= 5 for word in chosen)


def test_words_use_fonts_of_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """No font of the test split is in the training split, as in the task of letters."""
    glyphs = read_arrays("glyphs/letters.npz")["glyphs"][:, 26:]
    number_of = {face.tobytes(): number for number, face in enumerate(glyphs)}
    words_set: list[str] = []
    faces_used: list[int] = []

    def note(word: str, *, face: Pixels) -> Image.Image:
        words_set.append(word)
        faces_used.append(number_of[face.tobytes()])
        return Image.new("L", (60, 20), 255)

    monkeypatch.setattr(words, "_set", note)
    composed = words.compose_words(find_task("review_words"))
    faces = faces_by_split(read_json("glyphs/fonts.json")["fonts"], task_name="font_letters")
    assert set(faces_used[:2000]) <= set(faces["train"])
    assert set(faces_used[2000:]) <= set(faces["test"])
    labels = np.concatenate([composed[split].labels for split in ("train", "test")])
    assert words_set == [find_task("review_words").classes[label] for label in labels]


def test_local_flaws_are_visible() -> None:
    """The roughest spot of cloth with a local flaw stands out more than in other classes."""
    task = find_task("textile")
    test = COMPOSERS["textile"](task)["test"]
    jagged = ndimage.laplace(test.images[..., 0].astype(float), axes=(1, 2)) ** 2
    peaks = ndimage.gaussian_filter(jagged, (0, 4, 4)).max(axis=(1, 2))
    nominal, local, globally = (np.median(peaks[test.labels == label]) for label in range(3))
    assert task.classes == ("nominal", "local", "global")
    assert local > 1.5 * max(nominal, globally)


def test_cloth_shows_no_frame() -> None:
    """No crop reaches the white line at the edge of the pictures."""
    for split in COMPOSERS["textile"](find_task("textile")).values():
        edges = [split.images[:, :, -1], split.images[:, -1]]
        assert max(edge.mean(axis=(1, 2)).max() for edge in edges) < 220
