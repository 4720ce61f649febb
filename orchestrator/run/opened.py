"""A study together with its store: its plan, and what of it exists already."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from eval.task_source import TaskSource
from orchestrator.costs.budget import Allowance
from orchestrator.costs.calibration import fitting_calibration, read_calibrations
from orchestrator.costs.sizes import sizes_by_base
from orchestrator.plan.groups import Group
from orchestrator.plan.plan import Plan, build_plan, group_sampling, plan_digest
from orchestrator.record.folder import (
    TRACKING_FILE,
    UNFINISHED_FILE,
    StudyDamagedError,
    StudyFolder,
)
from orchestrator.record.ledger import Ledger
from orchestrator.record.outputs import OUTPUTS_FILE, output_problems
from orchestrator.study.reader import absolute_store, parse_study
from orchestrator.study.schema import Study
from orchestrator.tracking.tracker import PublishReport
from workers.artifacts.artifacts import Artifacts, BrokenManifestsError
from workers.artifacts.manifests import Manifest
from workers.artifacts.sealed import seal
from workers.calibrate.speeds import Calibration
from workers.store.opening import open_store

NUM_BROKEN_NAMED = 5
"""Broken artifacts that an error names; `verify` names all."""


@dataclass(frozen=True, kw_only=True)
class OpenedStudy:
    """Everything that commands on a study start from."""

    plan: Plan
    ledger: Ledger
    text: str
    """The study file, as written."""
    folder: StudyFolder
    artifacts: Artifacts
    store_url: str
    """Absolute, so that workers in other directories find it."""
    tracking_uri: str
    prepared: frozenset[str]
    """Ids of the bases, images and zero-shot heads that are committed."""
    calibration: Calibration | None
    """What the study's workers were timed at, if they were."""
    allowance: Allowance
    """What the study's budget still allows."""

    def note_published(self, report: PublishReport) -> None:
        """Remembers what MLflow has, so that the next run and the report need not ask it."""
        pending = f"{report.num_pending} runs ({report.error})" if report.num_pending else None
        content = {"uri": self.tracking_uri, "content": self._content_digest(), "lacks": pending}
        self.folder.write_bytes(TRACKING_FILE, json.dumps(content).encode())

    def lacks_in_mlflow(self) -> str | None:
        """Returns what MLflow did not take when a run last ended, None if it took everything."""
        content = self.folder.read_bytes(TRACKING_FILE)
        try:
            noted = json.loads(content) if content else {}
        except ValueError:
            return None  # damaged: the next run sends everything again
        return noted.get("lacks") if isinstance(noted, dict) else None

    def is_prepared(self) -> bool:
        """Tells whether the first bases, the heads and the images of all tasks are committed."""
        plan = self.plan
        bases = (job.spec.id for job in plan.bases.jobs)
        heads = (job.spec.id for job in plan.heads.values())
        return {*bases, *heads, *(job.id for job in plan.data_jobs)} <= self.prepared

    def note_unfinished(self) -> None:
        """Remembers what trials took that are not committed, for later runs to count."""
        seconds = self.allowance.unfinished_s()
        if self.allowance.is_limited or self.folder.read_bytes(UNFINISHED_FILE) is not None:
            fields = {"study": self.folder.name, "seconds": seconds}
            self.folder.write_bytes(UNFINISHED_FILE, seal(fields))

    def has_room(self) -> bool:
        """Tells whether the budget has room for any of what is left."""
        choice = self.allowance.choice()
        return bool(choice.chosen) or not choice.left_out

    def is_finished(self) -> bool:
        """Tells whether a run would make nothing: no artifact that can be made is missing."""
        needed = set().union(*self.plan.prepared_ids.values())
        return needed <= self.prepared and self.ledger.state().is_finished

    def is_published(self) -> bool:
        """Tells whether tables, report and MLflow have everything that is committed.

        Tables or a report that are gone or damaged are not there, nor is a damaged note of what
        MLflow has.
        """
        content = self.folder.read_bytes(TRACKING_FILE)
        if content is None or self.folder.read_bytes(OUTPUTS_FILE) is None:
            return False
        expected = {
            "uri": self.tracking_uri,
            "content": self._content_digest(),
            "lacks": None,
        }
        return _is_json(content, expected) and not output_problems(self.folder)

    def _content_digest(self) -> str:
        counts = self.ledger.state().counts()
        return f"{plan_digest(self.plan)} {counts.num_experts_done} {counts.num_merges_done}"


def open_study(
    study: Study, *, text: str, recorded: Mapping[str, TaskSource] | None = None
) -> OpenedStudy:
    """Opens a study's store and reads what it has of the plan; writes nothing.

    Args:
        study: A checked study.
        text: The study file, as written.
        recorded: Own tasks as an earlier plan of it found them, whose files need not be here.

    Raises:
        StudyDamagedError: The plan in the store, or a manifest, is not as it was written.
        StoreError: The store fails while it is read.
    """
    store_url = absolute_store(study.store)
    store = open_store(store_url)
    artifacts, folder = Artifacts(store), StudyFolder(store, study.name)
    plan = build_plan(study, recorded=recorded)
    groups = _recorded_groups(folder, study=study)
    if groups is not None and groups != plan.groups:
        plan = build_plan(study, groups=groups, recorded=recorded)
    found = _committed(artifacts, plan=plan, folder=folder)
    ledger = Ledger(plan, manifests=[each for kind in found.values() for each in kind.values()])
    calibration = fitting_calibration(read_calibrations(folder), study=study)
    return OpenedStudy(
        plan=plan,
        ledger=ledger,
        text=text,
        folder=folder,
        artifacts=artifacts,
        store_url=store_url,
        tracking_uri=tracking_uri(study, store_url=store_url),
        prepared=frozenset(ledger.committed().prepared),
        calibration=calibration,
        allowance=Allowance(
            ledger,
            calibration=calibration,
            models=sizes_by_base(plan) if study.budget.limits() else None,
            unfinished_s=_unfinished_s(folder),
        ),
    )


def _recorded_groups(folder: StudyFolder, *, study: Study) -> tuple[Group, ...] | None:
    """Returns the groups of the stored plan, if the study would sample from the same inputs."""
    written = folder.read_plan()
    if written is None or written.sampling != group_sampling(study):
        return None
    return tuple(Group(name=name, tasks=tasks) for name, tasks in written.groups.items())


def _unfinished_s(folder: StudyFolder) -> dict[str, float]:
    """Returns what earlier runs spent on trials that were not committed; nothing if damaged."""
    try:
        fields = folder.read_sealed(UNFINISHED_FILE)
    except StudyDamagedError:
        return {}
    return dict(fields["seconds"]) if fields else {}


def _committed(
    artifacts: Artifacts, *, plan: Plan, folder: StudyFolder
) -> dict[str, dict[str, Manifest]]:
    """Returns the manifests of what the store has of a plan, by kind and id.

    Raises:
        StudyDamagedError: Some are broken.
    """
    wanted: dict[str, set[str]] = {
        **{
            kind: artifacts.committed_ids(kind) & ids
            for kind, ids in plan.prepared_ids.items()
            if ids
        },
        "expert": artifacts.committed_ids("expert") & plan.experts.keys(),
        "merge": artifacts.committed_ids("merge") & plan.merges.keys(),
    }
    found: dict[str, dict[str, Manifest]] = {}
    broken: list[str] = []
    for kind, ids in wanted.items():
        try:
            found[kind] = artifacts.find_all(kind, sorted(ids))
        except BrokenManifestsError as error:
            broken += [f"{kind} {each}" for each in error.problems]
    if broken:
        names = ", ".join(broken[:NUM_BROKEN_NAMED])
        more = f" and {len(broken) - NUM_BROKEN_NAMED} more" * (len(broken) > NUM_BROKEN_NAMED)
        raise folder.damaged(f"the manifests of {names}{more} are not as they were written")
    return found


def open_by_name(name: str, *, store_url: str, is_read_only: bool = False) -> OpenedStudy:
    """Opens a study from its store alone; read-only, nothing is written even to try the store.

    Raises:
        StudyNotFoundError: The store holds no study of this name.
        StudyDamagedError: The study, its plan or a manifest is not as it was written.
        StudyError: What the store holds under the name is no study that this release can run.
        StoreError: The store cannot be read.
    """
    location = absolute_store(store_url)
    folder = StudyFolder(open_store(location), name)
    text, plan = folder.read_study(), folder.read_plan()
    recorded = {} if plan is None else plan.own_sources()
    study = parse_study(
        text,
        source=f"{name} in {store_url}",
        store=location,
        recorded=recorded,
        checks_store=not is_read_only,
    )
    return open_study(study, text=text, recorded=recorded)


def tracking_uri(study: Study, *, store_url: str) -> str:
    """Returns where MLflow keeps the study's runs: as the study says, or beside the store."""
    if study.tracking is not None:
        return study.tracking
    parts = urlsplit(store_url)
    folder = Path.cwd() if parts.scheme == "s3" else Path(parts.path)
    return f"sqlite:///{folder / 'mlflow.db'}"


def _is_json(content: bytes, expected: object) -> bool:
    try:
        return bool(json.loads(content) == expected)
    except ValueError:
        return False
