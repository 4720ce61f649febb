import json
import math
import subprocess
import sys

import pytest

from eval.metrics import TaskSums
from workers.artifacts.metrics import (
    ExpertMetrics,
    MergeMetrics,
    PretrainMetrics,
    TrainingMetrics,
)

TRAINING = TrainingMetrics(
    train_loss=0.5, train_curve=((10, 1.5), (20, 0.5)), num_classes=7, steps_taken=20
)
SUMS = TaskSums(num_examples=10, num_correct=4, loss_sum=5.0)
TRAINING_JSON = {
    "train_loss": 0.5,
    "train_curve": [[10, 1.5], [20, 0.5]],
    "num_classes": 7,
    "steps_taken": 20,
}
SUMS_JSON = {"num_examples": 10, "num_correct": 4, "loss_sum": 5.0}


def test_expert_metrics_have_one_spelling() -> None:
    """Stores outlive releases: a key that changes hides what was measured."""
    metrics = ExpertMetrics(training=TRAINING, test=SUMS, base=None)
    assert metrics.to_json() == {**TRAINING_JSON, "test": SUMS_JSON, "base": None}
    assert ExpertMetrics.from_json(json.loads(json.dumps(metrics.to_json()))) == metrics


def test_metrics_of_a_pretrained_base_have_one_spelling() -> None:
    """The part that it shares with an expert is read by itself."""
    metrics = PretrainMetrics(training=TRAINING, num_entries=3, tasks={"flags": SUMS})
    written = metrics.to_json()
    assert written == {**TRAINING_JSON, "num_entries": 3, "tasks": {"flags": SUMS_JSON}}
    assert TrainingMetrics.from_json(json.loads(json.dumps(written))) == TRAINING
    without = PretrainMetrics(training=TRAINING, num_entries=3, tasks=None)
    assert without.to_json()["tasks"] is None


def test_merge_metrics_have_one_spelling() -> None:
    """A loss that is not finite is null in the manifest and NaN in the view."""
    lost = TaskSums(num_examples=10, num_correct=4, loss_sum=math.nan)
    metrics = MergeMetrics(tasks={"flags": SUMS, "digits": lost}, coverage=0.25)
    written = metrics.to_json()
    assert written == {
        "tasks": {"flags": SUMS_JSON, "digits": {**SUMS_JSON, "loss_sum": None}},
        "coverage": 0.25,
    }
    read = MergeMetrics.from_json(json.loads(json.dumps(written)))
    assert read.tasks["flags"] == SUMS
    assert math.isnan(read.tasks["digits"].loss)


@pytest.mark.parametrize("view", [ExpertMetrics, MergeMetrics, TrainingMetrics])
def test_missing_metric_is_an_error(
    view: type[ExpertMetrics] | type[MergeMetrics] | type[TrainingMetrics],
) -> None:
    """A manifest without a metric is not read as one whose metric is zero."""
    with pytest.raises(KeyError):
        view.from_json({})


def test_importing_the_views_does_not_load_torch() -> None:
    """The driver reads metrics, and never loads torch."""
    code = "import sys, workers.artifacts.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
