"""Grows the plan of a search: each decision adds trials and merges to it."""

from collections.abc import Sequence

from orchestrator.plan.candidates import Decision
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.record.decisions import record_decisions, recorded_decisions
from orchestrator.record.folder import StudyFolder
from orchestrator.record.ledger import Ledger
from orchestrator.run.stored_manifests import stored_manifests
from orchestrator.search.decide import first_decision, is_over, next_decision
from orchestrator.study.schema import Study
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifest_index import ManifestIndex


def decisions_of(study: Study, *, folder: StudyFolder) -> tuple[Decision, ...]:
    """Returns the recorded decisions of a study's search, or its first one; none without a search.

    Raises:
        StudyDamagedError, StudyError: As `recorded_decisions` does.
    """
    if study.search is None:
        return ()
    return recorded_decisions(folder, study=study) or (first_decision(study),)


def with_new_decisions(plan: Plan, *, folder: StudyFolder) -> Plan:
    """Returns a plan with the decisions that are recorded now, after those of another driver."""
    decisions = decisions_of(plan.study, folder=folder)
    return plan if decisions == plan.decisions else _with_decisions(plan, decisions)


def may_grow(ledger: Ledger) -> bool:
    """Returns whether a study has a search that has not ended."""
    return ledger.plan.study.search is not None and not is_over(ledger.committed())


def record_plan(plan: Plan, *, folder: StudyFolder, text: str, has_grown: bool = False) -> None:
    """Writes a study's decisions and its plan, before anything of them runs.

    Args:
        plan: The plan.
        folder: The study's folder.
        text: The study file, as written.
        has_grown: Whether the plan has everything of the one that it replaces.
    """
    record_decisions(folder, plan.decisions, study=plan.study)
    folder.write_plan(plan, study_text=text, has_grown=has_grown)


def grow(
    ledger: Ledger, *, folder: StudyFolder, artifacts: Artifacts, index: ManifestIndex, text: str
) -> bool:
    """Takes the next decision of a study's search, if it can be taken; returns whether it was.

    Args:
        ledger: The records of the study; its plan grows.
        folder: Gets the decision and the plan.
        artifacts: The store's artifacts, of which some may be there already.
        index: The study's index of manifests.
        text: The study file, as written.

    Raises:
        SearcherError: The process that proposes candidates has failed.
    """
    decision = next_decision(ledger.committed()) if may_grow(ledger) else None
    if decision is None:
        return False
    plan = _with_decisions(ledger.plan, (*ledger.plan.decisions, decision))
    record_plan(plan, folder=folder, text=text, has_grown=True)
    known = ledger.committed().manifests
    manifests = stored_manifests(artifacts, plan=plan, folder=folder, index=index, known=known)
    ledger.grow(plan, manifests=manifests)
    return True


def _with_decisions(plan: Plan, decisions: Sequence[Decision]) -> Plan:
    return build_plan(
        plan.study,
        groups=plan.groups,
        recorded=plan.sources,
        resized=plan.bases.resized_models,
        decisions=decisions,
    )
