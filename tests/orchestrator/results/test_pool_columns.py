"""Pools in the tables, the report and MLflow."""

from collections.abc import Callable

import pytest
from made_study import page_of

from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.results.schema import POOL, RESULTS_SCHEMA
from orchestrator.results.study_results import StudyResults
from orchestrator.theory.answers import paired_table
from orchestrator.theory.panel import panels
from orchestrator.tracking.study_runs import mlflow_run_of
from workers.artifacts.manifests import Manifest

Manifests = Callable[[Plan], list[Manifest]]
GROUPS = {"size": 2, "pool": [2, 3], "extra": "both"}
SEEDS = {
    "defaults": {"steps": 10, "lr": 0.01, "batch_size": 8},
    "axes": {"seed": [0, 1]},
}


@pytest.fixture
def ledger(make_plan: Callable[..., Plan], all_manifests: Manifests) -> Ledger:
    """Returns a finished study with both kinds of pools."""
    plan = make_plan(finetune=SEEDS, groups=GROUPS)
    return Ledger(plan, manifests=all_manifests(plan))


def test_a_row_has_the_size_and_the_kind_of_its_pool(ledger: Ledger) -> None:
    """Merges outside of pools have the size of their group and no kind."""
    table = StudyResults.of(ledger.committed()).merges
    assert table.column_names == [*RESULTS_SCHEMA.names, *(field.name for field in POOL)]
    found = {(row["setting"], row["pool"], row["extra"]) for row in table.to_pylist()}
    assert found == {
        ("seed=0", 2, None),
        ("seed=1", 2, None),
        ("pool_irrelevant=2", 2, "irrelevant"),
        ("pool_irrelevant=3", 3, "irrelevant"),
        ("pool_relevant=2", 2, "relevant"),
        ("pool_relevant=3", 3, "relevant"),
    }


def test_studies_without_pools_keep_their_columns(
    make_plan: Callable[..., Plan], all_manifests: Manifests
) -> None:
    """Their tables keep their bytes."""
    plan = make_plan()
    results = StudyResults.of(Ledger(plan, manifests=all_manifests(plan)).committed())
    assert results.merges.schema == RESULTS_SCHEMA


def test_the_tasks_of_a_group_are_scored_alone(ledger: Ledger) -> None:
    """A merge of three experts has rows for two tasks and the two means."""
    rows = StudyResults.of(ledger.committed()).merges.to_pylist()
    of_pool = [row for row in rows if row["setting"] == "pool_irrelevant=3"]
    assert len(of_pool) == 3 * (2 + 2)
    assert {row["num_tasks"] for row in of_pool} == {2}


def test_the_report_has_a_section_with_figures_for_each_pool(ledger: Ledger) -> None:
    """Accuracy against the number of merged experts, a line per method."""
    page = page_of(ledger)
    assert "Axis: pool_irrelevant" in page
    assert "experts of the same tasks from other settings" in page


def test_pools_are_compared_in_pairs_and_kept_from_predictors(ledger: Ledger) -> None:
    """No hyperparameter tells that a merge has further experts."""
    results = StudyResults.of(ledger.committed()).merges
    assert "pool_relevant" in paired_table(results)["axis"].to_pylist()
    (panel,) = panels(results, with_pools=False)
    assert panel.settings == ("seed=0", "seed=1")


def test_mlflow_runs_of_merges_have_the_pool_as_parameters(ledger: Ledger) -> None:
    """Its page can filter and group by them."""
    cell = next(each for each in ledger.plan.cells if each.setting.name == "pool_relevant=3")
    run = mlflow_run_of(ledger.committed().merges[cell.merge.id], ledger=ledger)
    assert run is not None
    assert (run.params["pool"], run.params["extra"]) == ("3", "relevant")
