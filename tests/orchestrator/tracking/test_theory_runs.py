import math
from collections.abc import Callable

import pytest

from eval.metrics import TaskSums
from orchestrator.plan.plan import Plan
from orchestrator.record.committed import Committed
from orchestrator.record.ledger import Ledger
from orchestrator.results.study_results import StudyResults
from orchestrator.theory.answers import compute_answers
from orchestrator.tracking.mlflow_run import MAX_METRIC_KEYS, MlflowRun
from orchestrator.tracking.theory_runs import theory_runs
from workers.artifacts.manifests import Manifest

LRS = [0.001, 0.002, 0.004, 0.008, 0.016]


@pytest.fixture
def committed(
    make_plan: Callable[..., Plan],
    expert_manifest: Callable[..., Manifest],
    merge_manifest: Callable[..., Manifest],
) -> Committed:
    """Returns a study of five learning rates with losses that differ by group and setting."""
    defaults = {"steps": 10, "lr": LRS[0], "batch_size": 8}
    plan = make_plan(finetune={"defaults": defaults, "axes": {"lr": LRS}})

    def sums(task: str, lr: float) -> TaskSums:
        loss = 1 + len(task) / 10 + abs(math.log(lr / 0.004)) + math.sin(len(task) * lr * 1e4) / 20
        return TaskSums(num_examples=100, num_correct=50, loss_sum=100 * loss)

    manifests = [
        expert_manifest(spec, test=sums(spec.task, spec.hyperparameters.lr * 1.1))
        for spec in plan.experts.values()
    ]
    for spec in plan.merges.values():
        tasks = {each.task: sums(each.task, each.hyperparameters.lr) for each in spec.experts}
        manifests.append(merge_manifest(spec, tasks=tasks))
    return Ledger(plan, manifests=manifests).committed()


def runs_of(committed: Committed) -> dict[str, MlflowRun]:
    results = StudyResults.of(committed)
    answers = compute_answers(results.merges, trainings="no images")
    return {run.key: run for run in theory_runs(committed, answers=answers)}


def test_every_metric_names_its_label(committed: Committed) -> None:
    """No number of the theory reaches MLflow without it."""
    run = runs_of(committed)["theory/average"]
    names = [point.name for point in run.metrics]
    assert {name.split("/")[0] for name in names} == {"measured", "fit"}
    assert {
        "measured/spearman within groups/expert_loss",
        "measured/error with a setting left out/constant",
        "fit/exponent/lr",
    } <= set(names)
    assert len(names) <= MAX_METRIC_KEYS
    assert run.tags["law along lr"]
    assert run.tags["least loss along lr"].startswith("0.004, told apart from ")


def test_tables_and_sentences_are_artifacts_of_the_parent(committed: Committed) -> None:
    """They are small files, and the runs of the methods are children of this one."""
    runs = runs_of(committed)
    assert runs["theory/average"].parent_key == "theory"
    assert b"least loss at 0.004" in runs["theory"].artifacts["findings.txt"]
    assert runs["theory"].artifacts["theory-pairs.parquet"][:4] == b"PAR1"


def test_equal_answers_are_equal_runs(committed: Committed) -> None:
    """Publishing them again writes nothing."""
    first, second = runs_of(committed), runs_of(committed)
    assert {key: run.digest for key, run in first.items()} == {
        key: run.digest for key, run in second.items()
    }


def test_no_runs_before_the_first_merge(make_plan: Callable[..., Plan]) -> None:
    """A study without merges has nothing to show."""
    assert runs_of(Ledger(make_plan(), manifests=[]).committed()) == {}
