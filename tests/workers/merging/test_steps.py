"""Merges that choose each task's steps among snapshots, on validation images."""

import itertools
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics, TriedPoint, TuningMetrics
from workers.merging.choice import NothingToChooseError, descend
from workers.merging.merge_job import run_merge
from workers.merging.steps import choose_steps
from workers.merging.tuning import validation_sums
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.snapshots import Snapshots, StepRule
from workers.specs.tuning import TuningSpec
from workers.workspace import Workspace

COUNTS = (2, 4, 8)
NAMES = ("steps.a", "steps.b", "steps.c")
Losses = Mapping[tuple[int, ...], float]

losses_of_three_tasks = st.fixed_dictionaries(
    {
        steps: st.one_of(st.integers(0, 5).map(float), st.just(float("inf")))
        for steps in itertools.product(COUNTS, repeat=3)
    }
)


def chosen_of(losses: Losses) -> tuple[TuningMetrics, tuple[int, ...]]:
    def score(steps: Mapping[str, float]) -> list[TriedPoint]:
        values = tuple(int(steps[name]) for name in NAMES)
        return [TriedPoint(values=steps, loss=losses[values], accuracy=0.0)]

    found = descend(names=NAMES, counts=COUNTS, score=score, max_sweeps=27)
    return found, tuple(int(found.chosen[name]) for name in NAMES)


@given(losses_of_three_tasks)
def test_no_change_of_one_task_is_better_and_no_common_number_either(losses: Losses) -> None:
    """Whatever the losses: optimal in each task alone, and each merge is made once."""
    common = [losses[(count,) * 3] for count in COUNTS]
    if min(common) == float("inf"):
        with pytest.raises(NothingToChooseError):
            chosen_of(losses)
        return
    found, steps = chosen_of(losses)
    assert losses[steps] <= min(common)
    texts = [tuple(each.values.values()) for each in found.tried]
    assert len(texts) == len(set(texts))
    for place, count in itertools.product(range(3), COUNTS):
        other = (*steps[:place], count, *steps[place + 1 :])
        assert (losses[other], other) >= (losses[steps], steps)


def test_the_descent_visits_one_task_after_another_from_the_best_common_number() -> None:
    """On a sum of each task's own loss one sweep finds the least, and the second confirms it."""
    own = ({2: 0.0, 4: 1.0, 8: 2.0}, {2: 1.0, 4: 0.0, 8: 1.0}, {2: 3.0, 4: 1.0, 8: 1.0})
    losses = {
        steps: sum(of_task[count] for of_task, count in zip(own, steps, strict=True))
        for steps in itertools.product(COUNTS, repeat=3)
    }
    found, steps = chosen_of(losses)
    assert steps == (2, 4, 4)  # 8 is as good for the last task, and takes longer
    visited = [tuple(each.values.values()) for each in found.tried]
    assert visited[:5] == [(2, 2, 2), (4, 4, 4), (8, 8, 8), (2, 4, 4), (8, 4, 4)]
    assert len(visited) == 9


def test_steps_and_a_scaling_are_chosen_jointly() -> None:
    """A task's move that pays off at another scaling alone is found.

    The best common pair is 8 steps at 0.5. Fewer steps of the second task are worse there, and
    better at 1.0.
    """
    losses = {
        (2, 2): {0.5: 2.0, 1.0: 3.0},
        (8, 8): {0.5: 1.0, 1.0: 2.0},
        (2, 8): {0.5: 3.0, 1.0: 3.0},
        (8, 2): {0.5: 1.5, 1.0: 0.5},
    }

    def score(steps: Mapping[str, float]) -> list[TriedPoint]:
        by_scaling = losses[int(steps["steps.a"]), int(steps["steps.b"])]
        return [
            TriedPoint(values={**steps, "scaling": scaling}, loss=loss, accuracy=0.0)
            for scaling, loss in by_scaling.items()
        ]

    found = descend(names=NAMES[:2], counts=(2, 8), score=score)
    assert found.chosen == {"steps.a": 8, "steps.b": 2, "scaling": 1.0}
    assert found.best.loss == 0.5
    assert len(found.tried) == 8


@pytest.fixture(scope="module")
def steps_store(
    prepared_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
    hold_out: Callable[..., str],
) -> tuple[Path, Snapshots]:
    """Commits two tasks with 30 validation images each, and two experts of each task."""
    root = tmp_path_factory.mktemp("steps")
    store = shutil.copytree(prepared_store, root / "store")
    workspace = Workspace(str(store), cache_root=root / "cache", device=torch.device("cpu"))
    by_task = []
    for task in ("mnist_5k", "mnist_m"):
        data_id = hold_out(task, workspace=workspace)
        of_task = [make_expert(task, data_id=data_id, steps=steps) for steps in (2, 6)]
        for expert in of_task:
            run(expert, workspace=workspace)
        by_task.append(of_task)
    experts = tuple(zip(*by_task, strict=True))
    return store, Snapshots(rule="chosen", experts=experts)


@pytest.fixture
def workspace(steps_store: tuple[Path, Snapshots], tmp_path: Path) -> Workspace:
    """Opens the test's own copy of the store."""
    store = shutil.copytree(steps_store[0], tmp_path / "store", dirs_exist_ok=True)
    return Workspace(str(store), cache_root=tmp_path / "cache", device=torch.device("cpu"))


def merge_of(snapshots: Snapshots, *, rule: StepRule = "chosen", keep: bool = False) -> MergeSpec:
    return MergeSpec(
        method="average",
        params={},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=snapshots.experts[0][0].base_id,
        experts=snapshots.experts[-1],
        held_out=(),
        snapshots=replace(snapshots, rule=rule),
        keeps_weights=keep,
    )


def test_the_choice_is_the_best_of_all_merges_of_two_snapshots_each(
    steps_store: tuple[Path, Snapshots], workspace: Workspace
) -> None:
    """Each loss is that of the plain merge of these experts; with 2 x 2 all four are compared."""
    snapshots = steps_store[1]
    spec = merge_of(snapshots)
    found = choose_steps(spec, snapshots, workspace=workspace)
    (few, many) = snapshots.experts
    losses = {}
    for experts in itertools.product(*zip(few, many, strict=True)):
        plain = replace(spec, experts=experts, snapshots=None)
        point = TriedPoint.of({}, sums=validation_sums(plain, workspace=workspace))
        losses[tuple(each.hyperparameters.steps for each in experts)] = point.loss
    for each in found.tried:
        assert each.loss == pytest.approx(losses[tuple(map(int, each.values.values()))], rel=1e-6)
    assert found.best.loss == pytest.approx(min(losses.values()), rel=1e-6)
    assert found.num_images == 60


@pytest.mark.parametrize("rule", ["chosen", "stopped"])
def test_each_merge_of_snapshots_is_tried_at_every_scaling(
    steps_store: tuple[Path, Snapshots], workspace: Workspace, rule: StepRule
) -> None:
    """The losses are those of plain merges; the best pair wins, and the merge is made with it."""
    tuning = TuningSpec(values={"scaling": (0.4, 0.9)})
    spec = replace(
        merge_of(steps_store[1], rule=rule),
        method="task_arithmetic",
        params={"scaling": None},
        tuning=tuning,
    )
    manifest = run_merge(spec, workspace=workspace)
    found = MergeMetrics.from_json(manifest.metrics).tuning
    assert found is not None
    pairs = [each for each in found.tried if "scaling" in each.values]
    by_steps: dict[tuple[float, float], list[float]] = {}
    for each in pairs:
        steps = (each.values["steps.mnist_5k"], each.values["steps.mnist_m"])
        by_steps.setdefault(steps, []).append(each.values["scaling"])
    assert all(scalings == [0.4, 0.9] for scalings in by_steps.values())
    assert len(by_steps) == 1 if rule == "stopped" else len(by_steps) > 2
    for each in pairs:
        plain = replace(spec.at(each.values), snapshots=None)
        point = TriedPoint.of({}, sums=validation_sums(plain, workspace=workspace))
        assert plain.params["scaling"] == each.values["scaling"]
        assert each.loss == pytest.approx(point.loss, rel=1e-5)
    assert found.best.loss == min(each.loss for each in pairs)
    assert found.chosen.keys() == {"steps.mnist_5k", "steps.mnist_m", "scaling"}
    recorded = Snapshots(rule=rule, experts=steps_store[1].experts)
    assert (
        MergeSpec.from_json(
            {
                k: v
                for k, v in spec.to_json().items()
                if k not in ("experts", "held_out", "snapshots")
            },
            experts=spec.experts,
            held_out=(),
            snapshots=recorded,
        )
        == spec
    )


def test_early_stopping_takes_each_expert_at_its_own_least_loss(
    steps_store: tuple[Path, Snapshots], workspace: Workspace
) -> None:
    """The losses are the experts' own, by hand; the last entry is the merge at the stops."""
    spec = merge_of(steps_store[1], rule="stopped")
    assert spec.snapshots is not None
    found = choose_steps(spec, spec.snapshots, workspace=workspace)
    expected = {}
    for of_task in zip(*spec.snapshots.experts, strict=True):
        losses = {}
        for expert in of_task:
            features = workspace.expert_features(expert, split="validation")
            labels = workspace.split(expert.data_id, "validation").labels
            with torch.inference_mode():
                logits = workspace.expert_head(expert.id)(features)
            target = torch.from_numpy(labels.copy())
            losses[expert.hyperparameters.steps] = float(
                torch.nn.functional.cross_entropy(logits, target)
            )
        expected[f"steps.{of_task[0].task}"] = min(losses, key=lambda steps: losses[steps])
    assert found.chosen == expected
    assert len(found.tried) == 5
    merged = TriedPoint.of({}, sums=validation_sums(spec.at(found.chosen), workspace=workspace))
    assert found.best.loss == pytest.approx(merged.loss, rel=1e-6)


def test_the_merge_has_the_scores_of_the_plain_merge_of_the_chosen_experts(
    steps_store: tuple[Path, Snapshots], workspace: Workspace
) -> None:
    """Bit for bit; the manifest names all snapshots as inputs, and keeps the choice."""
    spec = merge_of(steps_store[1], keep=True)
    manifest = run_merge(spec, workspace=workspace)
    metrics = MergeMetrics.from_json(manifest.metrics)
    assert metrics.tuning is not None
    plain = replace(spec.at(metrics.tuning.chosen), keeps_weights=False)
    by_hand = MergeMetrics.from_json(run_merge(plain, workspace=workspace).metrics)
    assert metrics.tasks == by_hand.tasks
    assert metrics.weights_sha256 == by_hand.weights_sha256
    assert set(manifest.inputs) >= {each.id for row in steps_store[1].experts for each in row}
    assert "tune" in manifest.seconds
