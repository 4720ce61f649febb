from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from made_study import made_ledger

from orchestrator.cli.verbs.measure import cost_text, left_out_lines, wanted_of, with_earlier
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from workers.artifacts.artifacts import Artifacts
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.specs.measures import EARLIER_CURVATURE
from workers.store.opening import open_store


def test_linearised_experts_are_left_out_with_a_reason(make_plan: Callable[..., Plan]) -> None:
    """Their task vectors are measured, constants and paths are not."""
    defaults = {"steps": 10, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "linearised": True})
    committed = made_ledger(plan).committed()
    (line,) = left_out_lines(committed)
    assert line.startswith("3 of 3 experts are linearised: no constants and no path reach")
    wanted = wanted_of(committed, curvature=False, leave_one_out=False)
    assert (wanted.constants, wanted.reaches) == ((), ())
    assert wanted.operators


def test_curvatures_of_earlier_releases_are_not_measured_again(
    make_plan: Callable[..., Plan],
    expert_manifest: Callable[..., Manifest],
    tmp_path: Path,
) -> None:
    """A store that has one of three tasks from then needs the other two."""
    plan = make_plan()
    artifacts = Artifacts(open_store(str(tmp_path)))
    wanted = wanted_of(made_ledger(plan).committed(), curvature=True, leave_one_out=False)
    first, *others = wanted.constants
    earlier = replace(first, curvature=EARLIER_CURVATURE)
    some = expert_manifest(next(iter(plan.experts.values())))
    manifest = replace(some, kind="constants", id=earlier.id)
    artifacts.store.put(Layout.manifest("constants", earlier.id), manifest.to_json())
    found = with_earlier(wanted, artifacts=artifacts)
    assert found.constants == (earlier, *others)
    again = replace(manifest, id=first.id)
    artifacts.store.put(Layout.manifest("constants", first.id), again.to_json())
    assert with_earlier(wanted, artifacts=artifacts).constants == wanted.constants


def test_diverged_experts_are_named(
    make_plan: Callable[..., Plan], expert_manifest: Callable[..., Manifest]
) -> None:
    """The rest of the study is measured; one that has all its experts is told nothing."""
    plan = make_plan()
    bad, *good = plan.experts.values()
    manifests = [
        expert_manifest(bad, test=None),
        *(expert_manifest(each) for each in good),
    ]
    committed = Ledger(plan, manifests=manifests).committed()
    (line,) = left_out_lines(committed)
    assert line == f"1 diverged expert has no weights to measure: {bad.task} at default"
    wanted = wanted_of(committed, curvature=False, leave_one_out=False)
    assert bad.task not in {spec.sample.task for spec in wanted.constants}
    assert len(wanted.reaches) == 2
    assert not list(left_out_lines(made_ledger(plan).committed()))


def test_the_cost_counts_one_and_several(make_plan: Callable[..., Plan]) -> None:
    """One path is no `1 paths`."""
    plan = make_plan()
    wanted = wanted_of(made_ledger(plan).committed(), curvature=False, leave_one_out=False)
    (first, *_) = wanted.reaches
    assert "1 path to follow, 0 methods on groups" in cost_text([first], plan=plan)
    assert "3 paths to follow" in cost_text(wanted.reaches, plan=plan)
