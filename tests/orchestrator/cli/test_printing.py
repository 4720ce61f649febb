import math
from collections.abc import Callable
from io import StringIO
from typing import Any

import pyarrow as pa

from orchestrator.cli.printing import print_experts, print_pairs, print_results, print_skipped
from orchestrator.cli.verbs.plan import axis_lines
from orchestrator.plan.plan import Plan
from orchestrator.progress.plain_console import PlainConsole
from orchestrator.results.means import setting_means
from orchestrator.results.schema import EXPERTS_SCHEMA, RESULTS_SCHEMA, SKIPPED
from orchestrator.theory.schema import PAIRS, SCHEMAS

USES = {
    "average": ("none", False),
    "dare_ties": ("none", False),
    "twin (surgery)": ("unlabelled train, unlabelled test", True),
}


def rows() -> list[dict[str, Any]]:
    """Makes two groups at two settings for each method."""
    return [
        {
            "study": "s",
            "backbone": "b",
            "axis": "lr",
            "value": value,
            "setting": f"lr={value}",
            "method": method,
            "data_use": data,
            "per_task_modules": per_task_modules,
            "group": group,
            "num_tasks": 8,
            "task": task,
            "accuracy": accuracy,
            "loss": 1.0,
            "normalized_accuracy": accuracy,
            "expert_accuracy": 0.9,
            "expert_loss": 1.0,
            "base_accuracy": 0.3,
            "base_loss": 1.0,
        }
        for value in ("0.001", "0.01")
        for method, (data, per_task_modules) in USES.items()
        for group, accuracy in (("8x00", 0.5), ("8x01", 0.6))
        for task in ("macro", "union")
    ]


def printed(*, width: int) -> list[str]:
    text = StringIO()
    results = pa.Table.from_pylist(rows(), schema=RESULTS_SCHEMA)
    print_results(setting_means(results), console=PlainConsole(width=width, file=text))
    return text.getvalue().splitlines()


def test_results_have_the_data_that_each_method_reads() -> None:
    """A reader sees which rows are not comparable."""
    lines = printed(width=140)
    (first, _) = (line for line in lines if "twin (surgery)" in line)
    assert "unlabelled train, unlabelled test, per-task modules" in first
    assert all("none" in line for line in lines if "average" in line)


def test_results_fit_80_columns_without_breaking_a_word_or_a_number() -> None:
    """80 columns are the default width of terminals."""
    lines = printed(width=80)
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert {"dare_ties", "unlabelled", "train,", "per-task", "modules"} <= set(words)
    assert words.count("55.0±7.1") == 18
    assert words.count("+25.0±7.1") == 6


def test_narrow_terminals_get_every_number() -> None:
    """They break the lines of a table themselves; a cut number would be wrong."""
    assert [line for line in printed(width=30) if "±" in line][1:] == [
        line for line in printed(width=80) if "±" in line
    ][1:]


def test_end_of_a_run_shows_the_first_rows_of_a_large_grid() -> None:
    """The others are counted, with the command that prints them."""
    text = StringIO()
    means = setting_means(pa.Table.from_pylist(rows(), schema=RESULTS_SCHEMA))
    print_results(means, console=PlainConsole(width=80, file=text), max_rows=4)
    lines = text.getvalue().splitlines()
    assert "\n".join(lines).count("+25.0±7.1") == 4
    assert f"and {len(means) - 4} more; `mergesweep results` prints all of them" in lines


def test_results_that_do_not_exist_are_said() -> None:
    """A study may have experts and no merge yet, and a merge may have no finite accuracy."""
    text = StringIO()
    console = PlainConsole(width=80, file=text)
    print_results([], console=console)
    print_experts(EXPERTS_SCHEMA.empty_table(), console=console)
    assert text.getvalue() == "no merge has a result yet\nno expert is committed yet\n"
    nan = [{**row, "accuracy": math.nan} for row in rows()]
    print_results(setting_means(pa.Table.from_pylist(nan, schema=RESULTS_SCHEMA)), console=console)
    assert "—" in text.getvalue()
    assert "nan" not in text.getvalue()


def test_skipped_images_are_shown_where_there_are_any() -> None:
    """The experts get a column, and the means a line with the tasks that lack images."""
    expert = {"setting": "default", "num_classes": 10, "outcome": "done", "accuracy": 0.5}
    counts = {"pets": 1200, "birds": 0, "trees": None}
    table = pa.Table.from_pylist(
        [{**expert, "task": task, SKIPPED.name: num} for task, num in counts.items()],
        schema=EXPERTS_SCHEMA.append(SKIPPED),
    )
    text = StringIO()
    console = PlainConsole(width=80, file=text)
    print_experts(table, console=console)
    ends = {line.split()[1]: line.split()[-1] for line in text.getvalue().splitlines()[4:7]}
    assert ends == {"pets": "1,200", "birds": "0", "trees": "—"}
    text.truncate(0)
    print_skipped(table, console=console)
    print_skipped(table.drop_columns([SKIPPED.name]), console=console)
    assert text.getvalue().strip("\0") == "images skipped, as they cannot be used: pets 1,200\n"


def test_plan_names_each_axis_with_its_values(make_plan: Callable[..., Plan]) -> None:
    """Values are written as in the study file; the axes of a grid are not listed."""
    axes = {"head": ["trained", "frozen"], "linearised": [False, True]}
    plan = make_plan(finetune={"axes": axes}, groups={"size": 2, "sizes": [2, 3]})
    assert axis_lines(plan) == [
        "axis head: trained, frozen",
        "axis linearised: false, true",
        "axis num_tasks: 2, 3",
    ]
    assert axis_lines(make_plan(finetune={"axes": axes, "design": "grid"})) == []
    assert axis_lines(make_plan()) == []


def test_pairs_name_family_and_best_once() -> None:
    """Each family begins a section; a comparison without an interval has a dash."""
    row = {
        "kind": "values",
        "family": "average",
        "axis": "lr",
        "mean": "macro",
        "quantity": "loss",
        "best": "0.1",
        "other": "0.2",
        "difference": -0.0123,
        "low": -0.02,
        "high": -0.001,
        "num_better": 4,
        "num_groups": 5,
        "p_holm": 0.031,
    }
    further = row | {"other": "0.3", "low": None, "high": None, "p_holm": None}
    union = row | {"mean": "union", "other": "0.4"}
    table = pa.Table.from_pylist([row, further, union], schema=SCHEMAS[PAIRS])
    output = StringIO()
    print_pairs(table, console=PlainConsole(file=output, width=100))
    lines = [line.split() for line in output.getvalue().splitlines()]
    assert ["average,", "lr", "0.1", "0.2", "-0.012", "-0.020", "-0.001", "4/5", "0.031"] in lines
    assert ["0.3", "-0.012", "—", "4/5", "—"] in lines
    assert "0.4" not in output.getvalue()


def test_a_gain_that_rounds_to_zero_has_no_minus() -> None:
    """A loss of 0.04 points is `+0.0`, as in the report, and no `-0.0`."""
    level = [row | {"base_accuracy": row["accuracy"] + 0.0004} for row in rows()]
    text = StringIO()
    results = pa.Table.from_pylist(level, schema=RESULTS_SCHEMA)
    print_results(setting_means(results), console=PlainConsole(width=120, file=text))
    assert "+0.0±0.0" in text.getvalue()
    assert "-0.0" not in text.getvalue()


def test_a_mean_over_fewer_groups_is_marked() -> None:
    """An expert without any right answer has no ratio: the other group alone is in that mean."""
    without = [
        row | {"normalized_accuracy": math.nan} if row["group"] == "8x01" else row for row in rows()
    ]
    text = StringIO()
    results = pa.Table.from_pylist(without, schema=RESULTS_SCHEMA)
    print_results(setting_means(results), console=PlainConsole(width=120, file=text))
    assert "50.0*" in text.getvalue()
    assert "*: over fewer than n groups" in text.getvalue()
    assert "*:" not in "".join(printed(width=120))
