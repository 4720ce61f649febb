"""Reads every byte that a study left in its store again, and takes out what is broken."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.plan.export import plan_file
from orchestrator.plan.plan import build_plan
from orchestrator.record.folder import (
    EXPERTS_FILE,
    REPORT_FILE,
    RESULTS_FILE,
    STUDY_FILE,
    StudyDamagedError,
    StudyFolder,
    StudyNotFoundError,
    study_names,
    study_problem,
)
from orchestrator.record.outputs import OUTPUTS_FILE, output_problems, promised_artifacts
from orchestrator.study.problems import StudyError
from orchestrator.study.reader import parse_study
from workers.artifacts.artifacts import Artifacts, Checked
from workers.artifacts.layout import Layout
from workers.specs.plan_file import PLAN_FILE, PlanFile
from workers.store.protocol import Store

FILE = "file"
"""The kind of a fault in one of the study's own files."""
_OWN_FILES = {STUDY_FILE, PLAN_FILE, OUTPUTS_FILE, RESULTS_FILE, EXPERTS_FILE, REPORT_FILE}

_REMADE = "made again by the next run"
_REWRITTEN = "rewritten by the next run"
_RESTORE = "restore it from your own copy and run it"

Ids = Mapping[str, AbstractSet[str]]
"""Ids of artifacts by their kind."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing of a study that is not as it was written."""

    kind: str
    """The artifact's kind, or `file` for a file in the study's own folder."""
    id: str
    """The artifact's id, or the file's name."""
    what: str
    """What is wrong with it."""
    next_step: str
    """What happens to it now, or what the user has to do."""

    def __str__(self) -> str:
        """Returns the line that a user reads."""
        return f"{self.kind} {self.id}: {self.what}; {self.next_step}"


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What verifying a study found."""

    study: str
    faults: tuple[Fault, ...]
    """The study's own files first, then base, data, experts and merges."""
    num_checked: int
    """Artifacts and files of the study that were there and were read."""
    bytes_checked: int
    """How much was read, manifests aside."""
    warnings: tuple[str, ...]
    """What could not be checked, and why; empty when everything was."""


def verify(store: Store, name: str, *, withdraw: bool, max_threads: int = 8) -> VerifyReport:
    """Checks every artifact that a study's plan names, and the study's own files.

    Broken artifacts, and a broken plan.json, are withdrawn: kept under another name, and missing
    from then on, so that the next run makes them again and nothing else. Merges of an expert that
    is broken stay: the expert that is made again has the same bytes. Broken tables and reports
    need not be withdrawn, as a run writes them again when they do not match.

    Not checked are views and history, which nothing is computed from: tracking.json, failures,
    lease, checkpoints in flight, replaced studies and plans, and what was withdrawn before. An
    artifact whose manifest is gone is noticed if it was there when a run of the study last ended.

    No run of a study of this store may be active: what it is just writing looks broken.

    Args:
        store: Where the study is.
        name: The study's name.
        withdraw: Take out what is broken; otherwise nothing in the store changes.
        max_threads: Artifacts read at a time; from S3 each takes its largest file's size of disk.

    Raises:
        StudyNotFoundError: The store has nothing under the study's name.
        InvalidNameError: No study can have this name.
        StoreError: The store failed; nothing was withdrawn if it failed while it was read.
    """
    folder, artifacts = StudyFolder(store, name), Artifacts(store)
    sizes = _own_files(store, name)
    if not sizes:
        names = ", ".join(study_names(store)) or "none"
        raise StudyNotFoundError(f"{store.url} holds no study {name!r}; studies there: {names}")
    own = _check_own_files(folder)
    existing = {kind: artifacts.committed_ids(kind) & ids for kind, ids in own.planned.items()}
    checked = _check_all(artifacts, existing, max_threads=max_threads)
    broken = {address: each.problem for address, each in checked.items() if each.problem}
    if withdraw:
        for kind, artifact_id in broken:
            artifacts.withdraw(kind, artifact_id)
        if own.has_broken_plan:
            folder.withdraw(PLAN_FILE)
    return VerifyReport(
        study=name,
        faults=(
            *_file_faults(own, withdraw=withdraw),
            *_artifact_faults(broken, own=own, existing=existing, withdraw=withdraw),
        ),
        num_checked=len(sizes) + len(checked),
        bytes_checked=sum(sizes.values()) + sum(each.size_bytes for each in checked.values()),
        warnings=own.warnings,
    )


@dataclass(frozen=True, kw_only=True)
class _OwnFiles:
    """What the study's folder says, as far as it can be believed."""

    problems: Mapping[str, str]
    """What is wrong with a file, by its name."""
    has_broken_plan: bool
    """Whether there is a plan.json that cannot be used, which would keep a run from starting."""
    planned: Ids
    promised: Ids
    """What is planned and existed when a run last ended."""
    warnings: tuple[str, ...]


def _own_files(store: Store, name: str) -> dict[str, int]:
    """Returns the sizes of the study's files that are checked, by name."""
    prefix = Layout.study(name)
    entries = store.list(prefix)
    sizes = {entry.key.removeprefix(prefix): entry.size_bytes for entry in entries}
    return {name: size for name, size in sizes.items() if name in _OWN_FILES}


def _check_own_files(folder: StudyFolder) -> _OwnFiles:
    text = folder.read_bytes(STUDY_FILE)
    plan, plan_problem = _read_plan(folder)
    text_problem = study_problem(text, plan=plan)
    if plan is None and text is not None and text_problem is None:
        plan, text_problem = _rebuild_plan(text.decode(), folder=folder)
    promised = promised_artifacts(folder)
    planned = promised if plan is None else plan.artifact_ids()
    problems = {STUDY_FILE: text_problem, PLAN_FILE: plan_problem, **output_problems(folder)}
    return _OwnFiles(
        problems={name: what for name, what in problems.items() if what is not None},
        has_broken_plan=plan_problem is not None and folder.read_bytes(PLAN_FILE) is not None,
        planned=planned,
        promised={kind: ids & planned.get(kind, frozenset()) for kind, ids in promised.items()},
        warnings=() if plan is not None else (_warning(num_known=sum(map(len, planned.values()))),),
    )


def _read_plan(folder: StudyFolder) -> tuple[PlanFile | None, str | None]:
    try:
        plan = folder.read_plan()
    except StudyDamagedError as error:
        return None, error.what.removeprefix(f"{PLAN_FILE} ")
    return plan, "is missing" if plan is None else None


def _rebuild_plan(text: str, *, folder: StudyFolder) -> tuple[PlanFile | None, str | None]:
    """Returns the plan that a text gives, or what is wrong with a text that gives none."""
    try:
        study = parse_study(text, source=STUDY_FILE, store=folder.store_url)
        if study.name != folder.name:
            return None, f"is that of study {study.name!r}"
        return plan_file(build_plan(study)), None
    except StudyError as error:
        return None, f"is no study that this release can run: {error}"


def _warning(*, num_known: int) -> str:
    return (
        f"{STUDY_FILE} and {PLAN_FILE} are both damaged, so that nothing says what the study "
        f"planned; of its artifacts only the {num_known} that {OUTPUTS_FILE} lists were checked"
    )


def _check_all(
    artifacts: Artifacts, existing: Ids, *, max_threads: int
) -> dict[tuple[str, str], Checked]:
    addresses = [(kind, each) for kind, ids in existing.items() for each in sorted(ids)]
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
            next_step = f"rewritten when {STUDY_FILE} is run from your own copy"
        if name == PLAN_FILE and own.has_broken_plan:
            next_step = _after_withdrawal(next_step, withdraw=withdraw)
        yield Fault(kind=FILE, id=name, what=what, next_step=next_step)


def _after_withdrawal(next_step: str, *, withdraw: bool) -> str:
    if withdraw:
        return f"withdrawn, and {next_step}"
    return f"{next_step} once it is withdrawn: verify without --dry-run"


def _artifact_faults(
    broken: Mapping[tuple[str, str], str], *, own: _OwnFiles, existing: Ids, withdraw: bool
) -> Iterator[Fault]:
    after = _after_withdrawal(_REMADE, withdraw=withdraw)
    for kind, ids in own.planned.items():
        lost = own.promised.get(kind, frozenset()) - existing[kind]
        for artifact_id in sorted(ids):
            if (problem := broken.get((kind, artifact_id))) is not None:
                yield Fault(kind=kind, id=artifact_id, what=problem, next_step=after)
            elif artifact_id in lost:
                what = "is gone; it was there when a run of the study last ended"
                yield Fault(kind=kind, id=artifact_id, what=what, next_step=_REMADE)
