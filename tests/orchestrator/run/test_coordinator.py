import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from manual_clock import ManualClock

from eval.images.shards import SplitFormatError
from merge.errors import NonFiniteMergeError
from orchestrator.cluster.jobs import Job, JobEnd, JobKind
from orchestrator.costs.budget import BudgetKeeper
from orchestrator.plan.plan import Plan
from orchestrator.progress.live_state import LiveState
from orchestrator.record.failures import Failures
from orchestrator.record.folder import StudyFolder
from orchestrator.record.holes import Outcome
from orchestrator.record.ledger import Ledger
from orchestrator.run.coordinator import FAULTS, Bookkeeping, Coordinator, preparation_jobs
from workers.artifacts.manifests import Manifest
from workers.prepare.progress import PreparationProgress
from workers.store.opening import open_store
from workers.store.protocol import NotFoundError, StoreError, StoreFullError
from workers.train.memory_share import DeviceMemoryError

Make = Callable[..., Manifest]
SMALL = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 50}
"""Three tasks; a merge of two is guessed at 0.05 s."""


@dataclass(kw_only=True)
class Stage:
    """A coordinator, and records of everything that it does to others."""

    plan: Plan
    ledger: Ledger
    coordinator: Coordinator
    state: LiveState
    submitted: list[Job]
    committed: list[str]
    cancelled: list[int]
    """The number of jobs submitted so far, at each cancellation."""
    stopping: threading.Event


class FakeQueue:
    """A job pool that keeps the jobs that it is given."""

    def __init__(self) -> None:
        self.submitted: list[Job] = []
        self.cancelled: list[int] = []
        """The number of jobs submitted so far, at each cancellation."""

    def submit(self, job: Job) -> None:
        """Keeps a job."""
        self.submitted.append(job)

    def cancel_waiting(self) -> None:
        """Notes a cancellation."""
        self.cancelled.append(len(self.submitted))


@pytest.fixture
def clock() -> ManualClock:
    """Returns the clock by which running trials are measured."""
    return ManualClock()


@pytest.fixture
def stage(make_plan: Callable[..., Plan], tmp_path: Path, clock: ManualClock) -> Stage:
    """Sets up a coordinator on an empty store, with one retry."""
    return set_up(make_plan(), tmp_path=tmp_path, clock=clock)


def set_up(plan: Plan, *, tmp_path: Path, clock: ManualClock) -> Stage:
    """Sets up a coordinator of a plan on an empty store, with one retry."""
    ledger, state = Ledger(plan, manifests=[]), LiveState()
    jobs, committed = FakeQueue(), list[str]()
    stopping = threading.Event()
    folder = StudyFolder(open_store(str(tmp_path / "store")), "small")
    coordinator = Coordinator(
        Bookkeeping(
            ledger=ledger,
            budget_keeper=BudgetKeeper(ledger, clock=clock),
            failures=Failures(folder, retries=1),
        ),
        jobs=jobs,
        state=state,
        on_commit=lambda manifest: committed.append(manifest.id),
        stop=stopping.set,
        clock=clock,
    )
    return Stage(
        plan=plan,
        ledger=ledger,
        coordinator=coordinator,
        state=state,
        submitted=jobs.submitted,
        committed=committed,
        cancelled=jobs.cancelled,
        stopping=stopping,
    )


def fail_trial(stage: Stage, error: Exception, *, is_lost: bool = False) -> None:
    stage.coordinator.trial_failed(
        stage.plan.trials[0].id, error=error, reason=str(error), trace="t", is_lost=is_lost
    )


def finish_trials(stage: Stage, expert_manifest: Make) -> None:
    for trial in stage.plan.trials:
        made = [expert_manifest(expert) for expert in trial.outputs]
        stage.coordinator.trial_progressed(trial.id, step=10, loss=0.5, committed=made)


def test_speed_of_a_trial_counts_from_its_first_report(stage: Stage, clock: ManualClock) -> None:
    """A resumed trial begins at its checkpoint's step, which only its first report says."""
    trial = stage.plan.trials[0]
    stage.coordinator.trial_started(trial.id)
    clock.now_s += 60
    stage.coordinator.trial_progressed(trial.id, step=6, loss=0.5, committed=[])
    assert stage.state.trials[trial.id].steps_per_s is None
    clock.now_s += 2
    stage.coordinator.trial_progressed(trial.id, step=10, loss=0.5, committed=[])
    assert stage.state.trials[trial.id].steps_per_s == 2.0
    stage.coordinator.trial_finished(trial.id)
    assert stage.state.trials == {}


def test_extra_seconds_are_what_a_trial_holds_its_worker_beyond_its_work(
    stage: Stage, clock: ManualClock, expert_manifest: Make
) -> None:
    """A trial that went on from a checkpoint worked longer than it held this worker: no extra."""
    for trial, work_s in zip(stage.plan.trials, (5.0, 5.5, 60.0), strict=True):
        stage.coordinator.trial_started(trial.id)
        clock.now_s += 7
        made = [expert_manifest(expert, seconds=work_s) for expert in trial.outputs]
        stage.coordinator.trial_progressed(trial.id, step=10, loss=0.5, committed=made)
        stage.coordinator.trial_finished(trial.id)
    assert list(stage.state.extra_s) == [2.0, 1.5, 0.0]
    assert stage.state.extra_seconds_per_trial() == 1.5
    assert LiveState().extra_seconds_per_trial() == 0.0


def test_merges_are_submitted_as_their_experts_commit(stage: Stage, expert_manifest: Make) -> None:
    """Each merge is submitted once, and each expert is published."""
    finish_trials(stage, expert_manifest)
    stage.coordinator.submit_merges(stage.ledger.state().ready_merges)
    assert [job.kind for job in stage.submitted] == [JobKind.MERGE] * 3
    assert sorted(job.id for job in stage.submitted) == sorted(stage.plan.merges)
    assert [job.argument.id for job in stage.submitted] == [job.id for job in stage.submitted]
    assert stage.committed == list(stage.plan.experts)


def test_merge_that_ends_is_counted_and_published(
    stage: Stage, expert_manifest: Make, merge_manifest: Make
) -> None:
    """The study is finished with its last merge."""
    finish_trials(stage, expert_manifest)
    for job in list(stage.submitted):
        stage.coordinator.job_ended(JobEnd(job=job, manifest=merge_manifest(job.argument)))
    assert stage.ledger.state().is_finished
    assert set(stage.committed) == {*stage.plan.experts, *stage.plan.merges}


def test_merge_that_fails_is_tried_again_and_then_given_up(
    stage: Stage, expert_manifest: Make
) -> None:
    """After one retry there is a hole with the reason, and a note for the user."""
    finish_trials(stage, expert_manifest)
    job = stage.submitted[0]
    stage.coordinator.job_ended(JobEnd(job=job, error=OSError("disk"), trace="t"))
    assert stage.submitted.count(job) == 2
    assert stage.state.notes == []
    stage.coordinator.job_ended(JobEnd(job=job, error=OSError("disk"), trace="t"))
    assert stage.submitted.count(job) == 2
    assert stage.state.notes[0].startswith(f"merge {job.id}: average on ")
    (hole,) = [hole for hole in stage.ledger.state().holes() if hole.outcome is Outcome.FAILED]
    assert "OSError: disk" in hole.reason


def test_merge_that_cannot_be_made_is_not_tried_again(stage: Stage, expert_manifest: Make) -> None:
    """The same experts would give the same NaN."""
    finish_trials(stage, expert_manifest)
    job = stage.submitted[0]
    stage.coordinator.job_ended(JobEnd(job=job, error=NonFiniteMergeError("NaN"), trace="t"))
    assert stage.submitted.count(job) == 1
    assert stage.ledger.state().counts().num_failed == 1


@pytest.mark.parametrize(
    ("error", "num_failed"),
    [
        (SplitFormatError("no image in its test split"), 1),
        (ValueError("anything"), 0),
        (OSError("disk"), 0),
    ],
)
def test_trial_whose_input_is_wrong_is_not_tried_again(
    stage: Stage, error: Exception, num_failed: int
) -> None:
    """An error of our own says so; one of Python's or of the machine has another try."""
    fail_trial(stage, error)
    assert stage.ledger.state().counts().num_failed == num_failed
    if num_failed:
        assert stage.state.notes[0].startswith(
            f"trial {stage.plan.trials[0].id}: emoji_objects lr=0.01 failed: "
        )


def test_preparation_that_fails_is_an_error_of_the_run(stage: Stage) -> None:
    """Nothing can run without the base, so there is no retry, and the run gets the reason."""
    job = preparation_jobs(stage.plan, done=())[0]
    stage.coordinator.job_ended(JobEnd(job=job, error=ValueError("no weights"), trace="t"))
    assert stage.submitted == []
    (error,) = stage.coordinator.prepare_errors
    assert job.id in error
    assert "ValueError: no weights" in error
    assert stage.ledger.state().counts().num_failed == 0


def test_trial_is_shown_while_it_runs(stage: Stage) -> None:
    """Name, step, number of steps and loss are shown until the trial ends."""
    trial = stage.plan.trials[0]
    stage.coordinator.trial_started(trial.id)
    assert stage.state.trials[trial.id].step == 0
    stage.coordinator.trial_progressed(trial.id, step=7, loss=0.25, committed=[])
    shown = stage.state.trials[trial.id]
    assert (shown.name, shown.step, shown.steps, shown.loss) == (
        "emoji_objects lr=0.01",
        7,
        10,
        0.25,
    )
    stage.coordinator.trial_finished(trial.id)
    assert stage.state.trials == {}


def test_paused_trial_is_shown_again_once_it_goes_on(stage: Stage, clock: ManualClock) -> None:
    """Its speed is measured anew, and a pause is no failure."""
    trial = stage.plan.trials[0]
    stage.coordinator.trial_started(trial.id)
    stage.coordinator.trial_progressed(trial.id, step=4, loss=0.5, committed=[])
    stage.coordinator.trial_paused(trial.id)
    assert stage.state.trials == {}
    clock.now_s += 3600
    stage.coordinator.trial_started(trial.id)
    stage.coordinator.trial_progressed(trial.id, step=4, loss=0.5, committed=[])
    clock.now_s += 2
    stage.coordinator.trial_progressed(trial.id, step=8, loss=0.5, committed=[])
    assert stage.state.trials[trial.id].steps_per_s == 2.0
    assert stage.state.failures == []


def test_trial_fails_for_good_after_its_last_try(stage: Stage) -> None:
    """With one retry the second failure is the last."""
    trial = stage.plan.trials[0]
    for is_runnable in (True, False):
        stage.coordinator.trial_started(trial.id)
        fail_trial(stage, OSError("x"))
        assert (trial in stage.ledger.state().runnable_trainings) is is_runnable
    assert stage.state.trials == {}
    assert len(stage.state.notes) == 1
    assert trial.id in stage.state.notes[0]


def test_lost_node_does_not_count_as_a_failure(stage: Stage) -> None:
    """A trial that was preempted nine times may still run."""
    trial = stage.plan.trials[0]
    for _ in range(9):
        fail_trial(stage, RuntimeError("lost"), is_lost=True)
    assert trial in stage.ledger.state().runnable_trainings
    assert not any("failed" in note for note in stage.state.notes)


@pytest.mark.parametrize("fault", FAULTS)
def test_failing_store_stops_the_run_and_counts_for_no_trial(
    stage: Stage, fault: type[StoreError], tmp_path: Path
) -> None:
    """The next trial would fail too; nothing is written to a store that does not answer."""
    trial = stage.plan.trials[0]
    for number in range(3):
        fail_trial(stage, fault(f"fault {number}"))
    assert stage.stopping.is_set()
    assert str(stage.coordinator.fault) == "fault 0"
    assert trial in stage.ledger.state().runnable_trainings
    assert list(tmp_path.rglob("failure-*")) == []


def test_failing_store_stops_the_run_in_a_merge_too(stage: Stage) -> None:
    """The job is neither retried nor given up: the next run makes it."""
    spec = next(iter(stage.plan.merges.values()))
    job = Job(id=spec.id, kind=JobKind.MERGE, argument=spec)
    stage.coordinator.job_ended(JobEnd(job=job, error=StoreFullError("full")))
    assert stage.stopping.is_set()
    assert stage.submitted == []
    assert stage.ledger.state().counts().num_failed == 0


def test_object_that_is_gone_is_a_failure_of_the_job_that_needs_it(stage: Stage) -> None:
    """The store answers, so the other jobs go on."""
    fail_trial(stage, NotFoundError("no such object"))
    assert not stage.stopping.is_set()
    assert stage.coordinator.fault is None


def test_preparation_is_the_base_and_the_images_that_are_missing(stage: Stage) -> None:
    """Committed artifacts are not made again."""
    plan = stage.plan
    jobs = preparation_jobs(plan, done=())
    assert [job.kind for job in jobs] == [JobKind.BASE] + [JobKind.IMAGES] * 3
    done = {plan.bases.jobs[0].spec.id, plan.datasets[1].id}
    left = preparation_jobs(plan, done=done)
    assert [job.id for job in left] == [plan.datasets[0].id, plan.datasets[2].id]
    assert [job.argument for job in left] == [plan.data_jobs[0], plan.data_jobs[2]]


def test_preparation_is_shown_until_it_ends_in_one_line(stage: Stage, merge_manifest: Make) -> None:
    """A user sees each task's progress, and afterwards a line with its size and time."""
    job = preparation_jobs(stage.plan, done=())[1]
    progress = PreparationProgress(
        task="mnist_5k", num_images=5000, num_done=1200, images_per_s=350.4
    )
    stage.coordinator.job_progressed(job, progress)
    assert list(stage.state.preparations.values()) == [progress]
    done = replace(progress, num_done=5000)
    stage.coordinator.job_progressed(job, done)
    manifest = replace(merge_manifest(next(iter(stage.plan.merges.values()))), kind="data")
    stage.coordinator.job_ended(JobEnd(job=job, manifest=manifest))
    assert stage.state.preparations == {}
    assert stage.state.notes == [
        "prepared mnist_5k 5,000 of 5,000 images, 350 a second, 0.0 MB in 2 s"
    ]


def test_failed_preparation_is_no_longer_shown(stage: Stage) -> None:
    """It ends as an error of the run, and not as a note."""
    job = preparation_jobs(stage.plan, done=())[1]
    progress = PreparationProgress(
        task="mnist_5k", num_images=5000, num_done=1200, images_per_s=350.4
    )
    stage.coordinator.job_progressed(job, progress)
    stage.coordinator.job_ended(JobEnd(job=job, error=ValueError("x.png: not an image")))
    assert stage.state.preparations == {}
    assert stage.state.notes == []
    (error,) = stage.coordinator.prepare_errors
    assert error.startswith("the images of emoji_objects: ValueError: x.png: not an image (tried")
    assert f"workers.run {job.id}" in error
    assert not stage.coordinator.is_input_wrong


def test_preparation_of_wrong_files_says_nothing_but_what_is_wrong(stage: Stage) -> None:
    """The user mends the file; a traceback and another try would not help."""
    job = preparation_jobs(stage.plan, done=())[1]
    stage.coordinator.job_ended(JobEnd(job=job, error=SplitFormatError("x.png: not an image")))
    assert stage.coordinator.prepare_errors == ["the images of emoji_objects: x.png: not an image"]
    assert stage.coordinator.is_input_wrong


def test_budget_lets_whole_groups_start_and_leaves_out_the_rest(
    make_plan: Callable[..., Plan], tmp_path: Path, clock: ManualClock, expert_manifest: Make
) -> None:
    """0.5 s of a core fit two trials of an estimated 0.22 s and their merge, not a third."""
    plan = make_plan(budget={"cpu_hours": 0.5 / 3600}, tasks=SMALL)
    stage = set_up(plan, tmp_path=tmp_path, clock=clock)
    merge = next(iter(plan.merges.values()))
    members = {expert.id for expert in merge.experts}
    started = [trial for trial in plan.trials if stage.coordinator.may_start(trial.id)]
    assert {trial.id for trial in started} == members
    outcomes = sorted(hole.outcome for hole in stage.ledger.state().holes())
    assert outcomes == [*[Outcome.NOT_RUN] * 3, *[Outcome.LEFT_OUT] * 3]
    for trial in started:
        made = [expert_manifest(trial.longest, seconds=0.2)]
        stage.coordinator.trial_started(trial.id)
        stage.coordinator.trial_progressed(trial.id, step=10, loss=0.5, committed=made)
        stage.coordinator.trial_finished(trial.id)
    assert [job.id for job in stage.submitted] == [merge.id]
    assert len(stage.ledger.state().runnable_trainings) == 1


def test_trial_that_takes_longer_than_the_budget_is_stopped(
    make_plan: Callable[..., Plan], tmp_path: Path, clock: ManualClock
) -> None:
    """Its next report stops it; waiting jobs are removed, and nothing more starts."""
    plan = make_plan(budget={"cpu_hours": 1 / 3600}, tasks=SMALL)
    stage = set_up(plan, tmp_path=tmp_path, clock=clock)
    trial = plan.trials[0]
    assert stage.coordinator.may_start(trial.id)
    stage.coordinator.trial_started(trial.id)
    clock.now_s = 0.9
    stage.coordinator.trial_progressed(trial.id, step=1, loss=0.5, committed=[])
    assert stage.coordinator.may_go_on()
    clock.now_s = 1.1
    stage.coordinator.trial_progressed(trial.id, step=2, loss=0.5, committed=[])
    assert not stage.coordinator.may_go_on()
    assert stage.cancelled == [0]
    assert not stage.coordinator.may_start(plan.trials[1].id)
    assert not stage.stopping.is_set()
    assert "the budget is reached" in stage.state.notes[0]


def test_merge_that_reaches_the_budget_cancels_the_waiting_ones(
    make_plan: Callable[..., Plan],
    tmp_path: Path,
    clock: ManualClock,
    expert_manifest: Make,
    merge_manifest: Make,
) -> None:
    """Three were estimated to fit, but the first took 2 s in place of 0.05 s."""
    plan = make_plan(budget={"cpu_hours": 16 / 3600}, tasks=SMALL)
    stage = set_up(plan, tmp_path=tmp_path, clock=clock)
    for trial in plan.trials:
        stage.ledger.add(expert_manifest(trial.longest, seconds=5.0))
    clock.now_s = 10
    stage.coordinator.submit_merges(stage.ledger.state().ready_merges)
    assert len(stage.submitted) == 3
    first = stage.submitted[0]
    stage.coordinator.job_ended(JobEnd(job=first, manifest=merge_manifest(first.argument)))
    assert not stage.coordinator.may_go_on()
    assert stage.cancelled == [3]


def test_trial_that_ran_out_of_memory_has_not_failed(
    make_plan: Callable[..., Plan], tmp_path: Path, clock: ManualClock
) -> None:
    """It is tried with more of a GPU and with smaller batches, beyond the study's retries."""
    plan = make_plan(resources={"trial": {"gpu": 0.5}})
    stage = set_up(plan, tmp_path=tmp_path, clock=clock)
    trial = plan.trials[0]
    error = DeviceMemoryError("CUDA out of memory")
    for memory in ("1 GPUs", "1 GPUs and micro-batches of 4 images", "of 2 images", "of 1 images"):
        stage.coordinator.memory_shares.of(trial.id)  # the cluster asks before each try
        fail_trial(stage, error)
        assert stage.state.notes[-1].endswith(memory)
        assert trial in stage.ledger.state().runnable_trainings
    stage.coordinator.memory_shares.of(trial.id)
    fail_trial(stage, error)
    assert trial not in stage.ledger.state().runnable_trainings
    (hole,) = [each for each in stage.ledger.state().holes() if each.id == trial.id]
    assert hole.outcome is Outcome.FAILED
    assert "CUDA out of memory (tried 1x, as it would fail again" in hole.reason
