import json
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eval.images.split import Split
from eval.model_inputs import Normalization
from workers.artifacts.layout import Layout
from workers.models.backbones import Backbone
from workers.models.tensor_files import METADATA_KEY
from workers.specs.training import ExpertSpec
from workers.store.protocol import Store, StoreError, StoreUnavailableError
from workers.train.checkpoints import GUESSED_BYTES_PER_S, MAX_SHARE, Checkpoints, Pace
from workers.train.fine_tune import FineTuning, create_head

TRIAL = "0123456789abcdef"
OTHER_TRIAL = "fedcba9876543210"
TRAIN = Split(
    images=np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8),
    labels=np.arange(12) % 3,
)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Returns the time that it is."""
        return self.now_s

    def spend(self, seconds: float, *, succeed: bool = True) -> bool:
        """Lets time pass as a write does that succeeds or not."""
        self.now_s += seconds
        return succeed


@pytest.fixture
def start(make_expert: Callable[..., ExpertSpec]) -> Callable[[], FineTuning]:
    """Returns what begins a run of one layer, with momenta, on six images a step."""

    def start() -> FineTuning:
        spec = make_expert(batch_size=6, steps=10)
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        backbone = Backbone(
            module=module.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            num_features=16,
            normalization=Normalization(mean=(0.5,) * 3, std=(0.5,) * 3),
        )
        head = create_head(16, num_classes=3, seed=spec.seed, task=spec.task)
        device = torch.device("cpu")
        return FineTuning(spec=spec, backbone=backbone, head=head, train=TRAIN, device=device)

    return start


@pytest.fixture
def write(store: Store, start: Callable[[], FineTuning]) -> Callable[..., FineTuning]:
    """Returns what writes a checkpoint at each of some steps, as separate workers would."""

    def write(*steps: int, trial_id: str = TRIAL) -> FineTuning:
        tuning = start()
        while tuning.step < max(steps):
            tuning.advance()
            if tuning.step in steps:
                writer = Checkpoints(store, trial_id=trial_id)
                assert writer.write(tuning, seconds=10.0 * tuning.step)
        return tuning

    return write


def keys(store: Store, trial_id: str = TRIAL) -> list[str]:
    return [entry.key for entry in store.list(Layout.in_flight(trial_id))]


def steps_in(store: Store) -> list[int]:
    parsed = [Layout.parse_checkpoint_key(key) for key in keys(store)]
    return [parts[1] for parts in parsed if parts]


def content_of(store: Store, *, step: int) -> tuple[str, bytes]:
    (key,) = [key for key in keys(store) if key.split("/")[-1].startswith(f"{step:010d}-")]
    return key, store.get(key)


def assert_same(tuning: FineTuning, other: FineTuning) -> None:
    """Checks every tensor's bits, momenta and losses among them."""
    state, expected = tuning.state(), other.state()
    assert tuning.step == other.step
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def truncated(content: bytes) -> bytes:
    return content[:-1]


def flipped(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def test_no_checkpoint_before_the_interval(start: Callable[[], FineTuning]) -> None:
    """However cheap it is: the run is 2 kB."""
    clock = Clock()
    pace = Pace(min_interval_s=30, clock=clock)
    clock.now_s += 29.9
    assert not pace.is_due(start())
    clock.now_s += 0.2
    assert pace.is_due(start())


def test_first_checkpoint_waits_by_its_bytes(
    start: Callable[[], FineTuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte at 100 MB/s takes 10 s, which are two percent of 500."""
    giant = {"weights": torch.empty(250_000_000, device="meta")}
    monkeypatch.setattr(FineTuning, "state", lambda _: giant)
    clock = Clock()
    pace = Pace(min_interval_s=30, clock=clock)
    clock.now_s += 1e9 / GUESSED_BYTES_PER_S / MAX_SHARE - 1
    assert not pace.is_due(start())
    clock.now_s += 2
    assert pace.is_due(start())


def test_expensive_checkpoint_puts_the_next_one_off(start: Callable[[], FineTuning]) -> None:
    """Three seconds are two percent of 150, counted from its end."""
    clock, tuning = Clock(), start()
    pace = Pace(min_interval_s=30, clock=clock)
    pace.spend(lambda: clock.spend(3))
    clock.now_s += 149
    assert not pace.is_due(tuning)
    clock.now_s += 2
    assert pace.is_due(tuning)


def test_cheap_checkpoint_halves_the_cost_at_most(start: Callable[[], FineTuning]) -> None:
    """One quick answer of a slow store is not believed at once."""
    clock, tuning = Clock(), start()
    pace = Pace(min_interval_s=30, clock=clock)
    pace.spend(lambda: clock.spend(8))
    pace.spend(lambda: clock.spend(0.1))
    clock.now_s += 4 / MAX_SHARE - 1
    assert not pace.is_due(tuning)
    clock.now_s += 2
    assert pace.is_due(tuning)


def test_failed_write_is_tried_again_an_interval_later(start: Callable[[], FineTuning]) -> None:
    """The minute of retries is not what a checkpoint costs."""
    clock, tuning = Clock(), start()
    pace = Pace(min_interval_s=30, clock=clock)
    clock.now_s += 31
    assert pace.is_due(tuning)
    pace.spend(lambda: clock.spend(60, succeed=False))
    assert not pace.is_due(tuning)
    clock.now_s += 31
    assert pace.is_due(tuning)


@pytest.mark.parametrize("seed", range(5))
def test_long_trial_spends_under_three_percent(start: Callable[[], FineTuning], seed: int) -> None:
    """On a store whose speed varies by a factor of ten, with steps of 0.1 to 2 s."""
    draws, clock, tuning = np.random.default_rng(seed), Clock(), start()
    pace = Pace(min_interval_s=10, clock=clock)
    spent_s, num_written, began_s = 0.0, 0, clock()
    step_s = float(draws.uniform(0.1, 2))
    while clock() - began_s < 20_000:
        clock.now_s += step_s
        if pace.is_due(tuning):
            cost_s = float(draws.uniform(0.3, 3))
            pace.spend(lambda cost_s=cost_s: clock.spend(cost_s))  # type: ignore[misc]
            spent_s, num_written = spent_s + cost_s, num_written + 1
    assert num_written > 100
    assert spent_s / (clock() - began_s) < 0.03


def test_run_goes_on_from_the_highest_step(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """With weights, statistics, momenta, losses and the seconds that it had taken."""
    write(2, 3)
    original = write(5)
    restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    assert checkpoints.look()
    assert checkpoints.last_step == 5
    assert checkpoints.restore(restored, max_step=10) == 50.0
    assert_same(restored, original)
    original.advance()
    restored.advance()
    assert_same(restored, original)


def test_name_says_step_and_digest_and_metadata_whose_it_is(
    store: Store, write: Callable[..., FineTuning]
) -> None:
    """A safetensors file that any reader opens."""
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
def test_damaged_checkpoint_is_passed_over(
    store: Store,
    start: Callable[[], FineTuning],
    write: Callable[..., FineTuning],
    damage: Callable[[bytes], bytes],
) -> None:
    """The next lower one counts; when that is damaged too, the run stays at its beginning."""
    original = write(2)
    write(4)
    for expected in (original, start()):
        key, content = content_of(store, step=4 if expected is original else 2)
        store.put(key, damage(content))
        restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
        checkpoints.look()
        seconds = checkpoints.restore(restored, max_step=10)
        assert_same(restored, expected)
        assert seconds == 10.0 * expected.step


def test_swapped_contents_are_passed_over(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """Each is whole, and neither is what its key says."""
    write(2)
    write(4)
    (low, low_content), (high, high_content) = (content_of(store, step=step) for step in (2, 4))
    store.put(low, high_content)
    store.put(high, low_content)
    restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
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
    """Changes no tensor: what is wrong is said beside them."""
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
def test_foreign_checkpoint_is_passed_over(
    store: Store,
    start: Callable[[], FineTuning],
    write: Callable[..., FineTuning],
    *,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], None],
    about: object,
) -> None:
    """Its digest is right, and it is of another trial, step or model; nothing is half restored."""
    write(4)
    key, content = content_of(store, step=4)
    (tmp_path / "original").write_bytes(content)
    tensors = load_file(tmp_path / "original")
    change(tensors)
    save_file(tensors, tmp_path / "foreign", metadata={METADATA_KEY: json.dumps(about)})
    foreign = (tmp_path / "foreign").read_bytes()
    store.delete([key])
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(foreign).hexdigest()), foreign)
    restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    assert checkpoints.restore(restored, max_step=10) == 0.0
    assert_same(restored, start())


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_object_that_is_no_tensor_file_is_passed_over(
    store: Store, start: Callable[[], FineTuning], content: bytes
) -> None:
    """Its key has the digest that its content has."""
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(content).hexdigest()), content)
    store.put(Layout.in_flight(TRIAL, "notes.txt"), content)
    restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    assert checkpoints.restore(restored, max_step=10) == 0.0
    assert restored.step == 0


def test_checkpoint_without_metadata_is_passed_over(
    store: Store, start: Callable[[], FineTuning], tmp_path: Path
) -> None:
    """As any other tool writes them."""
    save_file({"weights": torch.zeros(2)}, tmp_path / "plain")
    content = (tmp_path / "plain").read_bytes()
    store.put(Layout.checkpoint(TRIAL, step=4, sha256=sha256(content).hexdigest()), content)
    checkpoints = Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    assert checkpoints.restore(start(), max_step=10) == 0.0


def test_checkpoint_beyond_the_limit_is_passed_over_and_kept(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """It is of use once the snapshot that it is beyond has been committed."""
    original = write(3)
    write(5)
    restored, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    checkpoints.restore(restored, max_step=3)
    assert_same(restored, original)
    restored.advance()
    assert checkpoints.write(restored, seconds=1.0)
    assert steps_in(store) == [4, 5]


def test_write_deletes_what_it_replaces(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """What the run went on from, what is older, what was refused, and its own last one."""
    write(1)
    write(2)
    write(3)
    key, content = content_of(store, step=3)
    store.put(key, flipped(content))
    tuning, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    checkpoints.restore(tuning, max_step=10)
    assert tuning.step == 2
    for step in (3, 4):
        tuning.advance()
        assert checkpoints.write(tuning, seconds=1.0)
        assert steps_in(store) == [step]


def test_trial_without_checkpoints_asks_once(store: Store, start: Callable[[], FineTuning]) -> None:
    """One listing at its start; restoring and removing nothing asks nothing."""
    checkpoints = Checkpoints(store, trial_id=TRIAL)
    before = store.num_requests
    assert not checkpoints.look()
    assert checkpoints.last_step == 0
    assert checkpoints.restore(start(), max_step=10) == 0.0
    checkpoints.remove()
    assert store.num_requests == before + 1


def test_checkpoint_costs_two_requests(store: Store, start: Callable[[], FineTuning]) -> None:
    """An upload, and from the second on one that deletes."""
    tuning, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    requests = []
    for _ in range(3):
        tuning.advance()
        before = store.num_requests
        checkpoints.write(tuning, seconds=1.0)
        requests.append(store.num_requests - before)
    assert requests == [1, 2, 2]


def test_remove_takes_a_rivals_too_and_no_other_trials(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """A worker that was thought dead may have written since the listing."""
    write(2, trial_id=OTHER_TRIAL)
    checkpoints = Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    tuning = start()
    tuning.advance()
    checkpoints.write(tuning, seconds=1.0)
    write(3)
    checkpoints.remove()
    assert keys(store) == []
    assert len(keys(store, OTHER_TRIAL)) == 1


def test_worker_and_its_successor_may_both_write(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """The zombie is behind; a third worker goes on from the successor's."""
    zombie, zombies = start(), Checkpoints(store, trial_id=TRIAL)
    zombies.look()
    zombie.advance()
    zombies.write(zombie, seconds=1.0)
    successor = write(3)
    zombie.advance()
    zombies.write(zombie, seconds=2.0)
    assert steps_in(store) == [2, 3]
    third, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    checkpoints.restore(third, max_step=10)
    assert_same(third, successor)


def test_vanished_checkpoint_is_passed_over(
    store: Store, start: Callable[[], FineTuning], write: Callable[..., FineTuning]
) -> None:
    """The next lower one is taken; a new look says whether anything is new."""
    original = write(2)
    write(4)
    checkpoints = Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    store.delete([content_of(store, step=4)[0]])
    restored = start()
    assert checkpoints.restore(restored, max_step=10) == 20.0
    assert_same(restored, original)
    assert not checkpoints.look()
    write(5)
    assert checkpoints.look()


def failing(store: Store, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StoreUnavailableError("the store is down")

    monkeypatch.setattr(store, method, fail)


@pytest.mark.parametrize("method", ["upload", "delete"])
def test_store_that_fails_a_write_is_no_error(
    store: Store,
    start: Callable[[], FineTuning],
    write: Callable[..., FineTuning],
    method: str,
) -> None:
    """The last checkpoint stays, and the next write deletes all that are older."""
    write(1)
    tuning, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    checkpoints.restore(tuning, max_step=10)
    tuning.advance()
    with pytest.MonkeyPatch.context() as patch:
        failing(store, method, patch)
        assert not checkpoints.write(tuning, seconds=1.0)
    assert 1 in steps_in(store)
    tuning.advance()
    assert checkpoints.write(tuning, seconds=1.0)
    assert steps_in(store) == [3]


def test_upload_that_happened_although_it_raised_is_deleted(
    store: Store, start: Callable[[], FineTuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost answer leaves an object: the next checkpoint replaces it like any other."""
    upload = store.upload

    def lose_answer(key: str, path: Path) -> None:
        upload(key, path)
        raise StoreUnavailableError("no answer")

    tuning, checkpoints = start(), Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    tuning.advance()
    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", lose_answer)
        assert not checkpoints.write(tuning, seconds=1.0)
    assert steps_in(store) == [1]
    tuning.advance()
    assert checkpoints.write(tuning, seconds=1.0)
    assert steps_in(store) == [2]


def test_full_scratch_disk_is_no_error(
    store: Store, start: Callable[[], FineTuning], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here a directory that is missing, which raises in the same way."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    tuning = start()
    tuning.advance()
    assert not Checkpoints(store, trial_id=TRIAL).write(tuning, seconds=1.0)
    assert keys(store) == []


def test_store_that_fails_the_removal_is_no_error(
    store: Store, write: Callable[..., FineTuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is committed by then."""
    write(2)
    checkpoints = Checkpoints(store, trial_id=TRIAL)
    checkpoints.look()
    with monkeypatch.context() as patch:
        failing(store, "delete", patch)
        checkpoints.remove()
    assert steps_in(store) == [2]


def test_store_that_fails_at_the_start_is_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would cost the trial its hours; it is started again instead."""
    failing(store, "list", monkeypatch)
    with pytest.raises(StoreError, match="down"):
        Checkpoints(store, trial_id=TRIAL).look()
