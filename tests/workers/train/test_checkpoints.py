import json
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from workers.artifacts.layout import Layout
from workers.models.tensor_files import METADATA_KEY
from workers.store.protocol import Store, StoreError, StoreUnavailableError
from workers.train.checkpoints import Checkpoints
from workers.train.trainer import Trainer

TRIAL = "0123456789abcdef"
OTHER_TRIAL = "fedcba9876543210"


@pytest.fixture
def write(store: Store, start: Callable[[], Trainer]) -> Callable[..., Trainer]:
    """Returns a function that writes a checkpoint at each given step, as separate workers would."""

    def write(*steps: int, training_id: str = TRIAL) -> Trainer:
        trainer = start()
        while trainer.step < max(steps):
            trainer.advance()
            if trainer.step in steps:
                writer = Checkpoints(store, training_id=training_id)
                assert writer.write(trainer, seconds=10.0 * trainer.step)
        return trainer

    return write


def keys(store: Store, training_id: str = TRIAL) -> list[str]:
    return [entry.key for entry in store.list(Layout.in_flight(training_id))]


def steps_in(store: Store) -> list[int]:
    parsed = [Layout.parse_checkpoint_key(key) for key in keys(store)]
    return [each.step for each in parsed if each]


def content_of(store: Store, *, step: int) -> tuple[str, bytes]:
    (key,) = [key for key in keys(store) if key.split("/")[-1].startswith(f"{step:010d}-")]
    return key, store.get(key)


def assert_same(trainer: Trainer, other: Trainer) -> None:
    """Checks the bits of all tensors, including momenta and losses."""
    state, expected = trainer.state(), other.state()
    assert trainer.step == other.step
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def truncated(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def test_training_continues_from_the_highest_step(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """Weights, statistics, momenta, losses and the elapsed seconds are restored."""
    write(2, 3)
    original = write(5)
    restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    assert checkpoints.refresh()
    assert checkpoints.last_step == 5
    assert checkpoints.restore(restored, max_step=10) == 50.0
    assert_same(restored, original)
    original.advance()
    restored.advance()
    assert_same(restored, original)


def test_key_has_step_and_digest_and_metadata_names_the_training(
    store: Store, write: Callable[..., Trainer]
) -> None:
    """Any reader of safetensors files can open a checkpoint."""
    write(3)
    (key,) = keys(store)
    content = store.get(key)
    assert key == Layout.checkpoint(TRIAL, step=3, sha256=sha256(content).hexdigest())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads(header["__metadata__"][METADATA_KEY])
    assert about == {"trial": TRIAL, "step": "3", "seconds": "30.0"}
    assert header["losses"]["dtype"] == "F64"
    assert {name.partition(".")[0] for name in header} == {
        *("__metadata__", "backbone", "head", "optimizer", "losses")
    }


@pytest.mark.parametrize("damage", [truncated, flipped, lambda _: b""])
def test_damaged_checkpoint_is_skipped(
    store: Store,
    start: Callable[[], Trainer],
    write: Callable[..., Trainer],
    damage: Callable[[bytes], bytes],
) -> None:
    """The next lower step is used; without any valid checkpoint the training starts at step 0."""
    original = write(2)
    write(4)
    for expected in (original, start()):
        key, content = content_of(store, step=4 if expected is original else 2)
        store.put(key, damage(content))
        restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
        checkpoints.refresh()
        seconds = checkpoints.restore(restored, max_step=10)
        assert_same(restored, expected)
        assert seconds == 10.0 * expected.step


def test_swapped_contents_are_skipped(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """Both files are whole, but neither has the digest in its key."""
    write(2)
    write(4)
    (low, low_content), (high, high_content) = (content_of(store, step=step) for step in (2, 4))
    store.put(low, high_content)
    store.put(high, low_content)
    restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    assert checkpoints.restore(restored, max_step=10) == 0.0
    assert_same(restored, start())


def rename(name: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name + "_"] = tensors.pop(name)

    return change


def reshape(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].T.contiguous()


def halve(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].half()


def lose_a_loss(tensors: dict[str, Tensor]) -> None:
    tensors["losses"] = tensors["losses"][:-1]


def keep(tensors: dict[str, Tensor]) -> None:
    """Changes no tensor; the metadata is wrong instead."""
    del tensors


RIGHT = {"trial": TRIAL, "step": "4", "seconds": "1.0"}


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (keep, {**RIGHT, "trial": OTHER_TRIAL}),
        (keep, {**RIGHT, "step": "3"}),
        (keep, {**RIGHT, "seconds": "nan"}),
        (keep, {**RIGHT, "seconds": "-1.0"}),
        (keep, {**RIGHT, "seconds": None}),
        (keep, {}),
        (keep, []),
        (rename("head.bias"), RIGHT),
        (rename("losses"), RIGHT),
        (rename("optimizer.0.momentum_buffer"), RIGHT),
        (reshape, RIGHT),
        (halve, RIGHT),
        (lose_a_loss, RIGHT),
    ],
)
def test_foreign_checkpoint_is_skipped(
    store: Store,
    start: Callable[[], Trainer],
    write: Callable[..., Trainer],
    *,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], None],
    about: object,
) -> None:
    """A checkpoint of another training, step or model is refused although its digest is right.

    Nothing is partly restored.
    """
    write(4)
    key, content = content_of(store, step=4)
    (tmp_path / "original").write_bytes(content)
    tensors = load_file(tmp_path / "original")
    change(tensors)
    save_file(tensors, tmp_path / "foreign", metadata={METADATA_KEY: json.dumps(about)})
    foreign = (tmp_path / "foreign").read_bytes()
    store.delete([key])
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(foreign).hexdigest()), foreign)
    restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    assert checkpoints.restore(restored, max_step=10) == 0.0
    assert_same(restored, start())


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_object_that_is_no_tensor_file_is_skipped(
    store: Store, start: Callable[[], Trainer], content: bytes
) -> None:
    """The digest in the object's key is right."""
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(content).hexdigest()), content)
    store.put(Layout.in_flight(TRIAL, "notes.txt"), content)
    restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    assert checkpoints.restore(restored, max_step=10) == 0.0
    assert restored.step == 0


def test_checkpoint_without_metadata_is_skipped(
    store: Store, start: Callable[[], Trainer], tmp_path: Path
) -> None:
    """Other tools write such files."""
    save_file({"weights": torch.zeros(2)}, tmp_path / "plain")
    content = (tmp_path / "plain").read_bytes()
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(content).hexdigest()), content)
    checkpoints = Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    assert checkpoints.restore(start(), max_step=10) == 0.0


def test_checkpoint_beyond_the_limit_is_skipped_and_kept(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """The checkpoint becomes useful once the snapshot before it is committed."""
    original = write(3)
    write(5)
    restored, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    checkpoints.restore(restored, max_step=3)
    assert_same(restored, original)
    restored.advance()
    assert checkpoints.write(restored, seconds=1.0)
    assert steps_in(store) == [4, 5]


def test_write_deletes_the_checkpoints_that_it_replaces(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """Deleted are the restored checkpoint, older ones, refused ones, and the previous one."""
    write(1)
    write(2)
    write(3)
    key, content = content_of(store, step=3)
    store.put(key, flipped(content))
    trainer, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    checkpoints.restore(trainer, max_step=10)
    assert trainer.step == 2
    for step in (3, 4):
        trainer.advance()
        assert checkpoints.write(trainer, seconds=1.0)
        assert steps_in(store) == [step]


def test_training_without_checkpoints_makes_one_request(
    store: Store, start: Callable[[], Trainer]
) -> None:
    """There is one listing at the start; restoring and removing nothing makes no request."""
    checkpoints = Checkpoints(store, training_id=TRIAL)
    before = store.num_requests
    assert not checkpoints.refresh()
    assert checkpoints.last_step == 0
    assert checkpoints.restore(start(), max_step=10) == 0.0
    checkpoints.remove()
    assert store.num_requests == before + 1


def test_checkpoint_costs_two_requests(store: Store, start: Callable[[], Trainer]) -> None:
    """A checkpoint costs an upload and, from the second one on, a deletion."""
    trainer, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    requests = []
    for _ in range(3):
        trainer.advance()
        before = store.num_requests
        checkpoints.write(trainer, seconds=1.0)
        requests.append(store.num_requests - before)
    assert requests == [1, 2, 2]


def test_remove_deletes_a_rivals_checkpoints_and_no_other_trainings(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """A worker that was thought dead may have written after the listing."""
    write(2, training_id=OTHER_TRIAL)
    checkpoints = Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    trainer = start()
    trainer.advance()
    checkpoints.write(trainer, seconds=1.0)
    write(3)
    checkpoints.remove()
    assert keys(store) == []
    assert len(keys(store, OTHER_TRIAL)) == 1


def test_worker_and_its_successor_may_both_write(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """The worker that was thought dead is behind; a third worker continues from the successor."""
    zombie, zombies = start(), Checkpoints(store, training_id=TRIAL)
    zombies.refresh()
    zombie.advance()
    zombies.write(zombie, seconds=1.0)
    successor = write(3)
    zombie.advance()
    zombies.write(zombie, seconds=2.0)
    assert steps_in(store) == [2, 3]
    third, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    checkpoints.restore(third, max_step=10)
    assert_same(third, successor)


def test_vanished_checkpoint_is_skipped(
    store: Store, start: Callable[[], Trainer], write: Callable[..., Trainer]
) -> None:
    """The next lower step is used; another listing tells whether there is a new checkpoint."""
    original = write(2)
    write(4)
    checkpoints = Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    store.delete([content_of(store, step=4)[0]])
    restored = start()
    assert checkpoints.restore(restored, max_step=10) == 20.0
    assert_same(restored, original)
    assert not checkpoints.refresh()
    write(5)
    assert checkpoints.refresh()


def failing(store: Store, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("the store is down")

    monkeypatch.setattr(store, method, fail)


@pytest.mark.parametrize("method", ["upload", "delete"])
def test_store_that_fails_a_write_is_no_error(
    store: Store,
    start: Callable[[], Trainer],
    write: Callable[..., Trainer],
    method: str,
) -> None:
    """The last checkpoint stays, and the next write deletes all older ones."""
    write(1)
    trainer, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    checkpoints.restore(trainer, max_step=10)
    trainer.advance()
    with pytest.MonkeyPatch.context() as patch:
        failing(store, method, patch)
        assert not checkpoints.write(trainer, seconds=1.0)
    assert 1 in steps_in(store)
    trainer.advance()
    assert checkpoints.write(trainer, seconds=1.0)
    assert steps_in(store) == [3]


def test_upload_that_happened_although_it_raised_is_deleted(
    store: Store, start: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost response leaves an object, which the next checkpoint replaces."""
    upload = store.upload

    def lose_answer(key: str, path: Path) -> None:
        upload(key, path)
        raise StoreUnavailableError("no answer")

    trainer, checkpoints = start(), Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    trainer.advance()
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", lose_answer)
        assert not checkpoints.write(trainer, seconds=1.0)
    assert steps_in(store) == [1]
    trainer.advance()
    assert checkpoints.write(trainer, seconds=1.0)
    assert steps_in(store) == [2]


def test_full_scratch_disk_is_no_error(
    store: Store, start: Callable[[], Trainer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A temporary directory that is a file raises a kind of error that a full disk raises too."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    trainer = start()
    trainer.advance()
    assert not Checkpoints(store, training_id=TRIAL).write(trainer, seconds=1.0)
    assert keys(store) == []


def test_store_that_fails_the_removal_is_no_error(
    store: Store, write: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time of the removal, the training's artifacts are committed."""
    write(2)
    checkpoints = Checkpoints(store, training_id=TRIAL)
    checkpoints.refresh()
    with monkeypatch.context() as patch:
        failing(store, "delete", patch)
        checkpoints.remove()
    assert steps_in(store) == [2]


def test_store_that_fails_at_the_start_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting at step 0 would waste hours of work, so that the training is retried instead."""
    failing(store, "list", monkeypatch)
    with pytest.raises(StoreError, match="down"):
        Checkpoints(store, training_id=TRIAL).refresh()
