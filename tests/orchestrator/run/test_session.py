"""Sessions without Ray: a fake cluster runs jobs when the session waits and trials one by one."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from eval.images.protocol import BadImageError, BadImagesError
from orchestrator.cluster.jobs import Job, JobEnd, JobKind
from orchestrator.cluster.protocol import MetricValue, TrialListener, TrialSettings
from orchestrator.environment.problems import NoRoomError
from orchestrator.plan.measurements import constants_of, reaches_of
from orchestrator.progress.state import InUse, parse_progress
from orchestrator.run.opened import OpenedStudy, open_study
from orchestrator.run.session import Session
from orchestrator.run.stages import PreparationError
from orchestrator.study.reader import parse_study
from orchestrator.study.resources import Resources, Share
from orchestrator.tracking.mlflow_run import MlflowRun
from workers.artifacts.manifests import Manifest
from workers.specs.training import TrialSpec
from workers.store.protocol import StoreFullError

Make = Callable[..., Manifest]
PREPARATION = ["prepare_base", *["prepare_data"] * 3]
FINISHED = [*PREPARATION, *["trial"] * 3, *["run_merge"] * 3]
SMALL_TASKS = {"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_test": 50}


class FakeFairShare:
    """A fair share of two slots, without other studies."""

    num_slots = 2

    def __init__(self) -> None:
        self.stages: list[Share] = []

    def max_slots(self, share: Share) -> int:
        """Returns the two slots."""
        return 2 if share else 0

    def check_room(self, share: Share) -> None:
        """Has room for eight cores."""
        if share.cpu > 8:
            raise NoRoomError("too large")

    def describe(self) -> str:
        """Returns nothing, as for a study that is alone."""
        return ""

    def reporting(self) -> AbstractContextManager[None]:
        """Reports nothing."""
        return nullcontext()

    def begin_stage(
        self, share: Share, *, num_wanted: Callable[[], int], set_slots: Callable[[int], None]
    ) -> None:
        """Hands out the slots at once."""
        self.stages.append(share)
        set_slots(min(self.num_slots, num_wanted()))

    def wait_for_slot(self, stopping: threading.Event) -> bool:
        """Has a slot always."""
        return not stopping.is_set()


class FakePool:
    """A pool that runs one job whenever it is asked whether it is idle."""

    def __init__(self, run: Callable[[Job], JobEnd]) -> None:
        self._run = run
        self._waiting: list[Job] = []
        self.is_closed = False
        self.sizes: list[int] = []

    def start(self, on_end: Callable[[JobEnd], None], **_: object) -> None:
        """Keeps the callback."""
        self._on_end = on_end

    def resize(self, num_workers: int, *, reserve: bool) -> None:
        """Notes the number of workers; a machine of two slots reserves none."""
        assert not reserve
        self.sizes.append(num_workers)

    def submit(self, job: Job) -> None:
        """Queues a job."""
        self._waiting.append(job)

    def cancel_waiting(self) -> None:
        """Empties the queue."""
        self._waiting.clear()

    def num_waiting(self) -> int:
        """Returns the length of the queue."""
        return len(self._waiting)

    def num_unfinished(self) -> int:
        """Returns the same, as no job is running between two calls."""
        return len(self._waiting)

    def is_idle(self) -> bool:
        """Runs the first job of the queue."""
        if self._waiting:
            self._on_end(self._run(self._waiting.pop(0)))
        return not self._waiting

    def close(self) -> None:
        """Notes the end."""
        self.is_closed = True


@dataclass(kw_only=True)
class FakeCluster:
    """A cluster that does everything in the session's own thread and keeps a list of it."""

    manifest_of: Callable[[Any], Manifest]
    """Makes the manifest of a job's or an expert's specification."""
    events: list[str] = field(default_factory=list)
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    """The errors with which trials (by id) and jobs (by kind) fail, one for each try."""
    on_trial: Callable[[str], None] = lambda _: None
    """Is called after a trial has started."""
    is_connected: bool = False
    pool: FakePool | None = None
    share: FakeFairShare = field(default_factory=FakeFairShare)

    @contextmanager
    def connected(self, on_lost: Callable[[str], None]) -> Iterator[None]:
        """Is connected for the length of the block."""
        assert callable(on_lost)
        self.is_connected = True
        yield
        self.is_connected = False

    def fair_share(self, study: str, *, resources: Resources, note: object) -> FakeFairShare:
        """Returns the two slots."""
        assert study
        assert resources
        assert note
        return self.share

    def worker_pool(self, *, store_url: str, share: Share) -> FakePool:
        """Returns a pool of this cluster."""
        assert self.is_connected
        assert store_url
        assert share
        self.pool = FakePool(self._run_job)
        return self.pool

    def run_trials(
        self,
        trials: Sequence[TrialSpec],
        *,
        settings: TrialSettings,
        num_slots: Callable[[], int],
        listener: TrialListener,
        stopping: threading.Event,
    ) -> None:
        """Runs one trial after another, as long as it may."""
        assert settings.checkpoint_every_s > 0
        assert num_slots() == 2
        for trial in trials:
            if stopping.is_set() or not listener.may_go_on():
                return
            if listener.may_start(trial.id):
                self._run_trial(trial, listener=listener, stopping=stopping)

    def _run_trial(
        self, trial: TrialSpec, *, listener: TrialListener, stopping: threading.Event
    ) -> None:
        self.events.append("trial")
        listener.trial_started(trial.id)
        self.on_trial(trial.id)
        if errors := self.errors.get(trial.id):
            error = errors.pop(0)
            listener.trial_failed(
                trial.id, error=error, reason=str(error), trace="trace", is_lost=False
            )
        elif not stopping.is_set():
            committed = [self.manifest_of(expert) for expert in trial.outputs]
            listener.trial_progressed(trial.id, step=10, loss=0.5, committed=committed)
            listener.trial_finished(trial.id)

    def _run_job(self, job: Job) -> JobEnd:
        self.events.append(job.kind.value)
        if errors := self.errors.get(job.kind):
            return JobEnd(job=job, error=errors.pop(0), trace="trace")
        is_spec = job.kind is JobKind.MERGE or job.kind.is_measurement
        spec = job.argument if is_spec else job.argument.spec
        return JobEnd(job=job, manifest=self.manifest_of(spec))

    def exporting_metrics(
        self, read: Callable[[], Iterable[MetricValue]], *, study: str
    ) -> AbstractContextManager[None]:
        """Exports once."""
        assert study
        assert list(read())
        return nullcontext()

    def lacking(
        self, *, packages: Sequence[str], methods: Mapping[str, str], store_url: str
    ) -> Sequence[str]:
        """Returns that a node lacks every package and method."""
        assert store_url
        return [*packages, *(f"on node a: {name} of {each}" for name, each in methods.items())]

    def in_use(self) -> tuple[InUse, ...]:
        """Returns the cores in use."""
        return (InUse(name="CPU", used=1, total=2),)


class FakeTracker:
    """A tracker that keeps the runs which it is given."""

    def __init__(self) -> None:
        self.published: list[MlflowRun] = []

    def publish(self, run: MlflowRun) -> None:
        """Keeps a run."""
        self.published.append(run)

    def state(self) -> str:
        """Returns that all is well."""
        return "ok"


@dataclass(kw_only=True)
class Setup:
    """A session on a fake cluster."""

    session: Session
    cluster: FakeCluster
    tracker: FakeTracker
    written: list[bytes] = field(default_factory=list)
    """The progress that the session has published."""

    @property
    def opened(self) -> OpenedStudy:
        """Returns the study."""
        return self.session.opened

    def run(self) -> str:
        """Runs the session; returns the printed lines."""
        printed = StringIO()
        self.session.run(Console(file=printed, width=200))
        return printed.getvalue()


@pytest.fixture
def make_setup(
    study_fields: Callable[..., dict[str, Any]], expert_manifest: Make, merge_manifest: Make
) -> Callable[..., Setup]:
    """Makes sessions of the small study: three trials, three merges of two."""

    def make(*, seconds: float = 0.1, **changes: object) -> Setup:
        text = yaml.safe_dump(study_fields(**changes))
        opened = open_study(parse_study(text, source="study.yaml"), text=text)

        def manifest_of(spec: Any) -> Manifest:  # noqa: ANN401 any specification
            if spec.id in opened.plan.merges:
                return merge_manifest(spec)
            if spec.id in opened.plan.experts:
                return expert_manifest(spec, seconds=seconds)
            template = expert_manifest(next(iter(opened.plan.experts.values())))
            kind = "base" if spec.id in opened.plan.bases.by_id else "data"
            return replace(template, kind=kind, id=spec.id, seconds={})

        cluster, tracker, written = FakeCluster(manifest_of=manifest_of), FakeTracker(), []
        session = Session(
            opened=opened,
            cluster=cluster,
            tracker=tracker,
            stopping=threading.Event(),
            on_cluster_lost=pytest.fail,
            write_progress=written.append,
        )
        return Setup(session=session, cluster=cluster, tracker=tracker, written=written)

    return make


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    """Returns a session of the small study on an empty store."""
    return make_setup()


def test_run_prepares_then_trains_then_merges(setup: Setup) -> None:
    """Each artifact is made once, and the pool is closed at the end."""
    setup.run()
    assert setup.cluster.events == FINISHED
    assert setup.opened.ledger.state().is_finished
    assert setup.cluster.pool is not None
    assert setup.cluster.pool.is_closed
    assert not setup.cluster.is_connected


def test_each_stage_has_its_own_share_of_the_cluster(make_setup: Callable[..., Setup]) -> None:
    """Slots are of the size of merge jobs, of trials, and of merge jobs again."""
    resources = {"trial": {"cpu": 2}, "merge": {"cpu": 1}}
    setup = make_setup(resources=resources)
    setup.run()
    assert [share.cpu for share in setup.cluster.share.stages] == [1, 2, 1]


def test_share_without_room_ends_the_run_before_anything_is_scheduled(
    make_setup: Callable[..., Setup],
) -> None:
    """Preparation alone needs no trial's share, so it goes on."""
    setup = make_setup(resources={"trial": {"cpu": 99}, "merge": {"cpu": 1}})
    with pytest.raises(NoRoomError):
        setup.run()
    assert setup.cluster.events == []
    setup.session.prepare(Console(file=StringIO()))
    assert setup.cluster.events == PREPARATION


def test_mlflow_run_that_cannot_be_made_fails_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracking is a view: the run goes on, and a line says what MLflow lacks."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("too long a name")

    monkeypatch.setattr("orchestrator.run.session.mlflow_run_of", fail)
    printed = setup.run()
    assert setup.opened.ledger.state().is_finished
    first = next(iter(setup.opened.plan.experts))
    assert f"MLflow lacks expert {first}: ValueError: too long a name" in printed


def test_signal_while_jobs_run_is_said_and_stops_the_run(setup: Setup) -> None:
    """The user knows that the signal has arrived, and what a second one would do."""
    stops: list[Callable[[], None]] = []

    @contextmanager
    def stopping_signals(stop: Callable[[], None]) -> Iterator[None]:
        stops.append(stop)
        yield
        stops.clear()

    setup.session.stopping_signals = stopping_signals
    setup.cluster.on_trial = lambda _: stops[0]()
    printed = setup.run()
    assert setup.cluster.events == [*PREPARATION, "trial"]
    assert "stopping: running trials leave checkpoints; a second Ctrl-C ends" in printed


def test_preparation_alone_makes_base_and_images(setup: Setup) -> None:
    """No trial starts, and nothing is published."""
    setup.session.prepare(Console(file=StringIO()))
    assert setup.cluster.events == PREPARATION
    assert setup.tracker.published == []


def test_measurements_run_as_jobs_beside_the_plan(setup: Setup) -> None:
    """One that fails is named with its reason; the ledger has none of them."""
    specs = [*constants_of(setup.opened.plan), *reaches_of(setup.opened.plan)]
    setup.cluster.errors[JobKind.REACH] = [ValueError("too few images")]
    failed = setup.session.measure(specs, console=Console(file=StringIO()))
    assert setup.cluster.events == [*["measure_constants"] * 3, *["measure_reach"] * 3]
    assert failed == {specs[3].id: "ValueError: too few images"}
    assert setup.opened.ledger.state().counts().num_failed == 0
    assert setup.tracker.published == []


def test_store_fault_in_a_measurement_ends_the_session(setup: Setup) -> None:
    """It is no failure of the measurement."""
    setup.cluster.errors[JobKind.CONSTANTS] = [StoreFullError("no space left")]
    with pytest.raises(StoreFullError):
        setup.session.measure(constants_of(setup.opened.plan), console=Console(file=StringIO()))


def test_prepared_artifacts_are_not_prepared_again(setup: Setup) -> None:
    """Only the artifacts that the store lacks are made."""
    base, first, *_ = setup.opened.plan.bases.jobs[0].spec, *setup.opened.plan.datasets
    opened = replace(setup.opened, prepared=frozenset({base.id, first.id}))
    setup.session.opened = opened
    setup.session.prepare(Console(file=StringIO()))
    assert setup.cluster.events == ["prepare_data"] * 2


def test_failed_preparation_ends_the_run_before_any_trial(setup: Setup) -> None:
    """Without its images nothing can run; the other preparations end first."""
    setup.cluster.errors[JobKind.IMAGES] = [ValueError("x.png is not an image")]
    with pytest.raises(PreparationError, match=r"ValueError: x\.png is not an image"):
        setup.run()
    assert setup.cluster.events == PREPARATION
    assert setup.cluster.pool is not None
    assert setup.cluster.pool.is_closed


def test_bad_images_of_all_tasks_end_the_run_together(setup: Setup) -> None:
    """No job is tried twice, and the error has the kind of bad input."""
    setup.cluster.errors[JobKind.IMAGES] = [
        BadImagesError(task, num_images=1, first=[BadImageError(f"{task}.png", "is torn")])
        for task in ("a", "b")
    ]
    with pytest.raises(
        PreparationError, match=r"(?s)2 images cannot be used:\n.*a\.png.*b\.png"
    ) as caught:
        setup.run()
    assert caught.value.is_input_wrong
    assert setup.cluster.events == PREPARATION


def test_store_fault_in_a_trial_ends_the_run_with_the_fault(setup: Setup) -> None:
    """No further trial and no merge starts, and no failure is counted."""
    first = setup.opened.plan.trials[0]
    setup.cluster.errors[first.id] = [StoreFullError("no space left")]
    with pytest.raises(StoreFullError, match="no space left"):
        setup.run()
    assert setup.cluster.events == [*PREPARATION, "trial"]
    assert setup.session.stopping.is_set()
    assert setup.opened.ledger.state().counts().num_failed == 0
    assert setup.cluster.pool is not None
    assert setup.cluster.pool.is_closed


def test_store_fault_in_a_merge_ends_the_run_with_the_fault(setup: Setup) -> None:
    """The merge is left to the next run."""
    setup.cluster.errors[JobKind.MERGE] = [StoreFullError("no space left")]
    with pytest.raises(StoreFullError):
        setup.run()
    assert setup.cluster.events == [*PREPARATION, *["trial"] * 3, "run_merge"]


def test_error_of_the_pool_ends_the_run(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver's store may fail in the pool's thread; the workers are ended all the same."""

    def fail(_: FakePool) -> bool:
        raise StoreFullError(str(tmp_path))

    monkeypatch.setattr(FakePool, "is_idle", fail)
    with pytest.raises(StoreFullError):
        setup.run()
    assert setup.cluster.pool is not None
    assert setup.cluster.pool.is_closed


def test_reached_budget_starts_nothing_more(make_setup: Callable[..., Setup]) -> None:
    """The first trial takes a hundred times its estimate, so nothing else starts."""
    setup = make_setup(seconds=20.0, budget={"cpu_hours": 10 / 3600}, tasks=SMALL_TASKS)
    printed = setup.run()
    assert setup.cluster.events == [*PREPARATION, "trial"]
    assert "the budget is reached" in printed
    assert not setup.session.stopping.is_set()
    counts = setup.opened.ledger.state().counts()
    assert (counts.num_experts_done, counts.num_merges_done) == (1, 0)


def test_stopped_run_starts_nothing_more(setup: Setup) -> None:
    """A stop in the first trial ends the session without an error."""
    setup.cluster.on_trial = lambda _: setup.session.stopping.set()
    setup.run()
    assert setup.cluster.events == [*PREPARATION, "trial"]
    assert setup.opened.ledger.state().counts().num_experts_done == 0


def test_run_that_is_stopped_while_it_prepares_trains_nothing(setup: Setup) -> None:
    """The stop takes effect after the running job."""
    setup.session.stopping.set()
    setup.run()
    assert "trial" not in setup.cluster.events


def test_failed_trial_runs_again_in_the_next_round(setup: Setup) -> None:
    """After its retry the study is finished."""
    first = setup.opened.plan.trials[0]
    setup.cluster.errors[first.id] = [OSError("disk")]
    setup.run()
    assert setup.cluster.events == [*PREPARATION, *["trial"] * 4, *["run_merge"] * 3]
    assert setup.opened.ledger.state().is_finished


def test_trials_that_a_round_left_out_are_in_the_next_one(setup: Setup) -> None:
    """Rounds follow each other until no trial is left that may run."""
    rounds: list[int] = []
    run_trials = setup.cluster.run_trials

    def noting(trials: Sequence[TrialSpec], **options: Any) -> None:  # noqa: ANN401 passed on
        rounds.append(len(trials))
        run_trials(trials[:1], **options)

    setup.cluster.run_trials = noting  # type: ignore[method-assign]
    setup.run()
    assert rounds == [3, 2, 1]


def test_each_expert_and_merge_is_published_once(setup: Setup) -> None:
    """Bases and images have no MLflow run."""
    setup.run()
    assert len({run.key for run in setup.tracker.published}) == 6
    assert len(setup.tracker.published) == 6


def test_last_published_progress_has_everything_done(setup: Setup) -> None:
    """A watcher sees the end of the run and the allocated resources."""
    setup.run()
    last = parse_progress(setup.written[-1])
    assert last is not None
    assert last.stage == "stopping"
    assert {each.name: each.num_done for each in last.stages} == {
        "images": 3,
        "experts": 3,
        "merges": 3,
    }
    assert last.in_use == (InUse(name="CPU", used=1, total=2),)


def test_nodes_without_a_users_package_are_refused_before_anything_runs(
    make_setup: Callable[..., Setup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The method's distribution and version are named, and nothing was scheduled."""
    about = tmp_path / "site" / "my_methods-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-methods\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[mergesweep.methods]\nmine = my_own_methods:Mine\n")
    template = files("orchestrator.study") / "templates" / "my_method.txt"
    code = template.read_text("utf-8").replace("Median =", "Mine =")
    (tmp_path / "site" / "my_own_methods.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}:{Path(__file__).parents[3]}")
    setup = make_setup(merge=[{"method": "package:mine"}])
    with pytest.raises(PreparationError, match=r"on node a: mine of my-methods==1\.2") as caught:
        setup.run()
    assert caught.value.is_input_wrong
    assert setup.cluster.events == []
