import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.record.holes import Blocker, Hole, MissingMerge, Outcome
from orchestrator.report.canvas import x_scale
from orchestrator.report.expert_tables import expert_tables
from orchestrator.report.figures import figures, on_white
from orchestrator.report.focus import focus_of
from orchestrator.report.page import render_report
from orchestrator.report.style import method_styles
from orchestrator.report.wording import (
    MISSING,
    best_of_other_kinds,
    headline,
    method_lines,
    not_finite_lines,
)
from orchestrator.results.means import setting_means
from orchestrator.results.schema import EXPERTS_SCHEMA, RESULTS_SCHEMA
from orchestrator.results.study_results import StudyResults
from workers.artifacts.metrics import DataMetrics, ImagePairs, SkippedImages

TASKS = ("digits", "emoji", "flags", "letters", "shapes", "textures")
DEFAULTS = {"lr": "0.001", "steps": "80", "num_tasks": "4"}
AXES = {
    "lr": ("0.0001", "0.0003", "0.001", "0.003"),
    "steps": ("20", "80", "320"),
    "num_tasks": ("2", "4", "6"),
}
METHODS = ("average", "ties", "dare")
GAINS = {"0.0001": 0.05, "0.0003": 0.123, "0.001": 0.08, "0.003": -0.201}

Axes = Mapping[str, Sequence[str]]
Attributes = list[tuple[str, str | None]]


def setting_row(axis: str, value: str, point: Mapping[str, str]) -> dict[str, Any]:
    return {
        "study": "demo",
        "backbone": "lite0",
        "axis": axis,
        "value": value,
        "setting": f"{axis}={value}",
        "steps": int(point["steps"]),
        "lr": float(point["lr"]),
    }


def points(axes: Axes) -> list[tuple[dict[str, str], dict[str, Any]]]:
    settings = [(axis, value) for axis, values in axes.items() for value in values]
    placed = [
        (axis, value, DEFAULTS | ({axis: value} if axis in DEFAULTS else {}))
        for axis, value in settings
    ]
    return [(point, setting_row(axis, value, point)) for axis, value, point in placed]


def merge_rows(axes: Axes = AXES, methods: Sequence[str] = METHODS) -> list[dict[str, Any]]:
    rows = []
    for point, shared in points(axes):
        size = int(point["num_tasks"])
        groups = list(itertools.combinations(TASKS, size))[:15]
        for (index, tasks), (rank, method) in itertools.product(
            enumerate(groups), enumerate(methods)
        ):
            gain = GAINS.get(point["lr"], 0.0) - 0.03 * rank
            merged = shared | merge_cells(index, size=size, gain=gain)
            merged["method"] = method
            merged["merge_id"] = f"{method}-{point['lr']}-{point['steps']}-{size}-{index}"
            rows += [merged | {"task": task} for task in (*tasks, "macro")]
            rows.append(merged | {"task": "union", "accuracy": merged["accuracy"] - 0.01})
    return rows


def merge_cells(index: int, *, size: int, gain: float) -> dict[str, Any]:
    base = 0.5 + 0.002 * index
    return {
        "group": f"{size}x{index:02d}",
        "data_use": "none",
        "per_task_modules": False,
        "num_tasks": size,
        "held_out": False,
        "accuracy": base + gain,
        "loss": 2.0 - gain,
        "normalized_accuracy": (base + gain) / 0.8,
        "expert_accuracy": 0.8,
        "expert_loss": 0.6,
        "base_accuracy": base,
        "base_loss": 1.9,
    }


def expert_rows(axes: Axes = AXES) -> list[dict[str, Any]]:
    return [
        shared
        | {
            "task": task,
            "num_classes": 8,
            "outcome": "done",
            "train_loss": 0.1,
            "accuracy": 0.8,
            "loss": 0.6,
            "base_accuracy": 0.5,
            "base_loss": 1.9,
            "expert_id": f"{task}-{point['lr']}-{point['steps']}",
        }
        for point, shared in points(axes)
        for task in TASKS
    ]


DATASETS = {
    "trees": DataMetrics(
        num_classes=2,
        num_train=1200,
        num_test=3,
        images_per_shard=9,
        class_counts={"train": (1199, 1), "test": (1, 2)},
        shared=ImagePairs(num_images=1, first=(("train/<elm>/0.png", "test/oak/1.png"),)),
        contradictions=ImagePairs(num_images=0, first=()),
        skipped=SkippedImages(num_images=7, first=("train/elm/7.png: the file is empty",)),
    ),
    "old": DataMetrics(
        num_classes=10,
        num_train=5,
        num_test=4,
        images_per_shard=9,
        class_counts=None,
        shared=None,
        contradictions=None,
    ),
}
"""A task as prepared now, and a task that an earlier release prepared."""


def results_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=RESULTS_SCHEMA)


def experts_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=EXPERTS_SCHEMA)


def render(
    rows: list[dict[str, Any]] | None = None,
    experts: list[dict[str, Any]] | None = None,
    **changes: Any,  # noqa: ANN401 arguments of several types
) -> str:
    arguments: dict[str, Any] = {
        "study": "demo",
        "holes": [],
        "datasets": DATASETS,
        "facts": {"Store": "s3://bucket/demo"},
        "study_yaml": "name: demo\n",
        **changes,
    }
    return render_report(
        results=StudyResults.of_tables(
            merges=results_table(merge_rows() if rows is None else rows),
            experts=experts_table(expert_rows() if experts is None else experts),
        ),
        **arguments,
    )


def draw(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    results = StudyResults.of_tables(merges=results_table(rows), experts=experts_table([]))
    drawn = figures(results)
    assert drawn.faults == {}
    return dict(drawn.files)


@cache
def full_page() -> str:
    return render()


class Tags(HTMLParser):
    """Collects ids, start tags and unbalanced tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.started: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:  # noqa: D102 inherited
        self.started.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name in {"href", "src"} and value]
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Attributes) -> None:  # noqa: D102 inherited
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:  # noqa: D102 inherited
        assert self.open.pop() == tag


def test_page_needs_nothing_from_elsewhere() -> None:
    """No script, style sheet, font or picture is loaded; every link stays on the page."""
    page = Tags(full_page())
    assert not {"script", "link", "img", "iframe"} & set(page.started)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in full_page()
    assert "@font-face" not in full_page()


def test_page_is_well_formed_with_unique_ids() -> None:
    """Every tag is closed in order, and no id appears twice, in charts neither."""
    page = Tags(full_page())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_equal_results_give_an_equal_page() -> None:
    """The page has no dates, no random ids, and nothing in the order of a set."""
    rows = merge_rows({"lr": ("0.0003", "0.001")})
    assert render(rows) == render(rows)


def test_page_has_four_figures_per_mean_and_axis() -> None:
    """Three axes, two means, two quantities, lines and bars, and one by group: 25 charts."""
    assert Tags(full_page()).started.count("svg") == 25
    for axis in AXES:
        assert f'aria-label="Mean loss against {axis}, macro (mean over tasks), bar' in full_page()


def test_summary_is_computed_from_the_numbers() -> None:
    """The first sentence has the best and the worst setting with their points."""
    assert (
        "Best: average at lr=0.0003 gains 12.3 points over the base. "
        "Worst: dare at lr=0.003 loses 26.1 points against the base."
    ) in full_page()


def test_summary_has_a_sentence_for_every_method() -> None:
    """The sentence of a method names its best and its worst setting."""
    (line, *others) = method_lines(setting_means(results_table(merge_rows())))
    assert line == (
        "average gains 12.3 points over the base at lr=0.0003, its best setting, "
        "and loses 20.1 points against the base at lr=0.003, its worst."
    )
    assert len(others) == 2


def test_summary_without_a_base_tells_accuracies() -> None:
    """The sentence claims no gain if the base was not evaluated."""
    rows = [row | {"base_accuracy": None} for row in merge_rows({"lr": ("0.0003", "0.003")})]
    text = headline(setting_means(results_table(rows)))
    assert text.startswith("Best: average at lr=0.0003 reaches 63.7 % accuracy.")


def test_equal_merges_share_the_first_place() -> None:
    """The first in the tables is the best, and other methods with its result are named."""
    first, second, third = setting_means(
        results_table(merge_rows({"lr": ("0.001",)}, ("a", "b", "c")))
    )
    equal = [replace(each, macro=second.macro) for each in (first, second)]
    assert headline([*equal, third]).startswith("Best: a at lr=0.001 ")
    assert ", as does b. Worst: c at lr=0.001 " in headline([*equal, third])
    assert headline(equal).startswith("All merges are alike: each ")


def hole_of(method: str, **fields: Any) -> Hole:  # noqa: ANN401 any field of a hole
    """Returns the hole of a merge by a method."""
    merge = MissingMerge(method=method, group="4x01", setting="lr=0.001")
    return Hole(id="0123456789abcdef", artifact=merge, **fields)


def test_holes_come_first_with_outcome_and_reason() -> None:
    """An incomplete study lists its holes before the summary; a complete one has no box."""
    blocker = Blocker(kind="expert", id="abc", outcome=Outcome.DIVERGED, task="mnist_5k")
    holes = [
        hole_of("ties", outcome=Outcome.FAILED, error="out of memory"),
        hole_of("dare", outcome=Outcome.NOT_RUN, blocked_by=blocker),
    ]
    page = render(merge_rows({"lr": ("0.001",)}), holes=holes)
    assert "Incomplete: 1 failed, 1 not run" in page
    assert page.index("blocked by diverged expert abc of mnist_5k") < page.index('class="headline"')
    assert 'id="holes"' not in full_page()


@pytest.mark.parametrize("evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_from_outside_are_text(evil: str) -> None:
    """Markup in names and texts is shown and not interpreted."""
    rows = [
        row | {"method": evil, "axis": evil, "value": evil, "setting": evil, "group": evil}
        for row in merge_rows({"lr": ("0.001",)}, ("average",))
        if row["group"] == "4x00"
    ]
    experts = [row | {"axis": evil, "value": evil} for row in expert_rows({"lr": ("0.001",)})]
    hole = hole_of(evil, outcome=Outcome.FAILED, error=evil)
    page = render(
        rows, experts, study=evil, holes=[hole], facts={evil: evil}, study_yaml=f"</pre>{evil}"
    )
    tags = Tags(page)
    assert not {"script", "img"} & set(tags.started)
    assert tags.open == []
    assert "alert(1)" in page


@pytest.mark.parametrize("method", ["$x^{", "_hidden", "$$", "\\frac"])
def test_labels_are_drawn_as_they_are(method: str) -> None:
    """A label that looks like mathematics or a private name is drawn as text."""
    for values in (("0.001",), ("0.001", "0.003")):  # bars beside names, then a legend
        rows = merge_rows({"lr": values}, (method,))
        drawn = draw(rows)
        assert f">{method}<" in drawn["accuracy_bars_lr.svg"].decode()


def test_axis_with_one_value_has_a_bar_per_method() -> None:
    """There is nothing to draw a line along, and a long legend is hard to read."""
    drawn = draw(merge_rows({"lr": ("0.001",)}))
    assert "accuracy_bars_lr.svg" in drawn
    assert not any("_vs_" in name for name in drawn)


def test_merges_that_read_data_are_ranked_apart() -> None:
    """The headline covers merges that use least; every other kind has a line for its best."""
    plain, *others = setting_means(results_table(merge_rows({"lr": ("0.001",)}, ("a", "b", "c"))))
    reading = replace(others[0], data_use="labelled train")
    own = replace(others[1], per_task_modules=True)
    settings = [own, reading, plain]
    assert headline(settings).startswith("a at lr=0.001")
    lines = best_of_other_kinds(settings)
    assert [line.partition(":")[0] for line in lines] == [
        "Best with labelled train images",
        "Best with per-task modules",
    ]


def test_setting_on_two_axes_is_one_setting_of_its_method() -> None:
    """A method that is at the defaults alone has no worst setting beside its best."""
    first, *_ = setting_means(results_table(merge_rows({"lr": ("0.001",)}, ("a",))))
    (line,) = method_lines([first, replace(first, axis="steps", value="40")])
    assert line == "a gains 8.0 points over the base at lr=0.001."


def test_figures_are_svg_files_by_name() -> None:
    """They are named by quantity and axis; MLflow shows them on white."""
    drawn = draw(merge_rows({"lr": ("0.001", "0.0003")}))
    assert set(drawn) == {
        "accuracy_vs_lr.svg",
        "loss_vs_lr.svg",
        "accuracy_bars_lr.svg",
        "loss_bars_lr.svg",
        "union_accuracy_vs_lr.svg",
        "union_loss_vs_lr.svg",
        "union_accuracy_bars_lr.svg",
        "union_loss_bars_lr.svg",
        "accuracy_by_group.svg",
    }
    assert all(b"<svg" in content and b'fill="white"' not in content for content in drawn.values())
    assert all(b'><rect width="100%" height="100%"' in on_white(each) for each in drawn.values())


def test_a_missing_method_leaves_the_others() -> None:
    """A method without a finished group at one setting is left out there only."""
    rows = [
        row
        for row in merge_rows({"lr": ("0.0003", "0.001")})
        if (row["method"], row["value"]) != ("ties", "0.001")
    ]
    settings = setting_means(results_table(rows))
    assert [s.method for s in settings if s.value == "0.001"] == ["average", "dare"]
    assert render(rows).count(">ties</th>") == 2 + 1  # one value, and the heads of two tables


def test_losses_that_are_not_finite_are_counted() -> None:
    """The page counts diverged groups in words and in the cell, and draws the others."""
    rows = merge_rows({"lr": ("0.001", "0.003")}, ("average",))
    for row in rows:
        if row["value"] == "0.003" and row["group"] < "4x03":
            row["loss"] = math.nan
    page = render(rows)
    assert "average at lr=0.003: the loss is not finite in 3 of 15 groups" in page
    assert "(12\u00a0of\u00a015)" in page


def test_setting_without_any_finite_loss_gets_a_cross() -> None:
    """The chart marks a method whose groups all diverged."""
    rows = merge_rows({"lr": ("0.001", "0.003")}, ("average",))
    sound = draw(rows)["loss_vs_lr.svg"]
    broken = [row | ({"loss": math.nan} if row["value"] == "0.003" else {}) for row in rows]
    drawn = draw(broken)["loss_vs_lr.svg"]
    cross = 'd="M -4 4 \nL 4 -4 \nM -4 -4 \nL 4 4 \n"'
    assert cross in drawn.decode()
    assert cross not in sound.decode()
    (line,) = not_finite_lines(setting_means(results_table(broken)))
    assert line.endswith("15 of 15 groups; there is no mean.")


def test_a_single_group_has_no_error() -> None:
    """The mean of a single group has no ± in the table."""
    page = render(merge_rows({"num_tasks": ("6",)}, ("average",)))
    assert "<td>+8.0</td>" in page


def test_an_empty_study_still_has_a_page() -> None:
    """Before the first merge, the page has that sentence, the facts and the study file."""
    page = render([], [])
    assert "No merge job has committed a result yet." in page
    assert "s3://bucket/demo" in page
    assert Tags(page).open == []


@pytest.mark.parametrize("axis", ["grid", "random"])
def test_designs_without_an_order_are_not_joined_by_lines(axis: str) -> None:
    """Values of grids and random draws are names, even if they look like numbers."""
    scale = x_scale(axis, ["0", "1", "2"])
    assert not scale.continuous
    page = render(merge_rows({axis: ("0", "1", "2")}, ("average",)), expert_rows({axis: ("0",)}))
    assert f"Axis: {axis}" in page


def test_focus_is_the_setting_that_axes_share() -> None:
    """The default has the same merges under all three axes."""
    table = results_table(merge_rows())
    focus = focus_of(table, setting_means(table))
    assert focus is not None
    assert (focus.setting, len(focus.macro_by_group())) == ("lr=0.001", 15)
    assert "3 axes share" in focus.reason


def test_focus_of_a_single_axis_is_its_best_setting() -> None:
    """With one axis the default is not known, and the page gives the reason of its choice."""
    table = results_table(merge_rows({"lr": AXES["lr"]}))
    focus = focus_of(table, setting_means(table))
    assert focus is not None
    assert focus.setting == "lr=0.0003"
    assert "most accurate" in focus.reason


def test_held_out_tasks_are_named_and_outside_the_means() -> None:
    """A held-out task has a row in the table by task, and does not change the means."""
    rows = merge_rows({"lr": ("0.001",)}, ("average",))
    outside = [
        row | {"task": "sketches", "held_out": True, "accuracy": 0.01}
        for row in rows
        if row["task"] == "macro"
    ]
    assert setting_means(results_table(rows + outside)) == setting_means(results_table(rows))
    assert "sketches (held out)" in render(rows + outside)


def test_axis_tables_show_the_data_of_each_method() -> None:
    """Rows of methods show the data that they read; rows of base and experts do not."""
    rows = merge_rows({"lr": ("0.001",)})
    for row in rows:
        if row["method"] == "ties":
            row |= {"data_use": "unlabelled test", "per_task_modules": True}
    page = render(rows)
    assert '<td class="text">unlabelled test, per-task modules</td>' in page
    assert page.count('<td class="text">none</td>') == len(METHODS) - 1


def test_experts_show_chance_and_base() -> None:
    """Eight classes give 12.5 % chance, beside the base with the same head."""
    table = expert_tables(experts_table(expert_rows()))["lr"]
    assert '<th scope="row">digits</th><td>8</td><td>12.5</td><td>50.0</td>' in table
    assert "lr=0.003" in table


def test_settings_with_the_same_experts_share_a_column() -> None:
    """The number of tasks changes no expert, so its values share one column."""
    assert "num_tasks=2, 4, 6" in expert_tables(experts_table(expert_rows()))["num_tasks"]


def test_a_diverged_expert_is_marked() -> None:
    """The cell says diverged and has the accuracy of the last finite weights."""
    rows = expert_rows({"lr": ("0.001",)})
    rows[0] |= {"outcome": "diverged", "accuracy": 0.125, "loss": math.nan}
    assert "12.5 diverged</td>" in expert_tables(experts_table(rows))["lr"]


def test_a_missing_expert_is_not_hidden_in_the_mean() -> None:
    """A mean over five of six tasks shows both numbers."""
    rows = [r for r in expert_rows({"lr": ("0.001", "0.003")}) if r["task"] != "emoji"]
    rows += expert_rows({"lr": ("0.003",)})[1:2]
    assert "80.0 (5 of 6)" in expert_tables(experts_table(rows))["lr"]


def test_every_colour_has_one_meaning_in_the_page() -> None:
    """A method has the same colour in charts and tables."""
    color = method_styles(METHODS)["ties"].color
    assert f'<i style="background:{color}"></i>ties' in full_page()
    drawn = draw(merge_rows({"lr": ("0.001",)}))
    assert all(re.search(color, content.decode()) for content in drawn.values())


def test_data_of_every_task_is_shown() -> None:
    """The table has counts by class and equal images; what an old manifest lacks stays open."""
    page = full_page()
    section = page[page.index('id="data"') : page.index('id="facts"')]
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", section)
    start = cells.index("trees")
    assert cells[start : start + 13] == [
        *("trees", "2", "1,200", "1", "600", "1,199", "3", "1", "1.5", "2", "1", "0", "7")
    ]
    assert cells[start + 13 :] == [
        *("old", "10", "5", MISSING, MISSING, MISSING, "4", MISSING, MISSING, MISSING),
        *(MISSING, MISSING, "0"),
    ]
    assert "train/&lt;elm&gt;/0.png and test/oak/1.png" in section


def test_a_page_without_prepared_images_has_no_data_section() -> None:
    """Neither the section nor a link to it is there."""
    assert "#data" not in render(datasets={})
