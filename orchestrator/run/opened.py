"""Opens a study: its file, its plan, and the artifacts of the plan that its store has."""

import gc
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eval.task_source import TaskSource
from orchestrator.costs.budget import BudgetKeeper
from orchestrator.costs.calibration import fitting_calibration, read_calibrations
from orchestrator.costs.gpu_packing import with_measured_gpu
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.plan.candidates import Decision
from orchestrator.plan.groups import Group
from orchestrator.plan.plan import Plan, build_plan, group_sampling, plan_digest
from orchestrator.record.external import read_external
from orchestrator.record.folder import (
    TRACKING_FILE,
    UNFINISHED_FILE,
    StudyDamagedError,
    StudyFolder,
)
from orchestrator.record.ledger import Ledger
from orchestrator.record.outputs import OUTPUTS_FILE, output_problems
from orchestrator.run.growth import decisions_of, may_grow, with_new_decisions
from orchestrator.run.stored_manifests import MIN_INDEXED, stored_manifests
from orchestrator.study.checks.models import resized_models
from orchestrator.study.reader import absolute_store, parse_study
from orchestrator.study.schema import Study
from orchestrator.tracking.database import database_path, database_uri, located
from orchestrator.tracking.figures_folder import kept_beside
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.checksummed_json import dump_checksummed
from workers.artifacts.manifest_index import ManifestIndex
from workers.calibrate.speeds import Calibration
from workers.specs.plan_file import PlanFile
from workers.store.opening import check_store, open_store


@dataclass(frozen=True, kw_only=True)
class OpenedStudy:
    """A study with its plan, its store and the records of its committed artifacts."""

    ledger: Ledger
    text: str
    """The study file, as written."""
    folder: StudyFolder
    artifacts: Artifacts
    index: ManifestIndex
    """Copies of the manifests, for the next run."""
    store_url: str
    """Absolute, as workers run in other directories."""
    tracking_uri: str
    prepared: frozenset[str]
    """Ids of the bases, images and zero-shot heads that are committed."""
    calibration: Calibration | None
    """Measured times of the study's work on workers like its own; None if it was not calibrated."""
    budget_keeper: BudgetKeeper
    """The rest of the study's budget."""

    @property
    def plan(self) -> Plan:
        """The study's plan; that of a search grows while the search goes on."""
        return self.ledger.plan

    def reopened(self) -> "OpenedStudy":
        """Returns the study with the artifacts that its store has now.

        Raises:
            StudyDamagedError, StoreError: As `open_study` does.
        """
        return _open_study(
            text=self.text,
            build=lambda: with_new_decisions(self.plan, folder=self.folder),
            written=self.folder.read_plan(),
            before=self,
        )

    def note_published(self, report: PublishReport) -> None:
        """Stores whether MLflow has everything, so that the next run need not ask it."""
        pending = f"{report.num_pending} runs ({report.error})" if report.num_pending else None
        note = self._tracking_note(lacks=pending)
        self.folder.write_bytes(TRACKING_FILE, json.dumps(note).encode())

    def missing_in_mlflow(self) -> str | None:
        """Returns the MLflow runs that MLflow did not take when a run last ended, None if none."""
        content = self.folder.read_bytes(TRACKING_FILE)
        try:
            noted = json.loads(content) if content else {}
        except ValueError:
            return None  # garbled: the next run sends everything again
        return noted.get("lacks") if isinstance(noted, dict) else None

    def is_prepared(self) -> bool:
        """Returns whether all images, heads and bases are committed, pretrained bases aside."""
        plan = self.plan
        bases = (job.spec.id for job in plan.bases.jobs)
        heads = (job.spec.id for job in plan.heads.values())
        return {*bases, *heads, *(job.id for job in plan.data_jobs)} <= self.prepared

    def note_unfinished(self) -> None:
        """Stores the seconds spent on uncommitted trials, for the budget of later runs."""
        seconds = self.budget_keeper.unfinished_s()
        if self.budget_keeper.is_limited or self.folder.read_bytes(UNFINISHED_FILE) is not None:
            fields = {"study": self.folder.name, "seconds": seconds}
            self.folder.write_bytes(UNFINISHED_FILE, dump_checksummed(fields))

    def has_room(self) -> bool:
        """Returns whether any missing artifact fits the budget, or nothing is missing."""
        allocation = self.budget_keeper.allocation()
        return bool(allocation.affordable) or not allocation.left_out

    def is_finished(self) -> bool:
        """Returns whether a run would make nothing: no artifact that can be made is missing."""
        if may_grow(self.ledger):
            return False
        needed = set().union(*self.plan.prepared_ids.values())
        return needed <= self.prepared and self.ledger.state().is_finished

    def is_published(self) -> bool:
        """Returns whether tables, report and MLflow have every committed artifact.

        Missing or damaged tables, reports and notes on MLflow count as not published, and so do a
        database of MLflow and figures beside it that were there and are missing.
        """
        content = self.folder.read_bytes(TRACKING_FILE)
        if content is None or self.folder.read_bytes(OUTPUTS_FILE) is None:
            return False
        expected = self._tracking_note(lacks=None)
        return _is_json(content, expected) and not output_problems(self.folder)

    def _tracking_note(self, *, lacks: str | None) -> dict[str, object]:
        """Returns the note on what MLflow has and lacks now, if it was just sent everything."""
        database = database_path(self.tracking_uri)
        return {
            "uri": self.tracking_uri,
            "content": self._content_digest(),
            "lacks": lacks,
            "kept": kept_beside(database, study=self.folder.name) if database is not None else [],
        }

    def _content_digest(self) -> str:
        counts = self.ledger.state().counts()
        return f"{plan_digest(self.plan)} {counts.num_experts_done} {counts.num_merges_done}"


def open_study(
    study: Study,
    *,
    text: str,
    recorded: Mapping[str, TaskSource] | None = None,
    resized: Collection[str] = (),
) -> OpenedStudy:
    """Opens a study's store and reads which artifacts of the plan it has; writes nothing.

    Args:
        study: A checked study.
        text: The study file, as written.
        recorded: Own tasks as an earlier plan recorded them; their files need not be on this
            machine.
        resized: The models that must be built for the study's image size.

    Raises:
        StudyDamagedError: The stored plan or a manifest differs from its digest.
        StoreError: The store cannot be read.
    """
    folder = StudyFolder(open_store(absolute_store(study.store)), study.name)
    return _open_study(
        text=text,
        build=lambda: _first_plan(study, folder=folder, recorded=recorded, resized=resized),
        written=folder.read_plan(),
        before=None,
    )


def _first_plan(
    study: Study,
    *,
    folder: StudyFolder,
    recorded: Mapping[str, TaskSource] | None,
    resized: Collection[str],
) -> Plan:
    """Returns a study's plan with the decisions of its search so far."""

    def make_plan(decisions: Sequence[Decision]) -> Plan:
        return build_plan(study, recorded=recorded, resized=resized, decisions=decisions)

    return make_plan(decisions_of(study, folder=folder, make_plan=make_plan))


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pauses Python's search for circular garbage while millions of objects are made that stay.

    It would look at all of them again and again: 40 % of the time to parse 10,000 manifests.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _open_study(
    *,
    text: str,
    build: Callable[[], Plan],
    written: PlanFile | None,
    before: OpenedStudy | None,
) -> OpenedStudy:
    """Opens a study.

    Args:
        text: The study file, as written.
        build: Makes the plan, with groups of its own.
        written: The plan in the store.
        before: The study as it was opened a moment ago, if it was.
    """
    with _paused_garbage_collection():
        plan = _with_groups(build(), written=written)
        opened = _open_plan(plan, text=text, before=before)
        if len(plan.experts) + len(plan.merges) >= MIN_INDEXED:
            gc.freeze()  # the next search, too, would begin with all of them
    return opened


def _with_groups(plan: Plan, *, written: PlanFile | None) -> Plan:
    """Returns a plan with the groups of the stored plan, if the study would sample alike."""
    if written is None or written.sampling != group_sampling(plan.study):
        return plan
    groups = tuple(Group(name=name, tasks=tasks) for name, tasks in written.groups.items())
    if groups == plan.groups:
        return plan
    resized = plan.bases.resized_models
    return build_plan(
        plan.study,
        groups=groups,
        recorded=plan.sources,
        resized=resized,
        decisions=plan.decisions,
    )


def _open_plan(plan: Plan, *, text: str, before: OpenedStudy | None) -> OpenedStudy:
    study = plan.study
    store_url = absolute_store(study.store)
    store = open_store(store_url)
    artifacts, folder = Artifacts(store), StudyFolder(store, study.name)
    calibration = fitting_calibration(read_calibrations(folder), study=study)
    measured = with_measured_gpu(study, calibration=calibration)
    if measured is not study:
        plan = replace(plan, study=measured)
    index = ManifestIndex(store, study=study.name) if before is None else before.index
    known = [] if before is None else before.ledger.committed().manifests
    ledger = Ledger(
        plan,
        manifests=stored_manifests(artifacts, plan=plan, folder=folder, index=index, known=known),
        external=read_external(folder),
    )
    return OpenedStudy(
        ledger=ledger,
        text=text,
        folder=folder,
        artifacts=artifacts,
        index=index,
        store_url=store_url,
        tracking_uri=tracking_uri(study, store_url=store_url),
        prepared=frozenset(ledger.committed().prepared),
        calibration=calibration,
        budget_keeper=BudgetKeeper(
            ledger,
            calibration=calibration,
            models=sizes_by_base(plan) if study.budget.limits() else None,
            unfinished_s=_unfinished_s(folder),
        ),
    )


def _unfinished_s(folder: StudyFolder) -> dict[str, float]:
    """Returns the seconds that earlier runs spent on uncommitted trials; empty if garbled."""
    try:
        fields = folder.read_checksummed(UNFINISHED_FILE)
    except StudyDamagedError:
        return {}
    return dict(fields["seconds"]) if fields else {}


def open_by_name(name: str, *, store_url: str, is_read_only: bool = False) -> OpenedStudy:
    """Opens a study from its store alone.

    Args:
        name: The study's name.
        store_url: The store that has the study.
        is_read_only: Do not even write an object to test the store.

    Raises:
        StudyNotFoundError: The store has no study of this name.
        StudyDamagedError: The stored study, its plan or a manifest differs from its digest.
        StudyError: This release cannot run the stored study.
        StoreError: The store cannot be read.
    """
    location = absolute_store(store_url)
    check_store(location, writes=False)  # an unreachable server is repeated for a minute elsewhere
    folder = StudyFolder(open_store(location), name)
    text, plan = folder.read_study_and_plan()
    recorded = {} if plan is None else plan.own_sources()
    study = parse_study(
        text,
        source=f"{name} in {store_url}",
        store=location,
        recorded=recorded,
        methods={} if plan is None else plan.own_methods(),
        checks_store=not is_read_only,
    )
    resized = resized_models(study) if plan is None else plan.resized_models()
    return _open_study(
        text=text,
        build=lambda: _first_plan(study, folder=folder, recorded=recorded, resized=resized),
        written=plan,
        before=None,
    )


def tracking_uri(study: Study, *, store_url: str) -> str:
    """Returns the address of MLflow: the study's own, or else a database beside the store."""
    if study.tracking is not None:
        return located(study.tracking)
    folder = Path.cwd() if store_url.startswith("s3:") else Path(open_store(store_url).url)
    return database_uri(folder / "mlflow.db")


def _is_json(content: bytes, expected: object) -> bool:
    try:
        return bool(json.loads(content) == expected)
    except ValueError:
        return False
