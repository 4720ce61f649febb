"""Predictors from the snapshots before a setting's experts, and from validation images."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.plan.plan import Plan
from orchestrator.theory.answers import compute_answers
from orchestrator.theory.evidence.snapshot_features import (
    NO_SNAPSHOTS,
    NO_VECTORS,
    Before,
    Snapshot,
    growth_exponent,
    losses_of,
    snapshot_places,
    snapshot_predictors,
)
from orchestrator.theory.evidence.validation_features import NO_VALIDATION, validation_predictors
from orchestrator.theory.findings import findings
from orchestrator.theory.panel import Array, Panel, panels
from orchestrator.theory.schema import NOTES, PREDICTIONS

RATES = ("0.1", "0.2")
COUNTS = (10, 20, 40, 80)


def name_of(rate: str, steps: int) -> str:
    return f"lr={rate}, steps={steps}"


def grid_places() -> dict[str, Before]:
    """Returns the places of a grid of rates and steps."""
    return {
        name_of(rate, steps): Before(
            steps=steps,
            earlier=tuple(
                Snapshot(steps=each, names=(name_of(rate, each),)) for each in COUNTS[:at]
            ),
        )
        for rate in RATES
        for at, steps in enumerate(COUNTS)
    }


@pytest.fixture
def grid(make_results: Callable[..., pa.Table]) -> pa.Table:
    """Returns results of a grid in which the first snapshot's loss decides the later ones."""
    names = [name_of(rate, steps) for rate in RATES for steps in COUNTS]

    def loss(index: int, _: str, __: str, task: str) -> float:
        rate, at = divmod(index, len(COUNTS))
        level = (0.0, 0.9)[rate]
        return 2.0 + level - 0.1 * at + 0.2 * "abcd".index(task)

    table = make_results({"grid": names}, loss=loss)
    settings = pa.array(table["value"].to_pylist())
    return table.set_column(table.schema.get_field_index("setting"), "setting", settings)


def test_a_grid_has_earlier_snapshots_of_the_same_trainings(
    make_plan: Callable[..., Plan],
) -> None:
    """Settings differ in rate or steps; only those of one rate are snapshots of one another."""
    axes: dict[str, Any] = {"lr": [0.01, 0.02], "steps": [5, 10, 20]}
    plan = make_plan(finetune={"design": "grid", "axes": axes})
    places = snapshot_places(plan)
    last = next(name for name in places if "0.02" in name and "20" in name)
    assert [each.steps for each in places[last].earlier] == [5, 10]
    assert all("0.02" in name for each in places[last].earlier for name in each.names)
    first = [name for name, each in places.items() if not each.earlier]
    assert len(first) == 2
    assert all(places[name].steps == 5 for name in first)


def test_schedules_that_end_with_the_steps_have_no_snapshots(
    make_plan: Callable[..., Plan],
) -> None:
    """With a cosine schedule each number of steps is a training of its own."""
    plan = make_plan(finetune={"schedule": "cosine", "axes": {"steps": [10, 20]}})
    assert not any(each.earlier for each in snapshot_places(plan).values())


def test_a_point_on_two_axes_is_one_snapshot_with_both_names(
    make_plan: Callable[..., Plan],
) -> None:
    """The default stands on the axis of rates too, and its merge has the name of either."""
    defaults = {"lr": 0.01, "steps": 10}
    plan = make_plan(
        finetune={"defaults": defaults, "axes": {"lr": [0.01, 0.02], "steps": [10, 20]}}
    )
    (snapshot,) = snapshot_places(plan)["steps=20"].earlier
    assert snapshot.names == ("lr=0.01", "steps=10")


def test_features_by_hand(grid: pa.Table) -> None:
    """The loss, length and growth at the first snapshots, and NaN where nothing comes before."""
    (panel,) = panels(grid)

    def gram(length: float) -> Array:
        return np.diag([length**2, (2 * length) ** 2])

    vectors = {
        (name_of(rate, steps), group): gram(float(rate) * math.sqrt(steps))
        for rate in RATES
        for steps in COUNTS
        for group in panel.groups
    }
    found = {
        each.name: each
        for each in snapshot_predictors(
            panel, places=grid_places(), losses=losses_of([panel]), vectors=vectors
        )
    }
    loss = found["first snapshot, merged loss"]
    length = found["first snapshot, length of task vectors"]
    growth = found["first two snapshots, growth of task vectors"]
    assert loss.known_settings == [1, 2, 3, 5, 6, 7]
    assert growth.known_settings == [2, 3, 6, 7]
    own = panel.group_means("loss")
    assert loss.features[5:8, 0, 0] == pytest.approx([own[4, 0]] * 3)
    assert length.features[1:4, 0, 0] == pytest.approx([math.log(1.5 * 0.1 * math.sqrt(10))] * 3)
    assert growth.features[2:4, 0, 0] == pytest.approx([0.5, 0.5])
    steps = found["first snapshot, merged loss and steps"].features[1:4, 0, 1]
    assert steps == pytest.approx(np.log([20, 40, 80]))


def test_the_exponent_is_the_mean_of_the_tasks() -> None:
    """One vector grows as the steps, one as their root; a length of 0 has no exponent."""
    first, second = np.array([1.0, 3.0]), np.array([4.0, 6.0])
    assert growth_exponent(first, second, steps=(10, 40)) == pytest.approx(0.75)
    assert math.isnan(growth_exponent(np.array([0.0, 1.0]), second, steps=(10, 40)))


def test_the_record_is_at_the_settings_that_have_a_value(grid: pa.Table) -> None:
    """Baselines are compared at the same settings, and the sentence names their number."""
    found = compute_answers(grid, trainings="not known", places=grid_places())
    rows = {
        row["predictor"]: row
        for row in found.rows(PREDICTIONS)
        if (row["target"], row["left_out"], row["score"]) == ("excess", "setting", "rmse")
    }
    assert {name: row["num_settings"] for name, row in rows.items()} == {
        "constant": 8,
        "base_loss": 8,
        "expert_loss": 8,
        "first snapshot, merged loss": 6,
        "first snapshot, merged loss and steps": 6,
    }
    assert rows["first snapshot, merged loss and steps"]["value"] < 0.05
    assert rows["first snapshot, merged loss"]["difference"] is not None
    texts = [each.text for each in findings(found)]
    assert any("at the 6 of 8 settings where it has a value" in text for text in texts)
    notes = {row["text"] for row in found.rows(NOTES)}
    assert {NO_VECTORS, NO_VALIDATION} <= notes
    assert NO_SNAPSHOTS not in notes


def test_too_few_settings_are_noted(grid: pa.Table) -> None:
    """Two settings after the first snapshot are too few to leave one out."""
    places = {name_of("0.1", steps): grid_places()[name_of("0.1", steps)] for steps in COUNTS[:3]}
    found = compute_answers(grid, trainings="not known", places=places)
    assert {
        "first snapshot, merged loss: only 2 settings of 4 that are needed",
    } <= {row["text"] for row in found.rows(NOTES)}


def test_validation_loss_of_tuned_merges_is_a_predictor(
    make_panel: Callable[..., Panel],
) -> None:
    """Merges that tuned nothing have none; a table of an untuned study has no such column."""
    loss = np.array([[[2.0]], [[3.0]]])
    (found,) = validation_predictors(make_panel(loss, validation_loss=loss - 0.5))
    assert found.features[:, 0, 0] == pytest.approx([1.5, 2.5])
    untuned = make_panel(loss, validation_loss=np.full_like(loss, np.nan))
    assert list(validation_predictors(untuned)) == []


def test_the_validation_loss_of_a_table_is_read(grid: pa.Table) -> None:
    """The column of tuned merges stands at each task of a group, and predicts without error."""
    losses = pa.array([row["loss"] for row in grid.to_pylist()])
    tuned = grid.append_column("validation_loss", losses)
    found = compute_answers(tuned, trainings="not known")
    assert NO_SNAPSHOTS in {row["text"] for row in found.rows(NOTES)}
    errors = [
        row["value"]
        for row in found.rows(PREDICTIONS)
        if row["predictor"] == "the merge on validation images"
        and (row["target"], row["left_out"], row["score"]) == ("excess", "setting", "rmse")
    ]
    assert errors == pytest.approx([0.0], abs=1e-3)
