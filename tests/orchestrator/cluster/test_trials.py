"""Trials on a real Ray Tune, with a worker that follows orders."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray as ray_module
from ray.tune.experiment import Trial

from orchestrator.cluster import admission
from orchestrator.cluster.protocol import TrialSettings
from orchestrator.cluster.trial_runner import report_interval_s
from orchestrator.cluster.trials import run_trials
from orchestrator.study.resources import Share
from workers.artifacts.manifests import Manifest
from workers.specs.expert import ExpertSpec
from workers.specs.hyperparameters import Hyperparameters, TrainingConstants
from workers.specs.training import TrialSpec

NUM_CPUS = os.cpu_count() or 1
pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray")]


class Listener:
    """Records every event."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.progressed: list[tuple[str, int, float | None]] = []
        self.committed: dict[str, Manifest] = {}
        self.failed: dict[str, tuple[str, str, bool]] = {}
        self.errors: dict[str, BaseException | None] = {}
        self.paused: list[str] = []
        self.finished: list[str] = []
        self.stopping = threading.Event()

    def may_start(self, trial_id: str) -> bool:
        """Lets every trial start."""
        return bool(trial_id)

    def may_go_on(self) -> bool:
        """Lets every trial go on."""
        return True

    def trial_started(self, trial_id: str) -> None:
        """Notes a start."""
        self.started.append(trial_id)

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """Notes a report, or fails to."""
        self.progressed.append((trial_id, step, loss))
        self.committed |= {manifest.id: manifest for manifest in committed}

    def reported_twice(self) -> set[str]:
        """Returns the trials that have reported a loss, which the first report lacks."""
        return {trial_id for trial_id, _, loss in self.progressed if loss is not None}

    def trial_failed(
        self, trial_id: str, *, error: BaseException | None, reason: str, trace: str, is_lost: bool
    ) -> None:
        """Notes a failure."""
        self.errors[trial_id] = error
        self.failed[trial_id] = (reason, trace, is_lost)

    def trial_paused(self, trial_id: str) -> None:
        """Notes that a trial was paused."""
        self.paused.append(trial_id)

    def trial_finished(self, trial_id: str) -> None:
        """Notes an end."""
        self.finished.append(trial_id)


class StoppingListener(Listener):
    """Stops the run as soon as a trial has begun."""

    def trial_started(self, trial_id: str) -> None:
        """Notes a start."""
        super().trial_started(trial_id)
        self.stopping.set()


class ThriftyListener(Listener):
    """Lets two trials start, and stops them after nine reports."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def may_start(self, trial_id: str) -> bool:
        """Notes who asks, when there is a place for it."""
        self.asked.append(trial_id)
        return len(self.asked) <= 2

    def may_go_on(self) -> bool:
        """Looks at the reports."""
        return len(self.progressed) < 9


class SqueezedListener(Listener):
    """Has two slots, and one from the second reports of two trials until one was paused."""

    def __init__(self, notes: Path) -> None:
        super().__init__()
        self._notes = notes
        self.asked: list[str] = []
        self.free_when_paused: float | None = None

    def may_start(self, trial_id: str) -> bool:
        """Notes the order in which trials are handed out; a new process begins later."""
        self.asked.append(trial_id)
        return True

    def num_slots(self) -> int:
        """Takes away a slot until Ray has the core of the paused trial."""
        return 1 if len(self.reported_twice()) == 2 and self.free_when_paused is None else 2

    def may_go_on(self) -> bool:
        """Looks whether Ray has the core of the paused trial back, and lets all go on then."""
        if self.paused and ray_module.available_resources().get("CPU") == NUM_CPUS - 1:
            self.free_when_paused = NUM_CPUS - 1
            (self._notes / "go").touch()
        return True


class LonelyListener(Listener):
    """Has two slots, and one from the end of the first trial."""

    def __init__(self) -> None:
        super().__init__()
        self.running_at_starts: list[int] = []
        """The number of trials that run at each start after the loss of the slot."""

    def num_slots(self) -> int:
        """Takes away a slot at the end of a trial."""
        return 1 if self.finished else 2

    def trial_started(self, trial_id: str) -> None:
        """Counts the trials that run now."""
        super().trial_started(trial_id)
        if self.finished:
            self.running_at_starts.append(len(self.started) - len(self.finished))


class FailingListener(Listener):
    """Stands for a driver whose store fails."""

    def trial_progressed(
        self, trial_id: str, *, step: int, loss: float | None, committed: Sequence[Manifest]
    ) -> None:
        """Notes a report, or fails to."""
        raise OSError(f"cannot note {trial_id} at {step}: {loss}, {committed}")


def trial(seed: int = 0, *, task: str = "mnist_5k") -> TrialSpec:
    expert = ExpertSpec(
        task=task,
        base_id="b" * 16,
        data_id="d" * 16,
        hyperparameters=Hyperparameters(
            steps=4,
            batch_size=8,
            lr=0.1,
            data_ratio=1.0,
            optimizer="sgd",
            seed=seed,
        ),
        constants=TrainingConstants(momentum=0.9, freeze_batch_norm=True),
    )
    return TrialSpec(longest=expert, snapshots=(2, 4))


def run(
    trials: Sequence[TrialSpec],
    *,
    listener: Listener,
    notes: Path,
    num_slots: Callable[[], int] = lambda: 2,
) -> None:
    run_trials(
        trials,
        worker="scripted_worker:Worker",
        settings=TrialSettings(store_url=str(notes), share=Share(), checkpoint_every_s=30),
        num_slots=num_slots,
        listener=listener,
        stopping=listener.stopping,
    )


def test_reports_and_manifests_arrive_from_few_processes(tmp_path: Path) -> None:
    """Every trial is reported from start to end, and trials share two warm processes."""
    listener = Listener()
    trials = [trial(seed) for seed in range(6)]
    run(trials, listener=listener, notes=tmp_path)
    ids = {each.id for each in trials}
    assert set(listener.started) == set(listener.finished) == ids
    assert listener.failed == {}
    assert set(listener.committed) == {expert.id for each in trials for expert in each.outputs}
    of_first = [report[1:] for report in listener.progressed if report[0] == trials[0].id]
    assert of_first == [(1, None), (2, 0.5), (4, 0.5)]
    processes = {each.metrics["process"] for each in listener.committed.values()}
    assert len(processes) <= 2


def test_tune_keeps_a_trial_for_each_slot_and_not_for_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune looks at every trial that it has ever had, after each event."""
    made: list[Trial] = []

    def counted(*args: object, **kwargs: object) -> Trial:
        made.append(Trial(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(admission, "Trial", counted)
    listener = Listener()
    trials = [trial(seed) for seed in range(20)]
    run(trials, listener=listener, notes=tmp_path)
    assert len(listener.finished) == 20
    assert len(made) == 2


def test_slot_lost_as_a_training_ends_gets_no_other(tmp_path: Path) -> None:
    """The worker that is left runs the rest, one after another."""
    listener = LonelyListener()
    trials = [trial(seed) for seed in range(6)]
    run(trials, listener=listener, notes=tmp_path, num_slots=listener.num_slots)
    assert sorted(listener.finished) == sorted(each.id for each in trials)
    assert (listener.paused, listener.failed) == ([], {})
    assert set(listener.running_at_starts) == {1}


def test_failed_and_killed_trials_leave_the_others_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The listener gets the reason; nothing is printed on the terminal, which shows progress."""
    listener = Listener()
    failing, dying = trial(task="failing"), trial(task="dying")
    others = [trial(seed) for seed in range(3)]
    run([failing, dying, *others], listener=listener, notes=tmp_path)
    assert set(listener.failed) == {failing.id, dying.id}
    reason, trace, is_lost = listener.failed[failing.id]
    assert reason == "ValueError: no such image"
    assert isinstance(listener.errors[failing.id], ValueError)
    assert "scripted_worker.py" in trace
    assert not is_lost
    assert "died" in listener.failed[dying.id][0].lower()
    assert set(listener.finished) == {each.id for each in others}
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out
    assert printed.err == ""


def test_killed_trial_succeeds_when_run_again(tmp_path: Path) -> None:
    """The next round of trials starts in new processes."""
    (tmp_path / "died").touch()
    listener = Listener()
    run([trial(task="dying")], listener=listener, notes=tmp_path)
    assert listener.finished == [trial(task="dying").id]


def test_stopping_ends_running_trials_early(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stop waits for no trial, starts no other, and is no failure."""
    listener = StoppingListener()
    run([trial(task="endless"), trial(1), trial(2), trial(3)], listener=listener, notes=tmp_path)
    assert listener.failed == {}
    assert trial(3).id not in listener.finished
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_trials_that_may_not_start_are_left_out(tmp_path: Path) -> None:
    """The others run to their end, and the trials left out are no failures."""
    listener = ThriftyListener()
    trials = [trial(seed) for seed in range(5)]
    run(trials, listener=listener, notes=tmp_path)
    assert listener.asked == [each.id for each in trials]
    assert set(listener.started) == set(listener.finished) == {each.id for each in trials[:2]}
    assert listener.failed == {}


def test_trials_that_may_not_go_on_are_closed(tmp_path: Path) -> None:
    """The worker gets the chance to write a checkpoint."""
    listener = ThriftyListener()
    run([trial(task="endless")], listener=listener, notes=tmp_path)
    assert (listener.finished, listener.failed) == ([], {})
    assert (tmp_path / "closed").exists()


def test_error_of_the_listener_ends_the_run(tmp_path: Path) -> None:
    """If the driver's store fails, the trial of the report has not failed."""
    listener = FailingListener()
    with pytest.raises(OSError, match="cannot note"):
        run([trial(1), trial(task="endless")], listener=listener, notes=tmp_path)
    assert listener.failed == {}


def test_trial_without_its_finished_snapshots_commits_the_rest(tmp_path: Path) -> None:
    """Committed snapshots are not trained again, and the trial keeps its id."""
    whole = trial(1)
    left = whole.without([whole.outputs[0].id])
    assert left == replace(whole, snapshots=(4,))
    listener = Listener()
    run([left], listener=listener, notes=tmp_path)
    assert list(listener.committed) == [whole.id]


def test_fewer_slots_pause_the_last_trial_and_free_its_core(tmp_path: Path) -> None:
    """A paused trial left a checkpoint and goes on before a new trial starts."""
    listener = SqueezedListener(tmp_path)
    trials = [trial(seed, task="waiting") for seed in range(3)]
    run(trials, listener=listener, notes=tmp_path, num_slots=listener.num_slots)
    first, second, third = (each.id for each in trials)
    paused = listener.started[1]
    assert listener.paused == [paused]
    assert listener.free_when_paused == NUM_CPUS - 1
    assert (tmp_path / "closed").exists()
    assert listener.asked == [first, second, paused, third]
    assert sorted(listener.started) == sorted([first, second, paused, third])
    assert set(listener.finished) == {first, second, third}
    assert listener.failed == {}


def test_without_any_slot_nothing_is_begun(tmp_path: Path) -> None:
    """The run returns at once, so that its caller waits and not Tune, which would hang."""
    listener = Listener()
    run([trial()], listener=listener, notes=tmp_path, num_slots=lambda: 0)
    assert listener.started == []


def test_run_returns_when_its_last_slot_is_lost(tmp_path: Path) -> None:
    """Its caller waits for a slot and passes the paused trial again, which then ends."""
    listener = Listener()
    trials = [trial(task="waiting")]
    run(
        trials,
        listener=listener,
        notes=tmp_path,
        num_slots=lambda: 0 if listener.reported_twice() else 1,
    )
    assert listener.paused == [trials[0].id]
    assert (tmp_path / "closed").exists()
    (tmp_path / "go").touch()
    run(trials, listener=listener, notes=tmp_path)
    assert listener.finished == [trials[0].id]
    assert listener.failed == {}


@pytest.mark.parametrize(("num_slots", "seconds"), [(1, 5), (100, 5), (200, 10), (1000, 50)])
def test_workers_together_report_twenty_times_a_second_at_most(
    num_slots: int, seconds: float
) -> None:
    """The driver's time for a report grows with the number of workers, so many report rarely."""
    assert report_interval_s(num_slots) == seconds
