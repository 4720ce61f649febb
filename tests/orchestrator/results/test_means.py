import math
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.results.means import means_table, ordered_values, setting_means, spread
from orchestrator.results.schema import RESULTS_SCHEMA


def row(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 cells of several types
    group = changes.get("group", "2x00")
    value = changes.get("value", "0.1")
    return {
        "study": "s",
        "backbone": "b",
        "axis": "lr",
        "value": value,
        "setting": f"lr={value}",
        "method": "average",
        "data_use": "none",
        "per_task_modules": False,
        "group": group,
        "num_tasks": 2,
        "task": "macro",
        "held_out": False,
        "accuracy": 0.5,
        "loss": 1.0,
        "normalized_accuracy": 0.8,
        "expert_accuracy": 0.7,
        "expert_loss": 0.5,
        "base_accuracy": 0.4,
        "base_loss": 1.2,
        **changes,
    }


def results(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RESULTS_SCHEMA)


def test_spread_is_the_sample_standard_deviation_and_its_error() -> None:
    """The values 1, 2 and 6 have mean 3 and variance (4 + 1 + 9) / 2 = 7."""
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == pytest.approx(3.0)
    assert found.std == pytest.approx(math.sqrt(7))
    assert found.stderr == pytest.approx(math.sqrt(7 / 3))
    assert (found.num_groups, found.num_not_finite) == (3, 0)


def test_spread_of_one_group_has_no_deviation() -> None:
    """Standard deviation and error of one value are NaN, without a warning."""
    found = spread([0.25])
    assert found.mean == 0.25
    assert math.isnan(found.std)
    assert math.isnan(found.stderr)


def test_spread_counts_values_that_are_not_finite() -> None:
    """NaN, infinity and missing values are counted apart and do not change the mean."""
    found = spread([1.0, math.nan, math.inf, None, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert (found.num_groups, found.num_not_finite) == (2, 3)


def test_spread_of_nothing_finite_is_nan() -> None:
    """If every group diverged, the mean is NaN and the count has all groups."""
    found = spread([math.nan, math.nan])
    assert math.isnan(found.mean)
    assert (found.num_groups, found.num_not_finite) == (0, 2)


def test_means_are_over_groups_and_apart_for_macro_and_union() -> None:
    """Rows of the two means are never mixed, and rows of tasks are in neither."""
    table = results(
        row(group="2x00", accuracy=0.5),
        row(group="2x01", accuracy=0.7),
        row(group="2x00", task="union", accuracy=0.1),
        row(group="2x01", task="union", accuracy=0.3),
        row(group="2x00", task="digits", accuracy=0.99),
        row(group="2x00", task="letters", accuracy=0.01, held_out=True),
    )
    (found,) = setting_means(table)
    assert found.macro.accuracy.mean == pytest.approx(0.6)
    assert found.union.accuracy.mean == pytest.approx(0.2)
    assert found.under("union") is found.union
    assert found.num_groups == 2
    assert found.num_tasks == 2


def test_gain_is_paired_with_the_base_of_the_same_group() -> None:
    """Accuracies that follow the base have a gain without spread."""
    table = results(
        row(group="2x00", accuracy=0.5, base_accuracy=0.4),
        row(group="2x01", accuracy=0.9, base_accuracy=0.8),
    )
    (found,) = setting_means(table)
    assert found.macro.gain.mean == pytest.approx(0.1)
    assert found.macro.gain.std == pytest.approx(0.0, abs=1e-12)
    assert found.macro.accuracy.std == pytest.approx(math.sqrt(0.08))


def test_gain_is_missing_if_the_base_was_not_evaluated() -> None:
    """The accuracy is not affected."""
    (found,) = setting_means(results(row(base_accuracy=None)))
    assert found.macro.gain.num_not_finite == 1
    assert found.macro.accuracy.mean == 0.5


def test_a_loss_that_is_not_a_number_leaves_the_accuracy_mean_whole() -> None:
    """A diverged group is counted in the loss and stays in the mean of the accuracy."""
    table = results(row(group="2x00", loss=math.nan), row(group="2x01", loss=3.0))
    (found,) = setting_means(table)
    assert found.macro.loss.mean == 3.0
    assert found.macro.loss.num_not_finite == 1
    assert found.macro.accuracy.num_groups == 2


def test_settings_come_in_the_order_of_the_plan() -> None:
    """Axes and methods keep the order of appearance; numeric values are sorted."""
    table = results(
        row(axis="steps", value="1000", method="ties"),
        row(axis="steps", value="1000", method="average"),
        row(axis="steps", value="200", method="average"),
        row(axis="lr", value="0.1", method="average"),
    )
    order = [(s.axis, s.value, s.method) for s in setting_means(table)]
    assert order == [
        ("steps", "200", "average"),
        ("steps", "1000", "ties"),
        ("steps", "1000", "average"),
        ("lr", "0.1", "average"),
    ]


def test_values_that_are_names_keep_their_order() -> None:
    """One value that is not a number leaves the whole axis in the order of appearance."""
    assert ordered_values(["sgd", "10", "9", "sgd"]) == ("sgd", "10", "9")
    assert ordered_values(["1e-2", "0.001", "10"]) == ("0.001", "1e-2", "10")


def test_groups_of_several_sizes_have_no_number_of_tasks() -> None:
    """A setting with groups of several sizes has None for the number of tasks."""
    table = results(row(group="2x00"), row(group="4x00", num_tasks=4))
    assert setting_means(table)[0].num_tasks is None


def test_a_group_twice_is_refused_by_name() -> None:
    """A group that is counted twice would shrink the standard error."""
    with pytest.raises(ValueError, match=r"'2x00'.*'average'.*'lr=0\.1'"):
        setting_means(results(row(), row()))


@pytest.mark.parametrize("column", ["study", "backbone"])
def test_a_mixed_table_is_refused(column: str) -> None:
    """Two studies, or two backbones, are never averaged together."""
    with pytest.raises(ValueError, match=column):
        setting_means(results(row(), row(**{column: "other", "group": "2x01"})))


def test_an_empty_table_has_no_means() -> None:
    """A study without merges has no means, and that is no error."""
    assert setting_means(results()) == ()


def test_means_are_rows_for_other_programs() -> None:
    """Macro and union have rows of their own; the deviation of one group is null."""
    table = results(
        row(group="2x00", accuracy=0.5),
        row(group="2x01", accuracy=0.7),
        row(group="2x00", task="union", accuracy=0.25),
    )
    macro, union = means_table(setting_means(table)).to_pylist()
    assert (macro["axis"], macro["value"], macro["method"]) == ("lr", "0.1", "average")
    assert (macro["mean"], macro["num_groups"]) == ("macro", 2)
    assert macro["accuracy_mean"] == pytest.approx(0.6)
    assert macro["accuracy_std"] == pytest.approx(0.1 * math.sqrt(2))
    assert macro["gain_mean"] == pytest.approx(0.2)
    assert (union["mean"], union["accuracy_mean"], union["accuracy_std"]) == ("union", 0.25, None)


def test_means_say_over_how_many_groups_each_number_is() -> None:
    """A loss that is not finite in the second group leaves a mean over the first alone."""
    table = results(row(group="2x00", loss=1.5), row(group="2x01", loss=math.nan))
    macro, _ = means_table(setting_means(table)).to_pylist()
    assert (macro["loss_mean"], macro["num_groups"]) == (1.5, 2)
    assert (macro["loss_num_groups"], macro["accuracy_num_groups"]) == (1, 2)
