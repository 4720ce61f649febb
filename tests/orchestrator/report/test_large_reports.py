"""Reports of studies that are too large to be shown whole, and parts that cannot be made."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cache

import pyarrow as pa
import pytest

from orchestrator.record.holes import Hole, MissingMerge, Outcome
from orchestrator.report.figures import figures
from orchestrator.report.fitting import MAX_PAGE_BYTES, fitted, piece
from orchestrator.report.markup import MAX_BULLETS, bullets
from orchestrator.report.page import render_report
from orchestrator.report.sections import MAX_HOLES, MAX_REASON_CHARS
from orchestrator.report.shown import (
    MAX_GROUPS,
    MAX_SETTINGS,
    NUM_GROUPS,
    NUM_VALUES,
    shown_axis,
    shown_groups,
)
from orchestrator.results.means import setting_means
from orchestrator.results.schema import EXPERTS_SCHEMA, RESULTS_SCHEMA
from orchestrator.results.study_results import StudyResults

SHARED = {
    "study": "large",
    "backbone": "lite0",
    "weights": "package",
    "pretrain_steps": 0,
    "base_accuracy": 0.2,
    "base_loss": 2.0,
}
SCORES = {
    "normalized_accuracy": 0.6,
    "expert_accuracy": 0.8,
    "expert_loss": 0.5,
    "data_use": "none",
    "per_task_modules": False,
    "num_tasks": 2,
    "held_out": False,
}


def accuracy_at(place: int, *, num: int) -> float:
    """Returns an accuracy that is least at the first value and greatest at the last but one."""
    return 0.3 + 0.4 * (place if place < num - 1 else 0.5) / num


def results_of(
    axis: str,
    values: Sequence[str],
    *,
    methods: Sequence[str] = ("average",),
    num_groups: int = 1,
    num_tasks: int = 8,
) -> StudyResults:
    """Returns the results of a study with an expert per value and task."""
    at = [(place, {"axis": axis, "value": v, "setting": v}) for place, v in enumerate(values)]
    merges = [
        {
            **SHARED,
            **SCORES,
            **setting,
            "method": method,
            "group": f"2x{group:04d}",
            "task": task,
            "merge_id": f"{place}-{method}-{group}",
            "accuracy": accuracy_at(place, num=len(values)) + group / 1e6,
            "loss": 1.0,
        }
        for place, setting in at
        for method in methods
        for group in range(num_groups)
        for task in ("t0", "t1", "macro", "union")
    ]
    experts = [
        {
            **SHARED,
            **setting,
            "task": f"t{task}",
            "num_classes": 10,
            "outcome": "done",
            "accuracy": accuracy_at(place, num=len(values)) + task / 1e6,
            "loss": 0.5,
            "expert_id": f"{place:06d}-{task}",
        }
        for place, setting in at
        for task in range(num_tasks)
    ]
    return StudyResults.of_tables(
        merges=pa.Table.from_pylist(merges, schema=RESULTS_SCHEMA),
        experts=pa.Table.from_pylist(experts, schema=EXPERTS_SCHEMA),
    )


def render(results: StudyResults, *, holes: Sequence[Hole] = (), text: str = "name: x\n") -> str:
    return render_report(
        study="large", results=results, holes=holes, datasets={}, facts={}, study_yaml=text
    )


@cache
def ten_thousand() -> str:
    """Returns the report of 10,000 experts with 2,500 merges."""
    values = [str(number) for number in range(1250)]
    return render(results_of("seed", values, methods=("average", "ties")))


def test_report_of_ten_thousand_experts_is_small_enough_for_a_browser() -> None:
    """All figures are there, and all in all it is far below the bound."""
    page = ten_thousand()
    assert len(page.encode()) < MAX_PAGE_BYTES / 3
    assert page.count("<svg") == 9
    assert "Left out" not in page


def test_large_report_has_means_the_best_and_the_worst() -> None:
    """The last value but one is the best, the first is the worst; the tables are linked."""
    page = ten_thousand()
    assert "Of 1,250 values, figures and numbers show" in page
    assert "Best: average at 1248 gains 49.9 points over the base, as does ties." in page
    assert page.count("<td>1,250</td><td>50.0\u00a0±\u00a011.6</td>") == 2
    assert page.count("000000-0") == 1  # the worst expert, in the list of the worst
    assert page.count("001248-7") == 1
    for name in ("results", "experts"):
        assert f'<a href="{name}.parquet">' in page


def values_of(axis: str, num: int, *, methods: int = 1) -> tuple[list[str], str]:
    """Returns the values that a report shows of an axis, and its note."""
    results = results_of(
        axis, [str(each) for each in range(num)], methods=[f"m{each}" for each in range(methods)]
    )
    shown = shown_axis(setting_means(results.merges))
    return list(dict.fromkeys(each.value for each in shown.settings)), shown.note


def test_axis_of_a_small_study_is_shown_whole() -> None:
    """Nothing is left out and nothing is said up to the bound."""
    for num, methods in ((MAX_SETTINGS, 1), (MAX_SETTINGS // 3, 3)):
        values, note = values_of("lr", num, methods=methods)
        assert (len(values), note) == (num, "")


def test_long_axis_of_numbers_keeps_its_ends_and_is_spaced_evenly() -> None:
    """A curve needs points everywhere; the best and the worst value are among them."""
    values, note = values_of("lr", MAX_SETTINGS + 1)
    numbers = [int(value) for value in values]
    assert {0, MAX_SETTINGS - 1, MAX_SETTINGS} <= set(numbers)
    assert max(after - before for before, after in itertools.pairwise(numbers)) <= 7
    assert len(values) <= NUM_VALUES + 2
    assert f"Of {MAX_SETTINGS + 1} values" in note


@pytest.mark.parametrize("axis", ["grid", "random"])
def test_long_axis_of_names_keeps_the_best_and_the_worst(axis: str) -> None:
    """Points of a grid have no order in which a curve could run."""
    values, note = values_of(axis, 300)
    assert {int(value) for value in values} == {*range(279, 299), *range(19), 299}
    assert len(values) == NUM_VALUES
    assert "the 20 best and the 20 worst" in note


def test_more_methods_leave_room_for_fewer_values() -> None:
    """Bars are values times methods."""
    values, _ = values_of("lr", 30, methods=20)
    assert 10 <= len(values) <= 14


def test_value_without_a_finite_accuracy_counts_as_the_worst() -> None:
    """It is shown, as a diverged setting is what a reader looks for."""
    results = results_of("grid", [f"p{each}" for each in range(300)])
    rows = results.merges.to_pylist()
    broken = [row | ({"accuracy": math.nan} if row["value"] == "p150" else {}) for row in rows]
    shown = shown_axis(setting_means(pa.Table.from_pylist(broken, schema=RESULTS_SCHEMA)))
    assert "p150" in {each.value for each in shown.settings}


def test_many_groups_are_represented_by_the_best_and_the_worst() -> None:
    """Chart and table have forty rows of five hundred, and the page says so."""
    results = results_of("lr", ["0.1"], num_groups=500)
    rows = [row for row in results.merges.to_pylist() if row["task"] == "macro"]
    names = shown_groups(rows)
    assert len(names) == NUM_GROUPS
    assert {"2x0000", "2x0019", "2x0480", "2x0499"} <= names
    assert len(shown_groups(rows[:MAX_GROUPS])) == MAX_GROUPS
    page = render(results)
    assert "Of 500 groups, the 20 best and the 20 worst over all methods are shown" in page
    assert "2x0250" not in page


def test_page_gives_up_its_largest_pieces_and_names_them() -> None:
    """Marks are gone, small pieces stay, and the line has name and size."""
    page = f"<p>{piece('a' * 1000, what='the <big> table')}{piece('b' * 10, what='c')}</p>"
    assert fitted(page) == f"<p>{'a' * 1000}{'b' * 10}</p>"
    small = fitted(page, most_bytes=500)
    assert "a" * 1000 not in small
    assert "Left out, because the page would be too large: the &lt;big&gt; table" in small
    assert "b" * 10 in small


def test_study_file_of_megabytes_leaves_the_rest_of_the_page() -> None:
    """No single text makes the page too large."""
    page = render(results_of("lr", ["0.1"]), text="# long\n" * 1_000_000)
    assert len(page.encode()) < MAX_PAGE_BYTES
    assert "too large: the study file, 7.0 MB" in page
    assert page.count("<svg") == 5


def test_tens_of_thousands_of_holes_are_counted_and_the_first_listed() -> None:
    """A long error is cut too."""
    missing = MissingMerge(method="ties", group="4x01", setting="lr=0.001")
    holes = [
        Hole(id=f"{each:016d}", artifact=missing, outcome=Outcome.FAILED, error="x" * 5000)
        for each in range(20_000)
    ]
    page = render(results_of("lr", ["0.1"]), holes=holes)
    assert "Incomplete: 20,000 failed" in page
    assert f"The first {MAX_HOLES:,} are listed." in page
    assert f"{MAX_HOLES - 1:016d}" in page
    assert f"{MAX_HOLES:016d}" not in page
    assert "x" * MAX_REASON_CHARS not in page
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_long_lists_of_sentences_end_with_a_count() -> None:
    """A study may have a diverged group at every setting."""
    html = bullets([f"line {each}" for each in range(2 * MAX_BULLETS)])
    assert html.count("<li>") == MAX_BULLETS + 1
    assert html.endswith(f"<li>and {MAX_BULLETS} more</li></ul>")


@pytest.fixture
def broken_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every line chart fail, as a font or a number of pixels may make it."""

    def fail(*_: object, **__: object) -> bytes:
        raise ValueError("Image size of 70000x400 pixels\nis too large")

    monkeypatch.setattr("orchestrator.report.charts.line_chart", fail)


@pytest.mark.usefixtures("broken_lines")
def test_figure_that_cannot_be_drawn_is_a_line_and_the_others_are_there() -> None:
    """Report and MLflow lose that figure only."""
    results = results_of("lr", ["0.1", "0.2"])
    page = render(results)
    line = "line plot: not drawn (ValueError: Image size of 70000x400 pixels is too large)"
    assert page.count(line) == 4
    assert page.count("<svg") == 5
    drawn = figures(results)
    assert set(drawn.faults) == {
        f"{mean}{quantity}_vs_lr.svg"
        for mean in ("", "union_")
        for quantity in ("accuracy", "loss")
    }
    assert len(drawn.files) == 5


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ("sections.headline", "The summary could not be made"),
        ("sections.figures", "The sections of the axes could not be made"),
        ("sections.axis_table", "The section of axis lr could not be made"),
        ("sections.group_table", "The section group by group could not be made"),
        ("sections.expert_tables", "The section of the experts could not be made"),
    ],
)
def test_section_that_cannot_be_made_is_a_line(
    broken: str, line: str, fail: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the page is there."""
    monkeypatch.setattr(f"orchestrator.report.{broken}", fail)
    page = render(results_of("lr", ["0.1"]))
    assert f"{line}: ZeroDivisionError: &lt;b&gt;" in page
    assert "name: x" in page


@pytest.fixture
def fail() -> Callable[..., None]:
    """Returns a function that fails."""

    def raise_(*_: object, **__: object) -> None:
        raise ZeroDivisionError("<b>")

    return raise_
