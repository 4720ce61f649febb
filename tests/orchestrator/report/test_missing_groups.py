"""Means over different groups are shown with their number of groups, and not ranked."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc
import pytest
from made_study import page_of

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.ledger import Ledger
from orchestrator.report.extremes import values_table
from orchestrator.report.focus import Focus, focus_of
from orchestrator.report.number_tables import axis_table, task_table
from orchestrator.report.style import method_styles
from orchestrator.report.wording import headline, method_lines, partial_lines
from orchestrator.results.means import SettingMean
from orchestrator.results.study_results import StudyResults
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import TriedPoint, TuningMetrics

Make = Callable[..., Manifest]
CORRECT = {"2x00": 20, "2x01": 60, "2x02": 60}
"""Correct images of 100, of the base's 40: the first group is the hardest."""


@pytest.fixture
def results(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> StudyResults:
    """Returns two methods at two rates; the worse one lacks the hardest group at one rate."""
    plan = make_plan(
        finetune={"defaults": {"steps": 4, "lr": 0.1}, "axes": {"lr": [0.1, 0.2]}},
        merge=[{"method": "average"}, {"method": "ties", "density": 0.2, "scaling": 1.0}],
    )
    manifests = [expert_manifest(spec) for spec in plan.experts.values()]
    for cell in plan.cells:
        is_ties = cell.merge.method == "ties"
        if is_ties and (cell.setting.value, cell.group.name) == ("0.2", "2x00"):
            continue
        correct = CORRECT[cell.group.name] - 5 * is_ties
        sums = TaskSums(num_examples=100, num_correct=correct, loss_sum=100.0)
        tasks = dict.fromkeys(cell.group.tasks, sums)
        manifests.append(merge_manifest(cell.merge, tasks=tasks))
    return StudyResults.of(Ledger(plan, manifests=manifests).committed())


def find(means: tuple[SettingMean, ...], method: str, value: str) -> SettingMean:
    return next(each for each in means if (each.method, each.value) == (method, value))


def test_a_mean_without_the_hardest_group_is_not_the_best(results: StudyResults) -> None:
    """TIES loses 5 points in each group, and has the highest mean, over two of three groups."""
    lacking, other = find(results.means, "ties", "0.2"), find(results.means, "average", "0.2")
    assert (lacking.num_groups, other.num_groups) == (2, 3)
    assert lacking.macro.accuracy.mean > other.macro.accuracy.mean
    text = headline(results.means)
    assert text.startswith("Best: average at lr=0.1 gains 6.7 points")
    assert "Worst: ties at lr=0.1 gains 1.7 points" in text
    assert method_lines(results.means)[1] == "ties gains 1.7 points over the base at lr=0.1."
    assert partial_lines(results.means) == [
        "Not ranked, as groups are missing: ties at lr=0.2 (2 of 3 groups)."
    ]
    focus = focus_of(results.merges, results.means)
    assert focus is not None
    assert focus.setting == "lr=0.1"


def test_tables_mark_the_best_among_means_over_equal_groups(results: StudyResults) -> None:
    """At 0.2 the average is bold; over the values, TIES has one value alone."""
    styles = method_styles(["average", "ties"])
    bold = axis_table(results.means, styles=styles).split('class="best"')[1:]
    assert [each.partition("<")[0].strip(">").partition("\u00a0")[0] for each in bold] == [
        "46.7"
    ] * 2
    last = values_table(results.means, styles=styles).rpartition("ties")[2]
    assert "0.2" not in last
    assert ">1<" in last


def test_a_mean_of_a_task_says_that_groups_are_missing(results: StudyResults) -> None:
    """At 0.2, TIES has one of the two groups of each task of the hardest group."""
    styles = method_styles(["average", "ties"])
    rows = results.merges.filter(pc.field("setting") == "lr=0.2").to_pylist()
    body = task_table(Focus(setting="lr=0.2", reason="", rows=tuple(rows)), styles=styles)
    assert body.count("55.0 (1\u00a0of\u00a02)") == 2
    assert body.count("\u00a0of\u00a0") == 2


def test_no_merge_is_the_best_while_all_of_them_lack_groups(results: StudyResults) -> None:
    """Two methods that lack one group each are not compared, though their numbers are equal."""
    first = find(results.means, "average", "0.1")
    one, two = (replace(first, groups=first.groups - {name}) for name in ("2x00", "2x01"))
    expected = "No merge has all of its groups yet, so none is named the best."
    assert headline([one, replace(two, method="ties")]) == expected
    assert headline([one]).startswith("average at lr=0.1 gains")


def test_a_value_that_fails_in_a_group_has_no_mean_validation_loss(
    make_plan: Callable[..., Plan], expert_manifest: Make, merge_manifest: Make
) -> None:
    """The scaling 2 is not finite in the hard group and best in the others: it is not bold."""
    plan = make_plan(
        tasks={"names": ["emoji_objects", "font_letters", "mnist_5k"], "max_validation": 20},
        merge=[{"method": "ties", "scaling": {"tune": [1.0, 2.0]}}],
    )
    manifests = [expert_manifest(each) for each in plan.experts.values()]
    for place, spec in enumerate(plan.merges.values()):
        losses = [(3.0, float("nan")), (1.5, 1.0), (1.5, 1.0)][place]
        tried = tuple(
            TriedPoint(values={"scaling": scaling}, loss=loss, accuracy=0.5)
            for scaling, loss in zip((1.0, 2.0), losses, strict=True)
        )
        best = tried[0] if place == 0 else tried[1]
        tuning = TuningMetrics(chosen=best.values, tried=tried, num_images=40)
        made = merge_manifest(spec)
        metrics: dict[str, Any] = {**made.metrics, "tuning": tuning.to_json()}
        manifests.append(replace(made, metrics=json.loads(json.dumps(metrics))))
    page = page_of(Ledger(plan, manifests=manifests))
    section = page[page.index('id="tuning"') : page.index('id="facts"')]
    assert '<td class="best">2.000</td><td>—</td>' in section
