"""Grows the plan of a search: each decision adds trials and merges to it."""

from collections.abc import Sequence
from functools import partial

from orchestrator.plan.candidates import Decision
from orchestrator.plan.plan import Plan, build_plan
from orchestrator.record.decisions import record_decisions, recorded_decisions
from orchestrator.record.folder import StudyFolder
from orchestrator.record.ledger import Ledger
from orchestrator.run.stored_manifests import stored_manifests
from orchestrator.search.decide import first_decision, is_over, next_decision
from orchestrator.search.prior import (
    MakePlan,
    MissingConstantsError,
    any_candidate,
    prior_of,
)
from orchestrator.study.problems import StudyError, StudyProblem
from orchestrator.study.schema import Study
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.manifest_index import ManifestIndex


def decisions_of(study: Study, *, folder: StudyFolder, make_plan: MakePlan) -> tuple[Decision, ...]:
    """Returns the recorded decisions of a study's search, or its first one.

    None without a search, and none if the store lacks the constants of its prior.

    Args:
        study: The study.
        folder: Its folder in the store.
        make_plan: Returns the study's plan with some decisions.

    Raises:
        StudyDamagedError, StudyError: As `recorded_decisions` does.
    """
    if study.search is None:
        return ()
    if recorded := recorded_decisions(folder, study=study):
        return recorded
    prior = prior_of(study, artifacts=Artifacts(folder.store), make_plan=make_plan)
    try:
        return (first_decision(study, prior=prior),)
    except MissingConstantsError:
        return ()


def check_constants(plan: Plan, *, store_url: str) -> None:
    """Checks that a search whose candidates are drawn by a prior has the constants for it.

    Raises:
        StudyError: The store lacks them; the message names the commands that make them.
    """
    study = plan.study
    if study.search is None or plan.decisions:
        return
    raise StudyError(
        study.name,
        problems=[
            StudyProblem(
                field="search.prior",
                fault=f"{store_url} lacks constants of the base on {', '.join(study.task_names)}",
                remedy="make them with `mergesweep prepare` and the study file, then with "
                f"`mergesweep measure {study.name} --curvature --store {store_url}`; or leave the "
                "prior out",
            )
        ],
    )


def with_any_candidate(plan: Plan) -> Plan:
    """Returns the plan of a search with one candidate, as if it had no other."""
    return _with_decisions(plan, [any_candidate(plan.study)])


def with_new_decisions(plan: Plan, *, folder: StudyFolder) -> Plan:
    """Returns a plan with the decisions that are recorded now, after those of another driver."""
    decisions = decisions_of(plan.study, folder=folder, make_plan=partial(_with_decisions, plan))
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
    if not may_grow(ledger) or not ledger.plan.decisions:
        return False
    make_plan = partial(_with_decisions, ledger.plan)
    prior = prior_of(ledger.plan.study, artifacts=artifacts, make_plan=make_plan)
    decision = next_decision(ledger.committed(), prior=prior)
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
