import hashlib
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from eval.embedded import index
from eval.suites import SUITES, UnknownTaskError, find_task, is_embedded, task_names
from eval.vision import catalogue
from eval.vision.catalogue import read_catalogue

EMBEDDED = tuple(name for name in task_names() if is_embedded(name))
PUBLISHED = tuple(name for name in task_names() if not is_embedded(name))


def test_embedded20_lists_every_embedded_task_in_order() -> None:
    """The suite has all embedded tasks in the order of the index."""
    assert SUITES["embedded20"] == EMBEDDED
    assert len(EMBEDDED) == 20


def test_embedded8_is_the_start_of_the_index() -> None:
    """The default suite keeps its tasks and their order, on which sampled groups depend."""
    assert SUITES["embedded8"] == task_names()[:8]
    assert SUITES["embedded8"] == (
        "mnist_5k",
        "fashion_mnist_5k",
        "font_letters",
        "traffic_signs",
        "bluemarble_regions",
        "skimage_textures",
        "emoji_objects",
        "mnist_m",
    )


def test_vision_suites_are_those_of_the_papers() -> None:
    """The suites have 8, 14 and 20 data sets, each suite within the next."""
    assert [len(SUITES[each]) for each in ("vision8", "vision14", "vision20")] == [8, 14, 20]
    assert SUITES["vision20"][:14] == SUITES["vision14"]
    assert SUITES["vision14"][:8] == SUITES["vision8"]
    assert sorted(SUITES["vision20"]) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_task_is_well_formed(name: str) -> None:
    """Classes are distinct, and counts and channels are valid."""
    task = find_task(name)
    assert len(set(task.classes)) == task.num_classes >= 2
    assert task.channels in (1, 3)
    assert min(task.num_train, task.num_test) >= task.num_classes
    assert task.material in ("real", "rendered")


def test_fingerprint_changes_with_what_a_published_task_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another split or digest makes another task; another text for people does not."""
    before = find_task("dtd").fingerprint
    entry = read_catalogue()["dtd"]
    for key, value, is_same in [
        ("files", "elsewhere", True),
        ("train", [{"split": "train"}], False),
        ("digests", {}, False),
    ]:
        source = {**entry["source"], key: value}
        changed = {**read_catalogue(), "dtd": {**entry, "source": source}}
        with monkeypatch.context() as patched:
            patched.setattr(catalogue, "read_catalogue", lambda changed=changed: changed)
            assert (find_task("dtd").fingerprint == before) is is_same


@pytest.mark.parametrize("name", EMBEDDED)
def test_task_is_well_formed(name: str) -> None:
    """Classes are distinct and share the images of each split equally."""
    task = find_task(name)
    assert task.name == name
    assert len(set(task.classes)) == task.num_classes >= 2
    assert task.num_train % task.num_classes == task.num_test % task.num_classes == 0
    assert task.channels in (1, 3)
    assert task.material in ("real", "rendered", "composed", "simulated")
    assert task.licence
    assert task.stands_in_for


def test_fingerprints_are_distinct_hex_digests() -> None:
    """No two tasks share a fingerprint, even if they share sources."""
    fingerprints = {find_task(name).fingerprint for name in task_names()}
    assert len(fingerprints) == len(task_names())
    assert all(len(bytes.fromhex(fingerprint)) == 32 for fingerprint in fingerprints)


def test_fingerprints_of_the_first_eight_are_what_they_were() -> None:
    """Existing results for the eight tasks stay valid."""
    joined = "".join(find_task(name).fingerprint for name in SUITES["embedded8"])
    assert hashlib.sha256(joined.encode()).hexdigest().startswith("9ee38d4756e932e2")


def test_fingerprint_changes_with_the_composer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are composed differently are another data set with other ids."""
    before = find_task("mnist_m").fingerprint
    monkeypatch.setattr(index, "COMPOSER_VERSION", index.COMPOSER_VERSION + 1)
    assert find_task("mnist_m").fingerprint != before


def test_fingerprint_changes_with_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed source changes the tasks that use it, and no others."""
    before = {name: find_task(name).fingerprint for name in task_names()}
    known = index.read_index()
    changed = {**known, "files": {**known["files"], "digits/mnist_5k.npz": "0" * 64}}
    monkeypatch.setattr(index, "read_index", lambda: changed)
    after = {name: find_task(name).fingerprint for name in task_names()}
    assert {name for name in before if before[name] != after[name]} == {"mnist_5k", "mnist_m"}


@pytest.mark.parametrize("name", ["mnist5k", "MNIST-5k"])
def test_unknown_task_names_the_close_ones(name: str) -> None:
    """A misspelt name is answered with similar names, whatever its capitals."""
    with pytest.raises(UnknownTaskError, match=rf"unknown task '{name}'; did you mean mnist_5k"):
        find_task(name)


def test_unknown_task_lists_all_when_none_is_close() -> None:
    """A name without similar ones is answered with all names."""
    with pytest.raises(UnknownTaskError, match=r"unknown task 'zzz'; The tasks are mnist_5k"):
        find_task("zzz")


def test_task_is_frozen() -> None:
    """A task cannot change after ids were derived from it."""
    with pytest.raises(FrozenInstanceError):
        find_task("mnist_m").name = "other"  # type: ignore[misc]


def test_listing_tasks_loads_nothing_heavy() -> None:
    """The driver checks a study without numpy, Arrow, Pillow or torch."""
    code = (
        "import sys; from eval.suites import *; [find_task(name) for name in task_names()];"
        "print([m for m in ('numpy', 'pyarrow', 'PIL', 'torch', 'scipy') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
