"""Merges whose parameters are chosen on validation images."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from merge.catalogue import CARDS, PARAMS, SCALE_ONE_VECTOR, parse_params
from merge.merge import MergeOptions, merge
from merge.table import METHODS
from workers.artifacts.manifests import Manifest
from workers.artifacts.metrics import MergeMetrics, TriedPoint, TuningMetrics, merged_params
from workers.merging.choice import NotChosenError, NothingToChooseError, best_point
from workers.merging.merge_job import run_merge
from workers.merging.merged_models import features_under, merged_models
from workers.merging.tuning import tune
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.specs.tuning import TunedBy, TuningSpec
from workers.workspace import Workspace

Experts = tuple[ExpertSpec, ...]
SCALINGS = (0.1, 0.5, 0.9, 2.0)


@pytest.fixture(scope="module")
def tuning_store(
    prepared_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_expert: Callable[..., ExpertSpec],
    run: Callable[..., list[Manifest]],
    hold_out: Callable[..., str],
) -> tuple[Path, Experts]:
    """Commits two tasks with 30 validation images each, and an expert of each task."""
    root = tmp_path_factory.mktemp("tuning")
    store = shutil.copytree(prepared_store, root / "store")
    workspace = Workspace(str(store), cache_root=root / "cache", device=torch.device("cpu"))
    experts = []
    for task in ("mnist_5k", "mnist_m"):
        data_id = hold_out(task, workspace=workspace)
        experts.append(make_expert(task, data_id=data_id, steps=6))
        run(experts[-1], workspace=workspace)
    return store, tuple(experts)


@pytest.fixture
def experts(tuning_store: tuple[Path, Experts]) -> Experts:
    """Returns the two experts."""
    return tuning_store[1]


@pytest.fixture
def workspace(tuning_store: tuple[Path, Experts], tmp_path: Path) -> Workspace:
    """Opens the test's own copy of the store."""
    store = shutil.copytree(tuning_store[0], tmp_path / "store", dirs_exist_ok=True)
    return Workspace(str(store), cache_root=tmp_path / "cache", device=torch.device("cpu"))


def merge_of(
    experts: Experts,
    *,
    method: str = "task_arithmetic",
    by: TunedBy = "loss",
    values: Mapping[str, tuple[float, ...]] | None = None,
    **changes: Any,  # noqa: ANN401 any field
) -> MergeSpec:
    tuning = TuningSpec(values=values or {"scaling": SCALINGS}, by=by)
    spec = MergeSpec(
        method=method,
        params={**asdict(PARAMS[method]()), **dict.fromkeys(tuning.values)},
        batch_norm="average",
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
        tuning=tuning,
    )
    return replace(spec, **changes)


def loss_by_hand(spec: MergeSpec, *, workspace: Workspace) -> float:
    """Returns the mean over tasks of a merge's validation loss, in torch alone."""
    losses = []
    for backbone, served in merged_models(spec, workspace=workspace):
        for expert in served:
            split = workspace.split(expert.data_id, "validation")
            features = features_under(
                expert, spec=spec, backbone=backbone, split=split, workspace=workspace
            )
            with torch.inference_mode():
                logits = workspace.expert_head(expert.id)(features)
            labels = torch.from_numpy(split.labels.copy())
            losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("task_arithmetic", {"scaling": SCALINGS}),
        ("ties", {"density": (0.1, 0.6), "scaling": (0.4, 1.2)}),
        ("dare", {"density": (0.3, 0.9), "scaling": (0.4, 1.2)}),
        ("twin", {"scaling": (0.2, 0.6)}),
        ("slerp", {"t": (0.0, 0.5)}),
    ],
)
def test_each_value_has_the_loss_of_its_merge_and_the_least_is_chosen(
    experts: Experts, workspace: Workspace, method: str, *, values: dict[str, tuple[float, ...]]
) -> None:
    """Merges that share a vector, a mask or a threshold score as merges made one by one."""
    spec = merge_of(experts, method=method, values=values)
    assert spec.tuning is not None
    found = tune(spec, spec.tuning, workspace=workspace)
    by_hand = [loss_by_hand(spec.at(p), workspace=workspace) for p in spec.tuning.points()]
    assert [each.loss for each in found.tried] == pytest.approx(by_hand, rel=1e-4)
    assert found.chosen == spec.tuning.points()[by_hand.index(min(by_hand))]
    assert found.num_images == 60


@pytest.mark.parametrize("policy", ["recalibrate", "per_task"])
def test_values_are_tried_with_the_statistics_of_the_merge(
    experts: Experts, workspace: Workspace, policy: str
) -> None:
    """Under policies that need images or the task, a value's loss is that of its merge too."""
    images = 24 if policy == "recalibrate" else 0
    spec = merge_of(experts, batch_norm=policy, recalibration_images=images)
    assert spec.tuning is not None
    found = tune(spec, spec.tuning, workspace=workspace)
    by_hand = [loss_by_hand(spec.at(p), workspace=workspace) for p in spec.tuning.points()]
    assert [each.loss for each in found.tried] == pytest.approx(by_hand, rel=1e-4)


def test_the_merge_scores_what_a_merge_with_the_chosen_value_scores(
    experts: Experts, workspace: Workspace
) -> None:
    """The test scores have the bits of a fixed merge, and the manifest alone names its values."""
    spec = merge_of(experts, method="ties")
    manifest = run_merge(spec, workspace=workspace)
    params = merged_params(manifest.spec, manifest.metrics)
    assert params["scaling"] in SCALINGS
    fixed = run_merge(replace(spec, params=params, tuning=None), workspace=workspace)
    assert manifest.metrics["tasks"] == fixed.metrics["tasks"]
    assert merged_params(fixed.spec, fixed.metrics) == params
    metrics = MergeMetrics.from_json(manifest.metrics)
    assert metrics.to_json() == manifest.metrics
    assert metrics.tuning is not None
    assert metrics.tuning.best.loss == min(each.loss for each in metrics.tuning.tried)
    assert manifest.seconds.keys() == {"tune", "merge", "evaluate"}


def test_a_second_process_tunes_to_the_same_bits(
    experts: Experts, workspace: Workspace, tmp_path: Path
) -> None:
    """The whole curve is deterministic, as a resumed study needs."""
    spec = merge_of(experts, method="dare", values={"scaling": (0.3, 0.9)})
    assert spec.tuning is not None
    other = Workspace(
        workspace.artifacts.store.url, cache_root=tmp_path / "other", device=torch.device("cpu")
    )
    run_merge(merge_of(experts), workspace=other)
    first = tune(spec, spec.tuning, workspace=workspace)
    assert first == tune(spec, spec.tuning, workspace=other)


def test_choosing_needs_no_test_image(
    experts: Experts, workspace: Workspace, tmp_path: Path
) -> None:
    """With every test image deleted, values are chosen all the same; only the scores fail."""
    deleted = list((tmp_path / "store").rglob("test-*.arrow"))
    assert deleted
    for path in deleted:
        path.unlink()
    spec = merge_of(experts)
    assert spec.tuning is not None
    assert tune(spec, spec.tuning, workspace=workspace).chosen
    with pytest.raises(Exception, match="test-00000"):
        run_merge(spec, workspace=workspace)


@pytest.mark.parametrize("method", ["task_arithmetic", "twin"])
def test_tasks_outside_the_group_have_no_say(
    experts: Experts, workspace: Workspace, method: str
) -> None:
    """A merge that is also evaluated on held-out tasks chooses as it would without them."""
    alone = merge_of(experts[:1], method=method, values={"scaling": (0.2, 0.6)})
    assert alone.tuning is not None
    both = replace(alone, held_out=experts[1:])
    found = tune(both, alone.tuning, workspace=workspace)
    assert found == tune(alone, alone.tuning, workspace=workspace)
    assert found.num_images == 30


def tried(*points: tuple[float, float]) -> list[TriedPoint]:
    return [
        TriedPoint(values={"scaling": float(place)}, loss=loss, accuracy=accuracy)
        for place, (loss, accuracy) in enumerate(points)
    ]


def test_the_objective_decides_and_the_first_of_equals_wins() -> None:
    """A merge whose loss is not finite is never chosen, however accurate it is."""
    points = tried((2.0, 0.1), (1.0, 0.2), (1.0, 0.3), (3.0, 0.3), (math.nan, 0.9))
    assert best_point(points, by="loss").values == {"scaling": 1.0}
    assert best_point(points, by="accuracy").values == {"scaling": 2.0}


def test_no_finite_value_is_an_error_that_names_the_values() -> None:
    """The job fails with the values, as every further try would."""
    with pytest.raises(NothingToChooseError, match=r"scaling=0\.0; scaling=1\.0"):
        best_point(tried((math.nan, 0.0), (math.inf, 0.0)), by="loss")


def test_a_loss_that_is_not_finite_is_null_in_the_manifest() -> None:
    """JSON has no NaN; the view reads it back."""
    points = tried((math.nan, 0.5), (1.0, 0.25))
    metrics = TuningMetrics(chosen=points[1].values, tried=tuple(points), num_images=4)
    stored = metrics.to_json()
    assert stored["tried"][0]["loss"] is None
    read = TuningMetrics.from_json(stored)
    assert math.isnan(read.tried[0].loss)
    assert read.best == points[1]


def random_state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv.weight": (6, 4, 3, 3), "fc.weight": (8, 6), "fc.bias": (8,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


SCALED = [
    name
    for name in CARDS
    if "scaling" in PARAMS[name].__dataclass_fields__
    and METHODS[name].learn is None
    and METHODS[name].combine_for_task is None
]


def test_methods_that_share_a_vector_are_all_those_with_a_scaling_and_one_model() -> None:
    """The table names no method that learns from data or keeps modules of each task."""
    assert set(SCALED) == SCALE_ONE_VECTOR


@pytest.mark.parametrize("method", SCALED)
def test_scaling_multiplies_one_vector(method: str) -> None:
    """The merge at 1 gives the merges at all other scalings."""
    base, experts = random_state(0), [random_state(seed) for seed in (1, 2, 3)]

    def merged(scaling: float) -> dict[str, torch.Tensor]:
        params = parse_params(method, {"scaling": scaling})
        return dict(merge(base, experts, options=MergeOptions(params=params)))

    unit, other = merged(1.0), merged(-0.7)
    for name, start in base.items():
        expected = start - 0.7 * (unit[name] - start)
        torch.testing.assert_close(other[name], expected, rtol=1e-4, atol=1e-5)


def test_a_merge_that_shares_a_choice_needs_it(experts: Experts, workspace: Workspace) -> None:
    """With the choice it has the weights of a merge at the values; alone it does not start."""
    tuning = TuningSpec(values={"scaling": SCALINGS}, over="0123456789abcdef")
    spec = replace(merge_of(experts), tuning=tuning)
    with pytest.raises(NotChosenError, match="other merges of its study choose"):
        run_merge(spec, workspace=workspace)
    tried = tuple(TriedPoint(values={"scaling": each}, loss=1.0, accuracy=0.5) for each in SCALINGS)
    choice = TuningMetrics(chosen={"scaling": 0.5}, tried=tried, num_images=60)
    manifest = run_merge(spec, workspace=workspace, choice=choice)
    metrics = MergeMetrics.from_json(manifest.metrics)
    assert metrics.tuning == choice
    fixed = run_merge(spec.at({"scaling": 0.5}), workspace=workspace)
    assert metrics.weights_sha256 == MergeMetrics.from_json(fixed.metrics).weights_sha256
