"""Reads every byte of a study's artifacts and files again, and withdraws broken ones."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import build_plan
from orchestrator.record.decisions import damaged_decisions, recorded_decisions
from orchestrator.record.external import read_external
from orchestrator.record.folder import (
    EXPERTS_FILE,
    EXTERNAL_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    STUDY_FILE,
    StudyDamagedError,
    StudyFolder,
    StudyNotFoundError,
    study_problem,
)
from orchestrator.record.measurements import measured_from
from orchestrator.record.outputs import OUTPUTS_FILE, output_problems, promised_artifacts
from orchestrator.study.checks.models import resized_models
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from workers.artifacts.artifacts import Artifacts, CheckResult
from workers.artifacts.layout import ArtifactAddress, Layout
from workers.own_methods.loading import stored_file
from workers.own_methods.sources import OwnMethodError
from workers.specs.measures import MEASURED_KINDS
from workers.specs.plan_file import PLAN_FILE, PlanFile
from workers.store.protocol import Store

FILE = "file"
"""The kind of a fault in a file of the study's own folder."""
_TABLES = {RESULTS_FILE, EXPERTS_FILE, REPORT_FILE}
_OWN_FILES = {STUDY_FILE, PLAN_FILE, OUTPUTS_FILE, EXTERNAL_FILE, *_TABLES}

_REMADE = "made again by the next run"
_REMEASURED = "made again by `mergesweep measure`"
_REWRITTEN = "rewritten by the next run"
_SCORED = "`mergesweep score` scores external files again"
_RESTORE = "restore it from your own copy, then run the study again"

Ids = Mapping[str, AbstractSet[str]]
"""Ids of artifacts by kind."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One artifact or file that differs from the bytes that were written, or that is gone."""

    kind: str
    """Kind of the artifact, or `file` for a file of the study's own folder."""
    id: str
    """Id of the artifact, or name of the file."""
    what: str
    """The difference, in words."""
    next_step: str
    """The next thing that happens to it, or that the user has to do."""

    def __str__(self) -> str:
        """Returns the line that users see."""
        return f"{self.kind} {self.id}: {self.what}; {self.next_step}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The findings of verifying one study."""

    study: str
    faults: tuple[Fault, ...]
    """Faults in the study's own files first, then in bases, data, experts and merges, and last in
    measurements."""
    num_checked: int
    """Artifacts and files of the study that exist and were read."""
    bytes_checked: int
    """Number of bytes read, without manifests."""
    warnings: tuple[str, ...]
    """Things that could not be checked, with the reasons; empty if everything was checked."""


def verify(store: Store, name: str, *, withdraw: bool, max_threads: int = 8) -> VerifyReport:
    """Checks the artifacts that a study's plan names, and the files of the study's own folder.

    Measurements of these artifacts, which no plan names, are checked too. One whose manifest cannot
    be read counts as the study's, as nobody can use it.

    A broken artifact or plan.json can be withdrawn: it is kept under another name and counts as
    missing, so that the next run makes it again. Merges of a broken expert are not withdrawn,
    because the expert will have the same bytes again. Broken tables and reports need not be
    withdrawn: every run writes them again if they do not match their digests.

    Views and history are not checked, because nothing is computed from them: tracking.json,
    failures, lease, checkpoints in flight, replaced study files and plans, and withdrawn files. A
    missing artifact is a fault only if it existed when a run of the study last ended.

    No run of a study in this store may be active: files that it is writing would look broken.

    Args:
        store: The store of the study.
        name: The study's name.
        withdraw: Whether to withdraw broken artifacts and plans; otherwise nothing is changed.
        max_threads: Artifacts to read at a time. On S3, each thread needs free disk space for its
            artifact's largest file.

    Raises:
        StudyNotFoundError: The store has no files of the study.
        InvalidNameError: The name cannot be that of a study.
        StoreError: The store failed; if it failed while it was read, nothing was withdrawn.
    """
    folder, artifacts = StudyFolder(store, name), Artifacts(store)
    sizes = _own_file_sizes(store, name)
    if not sizes:
        raise StudyNotFoundError(store, name)
    own = _check_own_files(folder)
    existing = {kind: artifacts.committed_ids(kind) & ids for kind, ids in own.planned.items()}
    addresses = [(kind, each) for kind, ids in existing.items() for each in sorted(ids)]
    addresses += _measurements(artifacts, planned=own.planned)
    checked = _check_all(artifacts, addresses, max_threads=max_threads)
    broken = {address: each.problem for address, each in checked.items() if each.problem}
    if withdraw:
        for kind, artifact_id in broken:
            artifacts.withdraw(kind, artifact_id)
        if own.has_broken_plan:
            folder.withdraw(PLAN_FILE)
        if EXTERNAL_FILE in own.problems:
            folder.withdraw(EXTERNAL_FILE)
        for decision in damaged_decisions(folder):
            folder.withdraw(decision)
    return VerifyReport(
        study=name,
        faults=(
            *_file_faults(own, withdraw=withdraw),
            *_method_faults(own),
            *_artifact_faults(broken, own=own, existing=existing, withdraw=withdraw),
        ),
        num_checked=len(sizes) + len(checked),
        bytes_checked=sum(sizes.values()) + sum(each.size_bytes for each in checked.values()),
        warnings=own.warnings,
    )


@dataclass(frozen=True, kw_only=True)
class _OwnFiles:
    """The content of the study's own folder, as far as it is undamaged."""

    problems: Mapping[str, str]
    """Differences of broken files, in words, by file name."""
    has_broken_plan: bool
    """Whether plan.json exists and is damaged, which keeps runs from starting."""
    planned: Ids
    """Ids that the plan names; without a plan, ids that outputs.json lists."""
    finished: Ids
    """Planned artifacts that existed when a run of the study last ended."""
    warnings: tuple[str, ...]
    method_problems: Mapping[str, str]
    """Differences of the files of users' methods, in words, by digest."""


def _own_file_sizes(store: Store, name: str) -> dict[str, int]:
    """Returns the sizes of those files of the study's own folder that are checked, by name."""
    entries = store.list(Layout.study(name))
    keys = ((Layout.parse_study_key(entry.key), entry.size_bytes) for entry in entries)
    return {key.name: size for key, size in keys if key is not None and key.name in _OWN_FILES}


def _check_own_files(folder: StudyFolder) -> _OwnFiles:
    text = folder.read_bytes(STUDY_FILE)
    plan, plan_problem = _read_plan(folder)
    text_problem = study_problem(text, plan=plan)
    if plan is None and text is not None and text_problem is None:
        plan, text_problem = _rebuild_plan(text.decode(), folder=folder)
    finished = promised_artifacts(folder)
    planned = finished if plan is None else plan.artifact_ids()
    problems = {STUDY_FILE: text_problem, PLAN_FILE: plan_problem, **output_problems(folder)}
    problems[EXTERNAL_FILE] = _external_problem(folder)
    problems.update(damaged_decisions(folder))
    return _OwnFiles(
        problems={name: what for name, what in problems.items() if what is not None},
        has_broken_plan=plan_problem is not None and folder.read_bytes(PLAN_FILE) is not None,
        planned=planned,
        finished={kind: ids & planned.get(kind, frozenset()) for kind, ids in finished.items()},
        method_problems={} if plan is None else _method_problems(plan, store=folder.store),
        warnings=() if plan is not None else (_warning(num_known=sum(map(len, planned.values()))),),
    )


def _read_plan(folder: StudyFolder) -> tuple[PlanFile | None, str | None]:
    try:
        plan = folder.read_plan()
    except StudyDamagedError as error:
        return None, error.damage.removeprefix(f"{PLAN_FILE} ")
    return plan, "is missing" if plan is None else None


def _method_problems(plan: PlanFile, *, store: Store) -> dict[str, str]:
    problems = {}
    for sha256 in sorted(plan.method_files()):
        try:
            stored_file(sha256, store=store)
        except OwnMethodError as error:
            problems[sha256] = str(error)
    return problems


def _external_problem(folder: StudyFolder) -> str | None:
    try:
        read_external(folder)
    except StudyDamagedError as error:
        return error.damage.removeprefix(f"{EXTERNAL_FILE} ")
    return None


def _rebuild_plan(text: str, *, folder: StudyFolder) -> tuple[PlanFile | None, str | None]:
    """Returns the plan of a study file, or the reason why the file gives none."""
    try:
        study = parse_study(text, source=STUDY_FILE, store=folder.store_url)
        if study.name != folder.name:
            return None, f"belongs to study {study.name!r}"
        is_whole = study.search is not None and not damaged_decisions(folder)
        decisions = recorded_decisions(folder, study=study) if is_whole else ()
        plan = build_plan(study, resized=resized_models(study), decisions=decisions)
        return plan_file(plan), None
    except StudyError as error:
        return None, f"cannot be run by this release: {error}"


def _warning(*, num_known: int) -> str:
    return (
        f"{STUDY_FILE} and {PLAN_FILE} are both damaged, so the study's plan is not known; of its "
        f"artifacts, only the {num_known} that {OUTPUTS_FILE} lists were checked"
    )


def _measurements(artifacts: Artifacts, *, planned: Ids) -> list[ArtifactAddress]:
    """Returns the committed measurements of planned artifacts, sorted."""
    measured = artifacts.listed(map(Layout.artifacts, sorted(MEASURED_KINDS)))
    ids = frozenset[str]().union(*planned.values())
    return sorted(measured_from(artifacts, measured, planned=ids))


def _check_all(
    artifacts: Artifacts, addresses: Sequence[tuple[str, str]], *, max_threads: int
) -> dict[tuple[str, str], CheckResult]:
    with ThreadPoolExecutor(max_threads) as threads:
        found = threads.map(lambda address: artifacts.check(*address), addresses)
        return {
            address: checked
            for address, checked in zip(addresses, found, strict=True)
            if checked is not None
        }


def _file_faults(own: _OwnFiles, *, withdraw: bool) -> Iterator[Fault]:
    for name, what in own.problems.items():
        next_step = _RESTORE if name == STUDY_FILE else _REWRITTEN
        if name == PLAN_FILE and STUDY_FILE in own.problems:
            next_step = f"rewritten when you run {STUDY_FILE} from your own copy"
        if name == PLAN_FILE and own.has_broken_plan:
            next_step = _after_withdrawal(next_step, withdraw=withdraw)
        if name == EXTERNAL_FILE:
            next_step = _after_withdrawal(_SCORED, withdraw=withdraw)
        yield Fault(kind=FILE, id=name, what=what, next_step=next_step)


def _method_faults(own: _OwnFiles) -> Iterator[Fault]:
    for sha256, problem in own.method_problems.items():
        what, _, next_step = problem.partition("; ")
        yield Fault(kind="method", id=sha256[:16], what=what, next_step=next_step)


def _after_withdrawal(next_step: str, *, withdraw: bool) -> str:
    if withdraw:
        return f"withdrawn, and {next_step}"
    return f"{next_step} after it is withdrawn: run verify without --dry-run"


def _artifact_faults(
    broken: Mapping[tuple[str, str], str], *, own: _OwnFiles, existing: Ids, withdraw: bool
) -> Iterator[Fault]:
    after = _after_withdrawal(_REMADE, withdraw=withdraw)
    for kind, ids in own.planned.items():
        lost = own.finished.get(kind, frozenset()) - existing[kind]
        for artifact_id in sorted(ids):
            if (problem := broken.get((kind, artifact_id))) is not None:
                yield Fault(kind=kind, id=artifact_id, what=problem, next_step=after)
            elif artifact_id in lost:
                what = "is gone; it existed when a run of the study last ended"
                yield Fault(kind=kind, id=artifact_id, what=what, next_step=_REMADE)
    for (kind, artifact_id), problem in broken.items():
        if kind in MEASURED_KINDS:
            after = _after_withdrawal(_REMEASURED, withdraw=withdraw)
            yield Fault(kind=kind, id=artifact_id, what=problem, next_step=after)
