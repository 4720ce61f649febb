import math
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pytest

from orchestrator.advice.tried import beside_default, tried_settings
from orchestrator.plan.plan import Plan
from orchestrator.theory.panel import panels

LR = [0.0001, 0.0003, 0.001, 0.003]


def test_settings_of_another_kind_are_left_out(
    make_varied: Callable[..., Plan], make_table: Callable[..., pa.Table]
) -> None:
    """Augmented settings look like the default to every predictor; only one kind is compared."""
    plan = make_varied({"lr": LR, "augment": ["none", "flip"]})
    (panel,) = panels(make_table(plan, lambda point: point.lr, noise=0.0))
    tried = tried_settings(panel, plan)
    assert [point.lr for point in tried.points] == LR
    assert {point.augment for point in tried.points} == {"none"}
    assert any("augment=flip" in sentence for sentence in tried.left_out)


def test_repetitions_with_other_seeds_are_one_setting(
    make_varied: Callable[..., Plan], make_table: Callable[..., pa.Table]
) -> None:
    """Its loss is the mean over the seeds."""
    axes = {"lr": LR, "seed": [0, 1, 2]}
    plan = make_varied(axes, finetune={"design": "grid"})
    table = make_table(plan, lambda point: 10 + math.log(point.lr) + point.seed, noise=0.0)
    (panel,) = panels(table)
    tried = tried_settings(panel, plan)
    assert [point.lr for point in tried.points] == LR
    means = tried.panel.group_means("loss").mean(axis=1)
    assert means - means[0] == pytest.approx([math.log(lr / LR[0]) for lr in LR])
    first = panel.group_means("loss")[0].mean()
    assert means[0] == pytest.approx(first + 1)


def test_a_point_is_written_with_its_axes_and_its_departures(
    make_varied: Callable[..., Plan],
) -> None:
    """Other hyperparameters are the study's defaults, which the file has already."""
    default = make_varied({"lr": LR}).study.finetune.default_point
    written = beside_default(replace(default, lr=0.5, augment="flip"), default)
    assert written == {
        "steps": 40,
        "batch_size": 16,
        "lr": 0.5,
        "data_ratio": 1.0,
        "augment": "flip",
    }


def test_losses_far_from_the_best_are_cut(
    make_varied: Callable[..., Plan], make_table: Callable[..., pa.Table]
) -> None:
    """A rate at which training fails counts as bad, and no longer as ten times worse."""
    truth = dict(zip(LR, (3.0, 3.1, 3.2, 9.0), strict=True))
    plan = make_varied({"lr": LR})
    (panel,) = panels(make_table(plan, lambda point: truth[point.lr], noise=0.0))
    tried = tried_settings(panel, plan)
    means = tried.panel.group_means("loss").mean(axis=1)
    assert means - means[0] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    (sentence,) = tried.left_out
    assert sentence.startswith("lr=0.003: their losses are cut to the median of the settings plus")
