"""Compares three ways to choose hyperparameters for a merge, at equal trained steps.

*aware* is the study's search: its candidates are scored by their merges, and halved. *random* takes
the first of the same candidates, trains each to the end, and takes the one with the best merge.
*own* tunes each task for itself: the same candidates and the same halving, by the expert's own loss
on validation images; the best expert of each task, at any of its snapshots, is merged.

All three run in this process, without Ray, with the real plans, decisions, workers and store. They
share the store, so nothing is trained twice. The trained steps of each are as if it were alone.
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from searched_study import opened_search, run_search

from orchestrator.plan.candidates import TASK_MARK, Decision
from orchestrator.plan.plan import build_plan
from orchestrator.record.decisions import record_decisions
from orchestrator.results.study_results import StudyResults
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.space import search_of
from orchestrator.search.spending import spent_so_far
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import ExpertMetrics
from workers.artifacts.node_cache import cache_root
from workers.train.resumable import Timing
from workers.train.trial import run_trial
from workers.workspace import Workspace

ARMS = ("aware", "random", "own")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The winner of one arm: the mean over the groups of its merges on test images."""

    loss: float
    """Nats."""
    accuracy: float
    steps: int
    """Optimizer steps of all trials that the arm needs."""

    @classmethod
    def of(cls, opened: OpenedStudy, *, steps: int) -> "Outcome":
        """Returns the outcome of a study that has ended."""
        rows = StudyResults.of(opened.ledger.committed()).rows.to_pylist()
        macro = [row for row in rows if row["task"] == "macro"]
        return cls(
            loss=statistics.fmean(row["loss"] for row in macro),
            accuracy=statistics.fmean(row["accuracy"] for row in macro),
            steps=steps,
        )


def compare(fields: dict[str, Any], *, seed: int, folder: Path) -> dict[str, Outcome]:
    """Runs all arms with one seed; returns the outcome of each.

    Args:
        fields: The fields of the study of *aware*.
        seed: Seeds the candidates, the groups, and the trials.
        folder: Gets the store.
    """
    defaults = {**fields["finetune"]["defaults"], "seed": seed}
    finetune = {**fields["finetune"], "defaults": defaults}
    fields = {**fields, "seed": seed, "finetune": finetune, "store": str(folder / f"store-{seed}")}
    aware = run_search(fields)
    budget = spent_so_far(aware.ledger.committed()).num_steps
    search = {name: each for name, each in fields["search"].items() if name != "halving"}
    random_fields = {
        **fields,
        "name": "random",
        "search": {**search, "budget": {"steps": budget}},
    }
    whole = run_search(random_fields)
    values, steps = _own_winners(aware)
    own = _merged(values, fields=fields, search=search)
    return {
        "aware": Outcome.of(aware, steps=budget),
        "random": Outcome.of(whole, steps=spent_so_far(whole.ledger.committed()).num_steps),
        "own": Outcome.of(own, steps=steps),
    }


def _own_winners(aware: OpenedStudy) -> tuple[dict[str, Any], int]:
    """Returns the hyperparameters of each task's best expert, and the steps that this took.

    The hyperparameters are those of one candidate, in which each task has values of its own.
    """
    study = aware.plan.study
    search, proposal = search_of(study), aware.plan.decisions[0]
    left = {task: list(proposal.candidates) for task in study.task_names}
    found: dict[str, list[tuple[float, int, int]]] = {task: [] for task in study.task_names}
    decisions: list[Decision] = []
    num_steps, before = 0, 0
    for steps in search.rungs(study.finetune.defaults.steps):
        assert steps is not None, "the study of this benchmark has halving"
        kind = "promote" if decisions else "propose"
        values = () if decisions else proposal.values
        everyone = Decision(kind=kind, candidates=proposal.candidates, steps=steps, values=values)
        decisions.append(everyone)
        losses = _trained(aware, decisions=decisions, left=left, steps=steps)
        num_steps += sum(map(len, left.values())) * (steps - before)
        before = steps
        for task, numbers in left.items():
            found[task] += [(losses[task, number], number, steps) for number in numbers]
            best = sorted(numbers, key=lambda number: (losses[task, number], number))
            left[task] = sorted(best[: max(1, len(numbers) // search.halving.factor)])
    winners: dict[str, Any] = {}
    for task, each in found.items():
        _, number, steps = min(each)
        for name, value in {**proposal.values[number], "steps": steps}.items():
            winners[f"{name}{TASK_MARK}{task}"] = value
    return winners, num_steps


def _trained(
    aware: OpenedStudy, *, decisions: Sequence[Decision], left: dict[str, list[int]], steps: int
) -> dict[tuple[str, int], float]:
    """Trains some candidates of each task to a rung; returns their own validation losses, nats."""
    plan = build_plan(
        aware.plan.study,
        groups=aware.plan.groups,
        recorded=aware.plan.sources,
        resized=aware.plan.bases.resized_models,
        decisions=decisions,
    )
    workspace = Workspace(aware.store_url, cache_root=cache_root(), device=torch.device("cpu"))
    trial_of = {output.id: trial for trial in plan.trials for output in trial.outputs}
    names = {setting.value: number for number, setting in enumerate(plan.candidate_settings)}
    losses: dict[tuple[str, int], float] = {}
    for task, numbers in left.items():
        for number in numbers:
            place = names[f"{number} at {steps} steps"]
            expert = plan.candidate_experts[place][task].id
            manifest = aware.artifacts.find("expert", expert)
            if manifest is None:
                timing = Timing(report_every_s=1e9)
                reports = run_trial(trial_of[expert], workspace=workspace, timing=timing)
                manifest = _committed(
                    [each for report in reports for each in report.committed], expert
                )
            sums = ExpertMetrics.from_json(manifest.metrics).validation
            losses[task, number] = float("inf") if sums is None else sums.loss
    return losses


def _committed(manifests: Iterable[Manifest], expert: str) -> Manifest:
    return next(each for each in manifests if each.id == expert)


def _merged(
    values: dict[str, Any], *, fields: dict[str, Any], search: dict[str, Any]
) -> OpenedStudy:
    """Merges experts whose hyperparameters are known, as the only candidate of a search."""
    names = [*search["space"], "steps"]
    most_steps = fields["finetune"]["defaults"]["steps"]
    own = {
        **fields,
        "name": "own",
        "search": {
            **{name: each for name, each in search.items() if name != "batch"},
            "space": {**search["space"], "steps": {"int": [1, most_steps]}},
            "per_task": names,
            "budget": {"candidates": 1},
        },
    }
    opened = opened_search(own)
    decision = Decision(kind="propose", candidates=(0,), steps=None, values=(values,))
    record_decisions(opened.folder, [decision], study=opened.plan.study)
    return run_search(own)


def _row(seed: int, outcomes: dict[str, Outcome]) -> str:
    cells = [f"{outcomes[arm].loss:.3f} | {100 * outcomes[arm].accuracy:.1f}" for arm in ARMS]
    steps = ", ".join(str(outcomes[arm].steps) for arm in ARMS)
    return f"| {seed} | {' | '.join(cells)} | {steps} |"


def main() -> None:
    """Prints a row of the table for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--study", type=Path, default=Path(__file__).with_name("search-comparison.yaml")
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    fields = yaml.safe_load(args.study.read_text())
    heads = " | ".join(f"{arm}: loss | accuracy, %" for arm in ARMS)
    print(f"| seed | {heads} | trained steps |")  # noqa: T201 the table
    print("| ---: " * 8 + "|")  # noqa: T201
    for seed in args.seeds:
        outcomes = compare(fields, seed=seed, folder=args.folder)
        print(_row(seed, outcomes), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
