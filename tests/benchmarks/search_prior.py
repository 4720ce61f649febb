"""Compares searches whose candidates are drawn at random and by the theory's prediction.

*chance* draws them at random; *proved* and *stated* take the best predicted of eight points for
each candidate, by one form of the bound. All train the same number of candidates to the end and
choose by the same score on validation images. They run in this process, without Ray, and share a
store, so that the constants are measured once and nothing is trained twice.
"""

import argparse
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from scipy.stats import spearmanr
from search_comparison import Outcome
from searched_study import opened_search, run_search

from orchestrator.cli.verbs.measure import wanted_of
from orchestrator.run.opened import OpenedStudy
from orchestrator.search.spending import spent_so_far
from orchestrator.search.summary import search_summary
from workers.artifacts.node_cache import cache_root
from workers.measure.constants import measure_constants
from workers.workspace import Workspace

FORMS = ("proved", "stated")
POOL = 8


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A search that has ended."""

    outcome: Outcome
    """Of its winner, on test images."""
    typical: float
    """The median over its candidates of the objective: validation loss of the merge, nats."""
    agreement: float | None
    """Spearman's rank correlation of prediction and objective; None without a prior."""


def compare(fields: dict[str, Any], *, seed: int, folder: Path) -> dict[str, Arm]:
    """Runs all searches with one seed; returns them by name.

    Args:
        fields: The fields of the study without a prior.
        seed: Seeds the candidates, the groups, and the trials.
        folder: Gets the store.
    """
    defaults = {**fields["finetune"]["defaults"], "seed": seed}
    finetune = {**fields["finetune"], "defaults": defaults}
    fields = {**fields, "seed": seed, "finetune": finetune, "store": str(folder / f"store-{seed}")}
    arms = {"chance": _arm_of(run_search(fields))}
    for form in FORMS:
        search = {**fields["search"], "prior": {"form": form, "pool": POOL}}
        with_prior = {**fields, "name": form, "search": search}
        run_search(with_prior)  # without constants it ends once the images are prepared
        _measure_constants(with_prior)
        arms[form] = _arm_of(run_search(with_prior))
    return arms


def _measure_constants(fields: dict[str, Any]) -> None:
    opened = opened_search(fields)
    wanted = wanted_of(opened.ledger.committed(), curvature=True, leave_one_out=False)
    cpu = torch.device("cpu")
    workspace = Workspace(opened.store_url, cache_root=cache_root(), device=cpu)
    for spec in wanted.constants:
        if opened.artifacts.find("constants", spec.id) is None:
            measure_constants(spec, workspace=workspace)


def _arm_of(opened: OpenedStudy) -> Arm:
    committed = opened.ledger.committed()
    summary = search_summary(committed)
    assert summary is not None, "the study has a search"
    rows = summary.candidates.to_pylist()
    objectives = [math.inf if row["objective"] is None else row["objective"] for row in rows]
    predicted = [row.get("prior") for row in rows]
    return Arm(
        outcome=Outcome.of(opened, steps=spent_so_far(committed).num_steps),
        typical=statistics.median(objectives),
        agreement=None if None in predicted else float(spearmanr(predicted, objectives).statistic),
    )


def _row(seed: int, arms: dict[str, Arm]) -> str:
    losses = " | ".join(f"{arm.outcome.loss:.3f} | {arm.typical:.3f}" for arm in arms.values())
    agreements = " | ".join(
        "" if (agreement := arms[form].agreement) is None else f"{agreement:+.2f}" for form in FORMS
    )
    steps = ", ".join(str(arm.outcome.steps) for arm in arms.values())
    return f"| {seed} | {losses} | {agreements} | {steps} |"


def main() -> None:
    """Prints a row of the table for each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=Path(__file__).with_name("search-prior.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs=2, help="least and greatest learning rate")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    fields = yaml.safe_load(args.study.read_text())
    if args.rates is not None:
        fields["search"]["space"]["lr"] = {"log": args.rates}
    heads = " | ".join(f"{arm}: test loss | median" for arm in ("chance", *FORMS))
    agreements = " | ".join(f"{form}: rank correlation" for form in FORMS)
    print(f"| seed | {heads} | {agreements} | trained steps |")  # noqa: T201 the table
    print("| ---: " * 10 + "|")  # noqa: T201
    for seed in args.seeds:
        print(_row(seed, compare(fields, seed=seed, folder=args.folder)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
