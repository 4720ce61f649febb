from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.artifacts.manifests import Manifest
from workers.specs.expert import ExpertSpec
from workers.specs.training import TrialSpec
from workers.store.protocol import StoreUnavailableError
from workers.train.checkpoint_interval import CheckpointInterval
from workers.train.checkpoints import Checkpoints
from workers.train.resumable import Timing
from workers.train.trainer import Trainer
from workers.train.trial import run_trial
from workers.workspace import Workspace

Run = Callable[..., list[Manifest]]
MakeExpert = Callable[..., ExpertSpec]

ADAM = {"optimizer": "adam", "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"optimizer": "adamw", "momentum": 0.9, "weight_decay": 0.01}
SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01}
SILENT = Timing(report_every_s=1e9)
AT_EVERY_STEP = Timing(report_every_s=-1.0)


@pytest.fixture
def new_store(prepared_store: Path, tmp_path: Path) -> Callable[[str], Workspace]:
    """Returns a function that opens a workspace on a new store, with base and images linked."""

    def open_one(name: str) -> Workspace:
        root = tmp_path / name
        (root / "artifacts").mkdir(parents=True)
        for kind in ("base", "data"):
            (root / "artifacts" / kind).symlink_to(prepared_store / "artifacts" / kind)
        return Workspace(str(root), cache_root=tmp_path / "cache", device=torch.device("cpu"))

    return open_one


def bits(manifest: Manifest) -> tuple[Any, ...]:
    """Returns everything of an expert that must not depend on how it was trained."""
    files = [(entry.name, entry.sha256) for entry in manifest.files]
    return manifest.id, files, dict(manifest.metrics), manifest.outcome


class Killed(BaseException):
    """The end of a worker; the code under test does not catch it."""


class Watched:
    """A record of steps and checkpoints, which also decides when a checkpoint or a kill is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.due: Container[int] = ()
        self.kill_after: int | None = None
        self.num_advances = 0
        self.steps_written: list[int] = []
        advance, write = Trainer.advance, Checkpoints.write

        def watched_advance(trainer: Trainer) -> None:
            self.num_advances += 1
            advance(trainer)

        def watched_write(checkpoints: Checkpoints, trainer: Trainer, *, seconds: float) -> bool:
            written = write(checkpoints, trainer, seconds=seconds)
            self.steps_written.append(trainer.step)
            if trainer.step == self.kill_after:
                raise Killed
            return written

        monkeypatch.setattr(Trainer, "advance", watched_advance)
        monkeypatch.setattr(Checkpoints, "write", watched_write)
        monkeypatch.setattr(
            CheckpointInterval, "is_due", lambda _, trainer: trainer.step in self.due
        )

    def kill(self, run: Callable[[], object], *, at: int) -> None:
        """Runs a trial and kills it as soon as its checkpoint at a step is written."""
        self.due, self.kill_after = (at,), at
        with pytest.raises(Killed):
            run()
        self.due, self.kill_after = (), None
        self.num_advances, self.steps_written = 0, []


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Returns the record of all trials of the test; without `due` they write no checkpoints."""
    return Watched(monkeypatch)


def reopened(workspace: Workspace, *, cache_root: Path) -> Workspace:
    """Returns a workspace on the same store as another process on another node has it."""
    url = workspace.artifacts.store.url
    return Workspace(url, cache_root=cache_root, device=torch.device("cpu"))


def ids(manifests: Sequence[Manifest]) -> list[str]:
    return [manifest.id for manifest in manifests]


def in_flight(workspace: Workspace) -> list[str]:
    return [entry.key for entry in workspace.artifacts.store.list("in-flight/")]


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [(SGD, "constant"), (SGD, "cosine"), (ADAM, "constant"), (ADAMW, "cosine")],
    ids=["sgd", "sgd-cosine", "adam", "adamw-cosine"],
)
@pytest.mark.parametrize("freeze", [False, True], ids=["moving", "frozen"])
def test_killed_trial_ends_with_the_bits_of_an_undisturbed_one(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    *,
    tmp_path: Path,
    optimizer: dict[str, Any],
    schedule: str,
    freeze: bool,
) -> None:
    """The trial is killed twice.

    No step before a checkpoint is repeated, and no checkpoint is left.
    """
    spec = make_expert(
        "bluemarble_regions",
        **optimizer,
        schedule=schedule,
        freeze_batch_norm=freeze,
        steps=7,
    )
    (undisturbed,) = run(spec, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, workspace=first), at=2)
    second = reopened(first, cache_root=tmp_path / "second")
    watched.kill(lambda: run(spec, workspace=second), at=5)
    assert len(in_flight(first)) == 1
    third = reopened(first, cache_root=tmp_path / "third")
    (resumed,) = run(spec, workspace=third)
    assert watched.num_advances == 2
    assert bits(resumed) == bits(undisturbed)
    assert in_flight(first) == []


VARIANTS: dict[str, dict[str, Any]] = {
    "sam": {**ADAM, "sam_rho": 0.1},
    "ema": {"average_weights": "ema", "ema_decay": 0.9},
    "swa": {"average_weights": "swa", "swa_start": 0.4},
    "frozen": {"head": "frozen", "probe_l2": 1.0},
    "probe_first": {"head": "probe_first", "probe_l2": 1.0, "data_ratio": 0.5},
    "linear": {"schedule": "linear", "warmup_steps": 3},
    "augmented": {"augment": "crop_flip"},
    "linearised": {"linearised": True, "freeze_batch_norm": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_trial_of_any_kind_ends_with_the_bits_of_an_undisturbed_one(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    *,
    tmp_path: Path,
    variant: str,
) -> None:
    """The trial is killed before and after its snapshot, if it may have one.

    No step is repeated.
    """
    spec = make_expert(**{"steps": 5, **VARIANTS[variant]})
    snapshots = (5,) if spec.hyperparameters.depends_on_total else (3, 5)
    undisturbed = run(spec, *snapshots, workspace=new_store("undisturbed"))
    workspace = new_store("killed")
    for step in (1, 4):
        watched.kill(lambda: run(spec, *snapshots, workspace=workspace), at=step)  # noqa: B023
        workspace = reopened(workspace, cache_root=tmp_path / f"after{step}")
    resumed = run(spec, *snapshots, workspace=workspace)
    assert watched.num_advances == 1
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_trial_killed_around_its_snapshots_ends_with_the_same_experts(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    *,
    tmp_path: Path,
    step: int,
) -> None:
    """The kill comes before, at or after a snapshot.

    Committed experts are reported and not made again.
    """
    spec = make_expert(**ADAM, steps=6)
    undisturbed = run(spec, 2, 4, 6, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, 2, 4, 6, workspace=first), at=step)
    before = {name: first.artifacts.find("expert", name) for name in ids(undisturbed)}
    resumed = run(spec, 2, 4, 6, workspace=reopened(first, cache_root=tmp_path / "second"))
    assert watched.num_advances == 6 - step
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]
    assert all(before[each.id] in (None, each) for each in resumed)
    assert sum(each is not None for each in before.values()) == (step - 1) // 2
    assert in_flight(first) == []


def test_rest_of_a_trial_continues_from_the_checkpoint_of_the_whole(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """A restarted driver schedules the trial without the experts that exist."""
    spec = make_expert(steps=6)
    undisturbed = run(spec, 2, 4, 6, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, 2, 4, 6, workspace=first), at=3)
    whole = TrialSpec(longest=spec, snapshots=(2, 4, 6))
    rest = whole.without(first.artifacts.committed_ids("expert"))
    assert rest == TrialSpec(longest=spec, snapshots=(4, 6))
    second = reopened(first, cache_root=tmp_path / "second")
    resumed = run(rest.longest, *rest.snapshots, workspace=second)
    assert watched.num_advances == 3
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed[1:]]


def test_checkpoint_beyond_a_missing_snapshot_waits_for_it(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """A trial with a snapshot that the killed one lacks starts at step 0.

    After that snapshot and another kill, it continues from the first trial's checkpoint.
    """
    spec = make_expert(steps=7)
    undisturbed = run(spec, 3, 7, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, workspace=first), at=5)
    second = reopened(first, cache_root=tmp_path / "second")
    watched.kill(lambda: run(spec, 3, 7, workspace=second), at=1)
    watched.kill(lambda: run(spec, 3, 7, workspace=second), at=4)
    assert len(in_flight(first)) == 2
    resumed = run(spec, 3, 7, workspace=reopened(first, cache_root=tmp_path / "third"))
    assert watched.num_advances == 2
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]
    assert in_flight(first) == []


@pytest.mark.parametrize("freeze", [False, True], ids=["lost", "finite"])
def test_trial_that_diverges_is_resumed_to_the_same_outcome(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    *,
    tmp_path: Path,
    freeze: bool,
) -> None:
    """It diverges again in the same step, whether or not its last weights are finite."""
    spec = make_expert(lr=1e30, steps=6, freeze_batch_norm=freeze)
    undisturbed = run(spec, 1, 3, 6, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, 1, 3, 6, workspace=first), at=1)
    resumed = run(spec, 1, 3, 6, workspace=reopened(first, cache_root=tmp_path / "second"))
    assert watched.num_advances == 1
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]
    assert [each.outcome for each in resumed] == ["done", "diverged", "diverged"]


def test_diverged_trial_writes_no_checkpoint(
    workspace: Workspace, make_expert: MakeExpert, run: Run, watched: Watched
) -> None:
    """BatchNorm's statistics include the failed step, so no training may resume from them."""
    watched.due = range(100)
    run(make_expert(lr=1e30, steps=6), 1, 3, 6, workspace=workspace)
    assert watched.steps_written == [1]


def test_warm_process_resumes_to_the_same_bits(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """Earlier trials, one of them diverged, do not affect the restored training."""
    spec = make_expert(**ADAM, steps=5)
    (undisturbed,) = run(spec, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, workspace=first), at=3)
    warm = reopened(first, cache_root=tmp_path / "second")
    run(make_expert("mnist_m", lr=0.2, freeze_batch_norm=True), workspace=warm)
    run(make_expert(lr=1e30, steps=5), workspace=warm)
    (resumed,) = run(spec, workspace=warm)
    assert bits(resumed) == bits(undisturbed)


def test_checkpoint_that_a_rival_replaces_while_it_is_read_is_listed_again(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that was thought dead is ahead: its snapshot and its checkpoint are used."""
    spec = make_expert(steps=6)
    undisturbed = run(spec, 3, 6, workspace=new_store("undisturbed"))
    first = new_store("killed")
    watched.kill(lambda: run(spec, 3, 6, workspace=first), at=2)
    successor = reopened(first, cache_root=tmp_path / "successor")
    store = successor.artifacts.store
    local_path = store.local_path

    def replaced_meanwhile(key: str) -> Path | None:
        if key.startswith("in-flight/"):
            monkeypatch.setattr(store, "local_path", local_path)
            rival = reopened(first, cache_root=tmp_path / "rival")
            watched.kill(lambda: run(spec, 3, 6, workspace=rival), at=5)
        return local_path(key)

    monkeypatch.setattr(store, "local_path", replaced_meanwhile)
    resumed = run(spec, 3, 6, workspace=successor)
    assert watched.num_advances == 1
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]


def test_store_that_fails_while_a_checkpoint_is_written_does_not_end_the_trial(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is back before the commit, and the expert is the same."""
    spec = make_expert(steps=4)
    (undisturbed,) = run(spec, workspace=new_store("undisturbed"))
    workspace = new_store("faulty")
    upload = workspace.artifacts.store.upload

    def fail_checkpoints(key: str, path: Path) -> None:
        if key.startswith("in-flight/"):
            raise StoreUnavailableError("the store is down")
        upload(key, path)

    monkeypatch.setattr(workspace.artifacts.store, "upload", fail_checkpoints)
    watched.due = range(100)
    (expert,) = run(spec, workspace=workspace)
    assert bits(expert) == bits(undisturbed)
    assert watched.steps_written == [1, 2, 3, 4]


def test_checkpoints_are_removed_before_the_last_report(
    workspace: Workspace, make_expert: MakeExpert, watched: Watched
) -> None:
    """A scheduler ends the trial as soon as it has the last report."""
    watched.due = range(100)
    spec = TrialSpec(longest=make_expert(steps=4), snapshots=(2, 4))
    left = [len(in_flight(workspace)) for _ in run_trial(spec, workspace=workspace, timing=SILENT)]
    assert left == [1, 0]


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Returns the time of a clock that every step advances by ten seconds."""
    now_s, advance = [0.0], Trainer.advance

    def take_time(trainer: Trainer) -> None:
        now_s[0] += 10
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", take_time)
    return now_s


def test_seconds_of_a_resumed_trial_are_those_of_all_its_steps(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    watched: Watched,
    now_s: list[float],
    tmp_path: Path,
) -> None:
    """A step takes ten seconds; steps that were lost with the first worker do not count."""
    trial = TrialSpec(longest=make_expert(steps=6), snapshots=(6,))
    first = new_store("killed")
    watched.due = (4,)
    lost = run_trial(
        trial, workspace=first, timing=Timing(report_every_s=-1, clock=lambda: now_s[0])
    )
    assert [next(lost).step for _ in range(5)] == [1, 2, 3, 4, 5]
    now_s[0] += 1000
    second = reopened(first, cache_root=tmp_path / "second")
    (last,) = run_trial(
        trial, workspace=second, timing=Timing(report_every_s=1e9, clock=lambda: now_s[0])
    )
    assert dict(last.committed[0].seconds) == {"trial": 60.0}


def test_checkpoints_keep_to_the_given_interval(
    workspace: Workspace,
    make_expert: MakeExpert,
    now_s: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ten seconds a step and instant writes, every third step has a checkpoint."""
    written, write = [], Checkpoints.write

    def note(checkpoints: Checkpoints, trainer: Trainer, *, seconds: float) -> bool:
        written.append((trainer.step, seconds))
        return write(checkpoints, trainer, seconds=seconds)

    monkeypatch.setattr(Checkpoints, "write", note)
    trial = TrialSpec(longest=make_expert(steps=10), snapshots=(10,))
    timing = Timing(report_every_s=1e9, checkpoint_every_s=25, clock=lambda: now_s[0])
    assert len(list(run_trial(trial, workspace=workspace, timing=timing))) == 1
    assert written == [(3, 30.0), (6, 60.0), (9, 90.0)]


def test_closed_trial_continues_from_its_last_step(
    new_store: Callable[[str], Workspace],
    make_expert: MakeExpert,
    run: Run,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """A driver or scheduler that stops a trial loses none of its steps."""
    spec = make_expert(**ADAM, steps=6)
    undisturbed = run(spec, 2, 6, workspace=new_store("undisturbed"))
    first = new_store("closed")
    trial = run_trial(
        TrialSpec(longest=spec, snapshots=(2, 6)),
        workspace=first,
        timing=AT_EVERY_STEP,
    )
    steps = [next(trial).step for _ in range(4)]
    trial.close()
    assert steps == [1, 2, 3, 4]
    watched.num_advances = 0
    resumed = run(spec, 2, 6, workspace=reopened(first, cache_root=tmp_path / "second"))
    assert watched.num_advances == 2
    assert [bits(each) for each in resumed] == [bits(each) for each in undisturbed]
    assert in_flight(first) == []


def test_trial_that_is_closed_after_its_end_leaves_no_checkpoint(
    new_store: Callable[[str], Workspace], make_expert: MakeExpert
) -> None:
    """A driver closes all trials."""
    workspace = new_store("closed")
    spec = make_expert(steps=2)
    trial = run_trial(
        TrialSpec(longest=spec, snapshots=(2,)),
        workspace=workspace,
        timing=SILENT,
    )
    assert next(trial).step == 2
    trial.close()
    assert in_flight(workspace) == []
