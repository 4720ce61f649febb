from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.plan.plan import Plan
from orchestrator.record.folder import StudyFolder
from orchestrator.record.ledger import Ledger
from orchestrator.record.outputs import store_outputs
from orchestrator.report.sections import experts_section
from orchestrator.results.means import setting_means
from orchestrator.results.rows import experts_table, results_table
from orchestrator.results.study_results import StudyResults
from workers.artifacts.manifests import Manifest
from workers.store.opening import open_store


@pytest.fixture
def ledger(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]]
) -> Ledger:
    """Returns the ledger of a finished study whose default lies on two axes."""
    axes = {"lr": [0.01, 0.1], "steps": [10, 20]}
    defaults = {"steps": 10, "lr": 0.01, "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": axes})
    return Ledger(plan, manifests=all_manifests(plan))


def test_results_are_the_tables_and_means_of_one_snapshot(ledger: Ledger) -> None:
    """Everything that shows results shows the same numbers."""
    committed = ledger.committed()
    results = StudyResults.of(committed)
    assert results.merges.equals(results_table(committed))
    assert results.experts.equals(experts_table(committed))
    assert results.means == setting_means(results.merges)


def test_stored_results_are_those_that_were_computed(ledger: Ledger, tmp_path: Path) -> None:
    """The tables in the store say the same; tables with other columns say nothing."""
    folder = StudyFolder(open_store(str(tmp_path)), "small")
    assert StudyResults.stored(folder) is None
    results = StudyResults.of(ledger.committed())
    store_outputs(folder, results=results.merges, experts=results.experts, page="", committed={})
    assert StudyResults.stored(folder) == results
    execution = {"gpu": 1.0, "out_of_memory": 2, "micro_batch": 4}
    split = [replace(each, execution=execution) for each in ledger.committed().experts.values()]
    experts = experts_table(Ledger(ledger.plan, manifests=split).committed())
    store_outputs(folder, results=results.merges, experts=experts, page="", committed={})
    found = StudyResults.stored(folder)
    assert found is not None
    assert found.experts.equals(experts)
    older = results.merges.drop_columns(["data_use"])
    store_outputs(folder, results=older, experts=results.experts, page="", committed={})
    assert StudyResults.stored(folder) is None


def test_each_merge_has_the_rows_of_its_first_setting(ledger: Ledger) -> None:
    """A merge that two axes share has its tasks and both means once."""
    results = StudyResults.of(ledger.committed())
    by_merge = results.rows_by_merge()
    assert set(by_merge) == set(ledger.plan.merges)
    for merge_id, rows in by_merge.items():
        cell = ledger.plan.first_cells[merge_id]
        assert {(row["axis"], row["value"]) for row in rows} == {
            (cell.setting.axis, cell.setting.value)
        }
        assert [row["task"] for row in rows] == [
            *(expert.task for expert in cell.merge.experts),
            "macro",
            "union",
        ]


def test_report_counts_experts_that_were_trained_in_micro_batches(ledger: Ledger) -> None:
    """Each counts once, however many settings have it; without any, the page says nothing."""
    committed = ledger.committed()
    assert "micro" not in experts_section(experts_table(committed))
    execution = {"gpu": 1.0, "out_of_memory": 2, "micro_batch": 4}
    first, *others = committed.experts.values()
    split = Ledger(ledger.plan, manifests=[replace(first, execution=execution), *others])
    page = experts_section(experts_table(split.committed()))
    assert "In micro-batches, because a batch did not fit the GPU: 1 expert (column" in page


def test_report_says_of_which_rank_task_vectors_of_adapters_are(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]], ledger: Ledger
) -> None:
    """The columns of both tables are null at rank 0; other studies have no such sentence."""
    assert "LoRA" not in experts_section(experts_table(ledger.committed()))
    plan = make_plan(finetune={"axes": {"lora_rank": [0, 2, 8]}})
    committed = Ledger(plan, manifests=all_manifests(plan)).committed()
    results = StudyResults.of(committed)
    assert set(results.experts["lora_rank"].to_pylist()) == {None, 2, 8}
    assert set(results.merges["lora_alpha"].to_pylist()) == {None, 4.0, 16.0}
    num = len(plan.experts)
    page = experts_section(results.experts)
    assert f"LoRA adapters: {2 * num // 3} of {num} experts" in page
    assert "rank of at most 2 to 8 in each layer" in page


def test_stored_tables_with_columns_of_adapters_are_read_again(
    make_plan: Callable[..., Plan], all_manifests: Callable[[Plan], list[Manifest]], tmp_path: Path
) -> None:
    """The columns stand where a later release looks for them."""
    plan = make_plan(finetune={"axes": {"lora_rank": [0, 2]}})
    folder = StudyFolder(open_store(str(tmp_path)), "small")
    results = StudyResults.of(Ledger(plan, manifests=all_manifests(plan)).committed())
    store_outputs(folder, results=results.merges, experts=results.experts, page="", committed={})
    assert StudyResults.stored(folder) == results
