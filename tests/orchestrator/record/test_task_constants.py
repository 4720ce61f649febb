from pathlib import Path

import numpy as np
import pytest

from eval.theory.gram import gradient_gram
from eval.theory.sketch import sketch
from orchestrator.record.measurements import missing, read_measurements
from orchestrator.record.task_constants import MeasuredTasks, read_task_constants
from workers.artifacts.artifacts import Artifacts, CorruptArtifactError
from workers.artifacts.layout import Layout
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import SKETCH_FILE, ConstantsMetrics, CurvatureMetrics, Measured
from workers.artifacts.provenance import Provenance
from workers.specs.measures import ConstantsSpec, TaskSample
from workers.store.local import LocalStore

TASKS = ("a", "b", "c")
GRADIENTS = np.random.default_rng(0).standard_normal((3, 4, 50)).astype(np.float32)


def curvature(high: float) -> CurvatureMetrics:
    return CurvatureMetrics(
        low=high / 2,
        high=high,
        low_sd=None,
        high_sd=None,
        num_images=8,
        num_pairs=1,
        single_mean=high,
        single_max=2 * high,
        num_singles=1,
    )


def spec_of(task: str) -> ConstantsSpec:
    return ConstantsSpec(sample=TaskSample(task=task, base_id="0" * 16, data_id="1" * 16))


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(LocalStore(tmp_path / "store"))


def commit(
    artifacts: Artifacts, task: str, *, scratch: Path, bracket: CurvatureMetrics | None
) -> Manifest:
    """Commits the constants of a task as a worker does."""
    batches = GRADIENTS[TASKS.index(task)]
    exact = batches.astype(float) @ batches.astype(float).T
    metrics = ConstantsMetrics(
        products=tuple(map(tuple, exact.tolist())),
        batch_size=8,
        num_weights=50,
        has_kinks=True,
        has_batch_norm=True,
        squared_gradient=Measured(value=1.0, standard_error=0.1),
        noise=Measured(value=float(TASKS.index(task)), standard_error=0.1),
        loss=Measured(value=0.5, standard_error=0.1),
        curvature=bracket,
        num_gradients=32,
        num_products=0,
    )
    path = scratch / f"{task}.npy"
    np.save(path, sketch(list(batches)))
    return artifacts.commit(
        Provenance.of(spec_of(task), kind="constants", inputs={}),
        files={SKETCH_FILE: path},
        metrics=metrics.to_json(),
        seconds={},
    )


def read(artifacts: Artifacts, *, tmp_path: Path, measured: bool) -> MeasuredTasks:
    manifests = {
        task: commit(
            artifacts, task, scratch=tmp_path, bracket=curvature(number + 1.0) if measured else None
        )
        for number, task in enumerate(TASKS)
    }
    return read_task_constants(artifacts, manifests, cache_root=tmp_path / "cache")


def test_constants_of_a_group_are_those_of_its_tasks_in_its_order(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    """One matrix serves every group; products of two tasks are sketched."""
    measured = read(artifacts, tmp_path=tmp_path, measured=True)
    exact = gradient_gram(np.einsum("iqd,jrd->iqjr", GRADIENTS, GRADIENTS).astype(float))
    assert np.diag(measured.gram) == pytest.approx(np.diag(exact), rel=1e-4)
    assert measured.gram == pytest.approx(exact, abs=1)
    group = measured.of_group(("c", "a"))
    assert group.gram[0, 1] == measured.gram[2, 0]
    products = measured.products[[2, 0]][:, :, [2, 0]]
    assert gradient_gram(products) == pytest.approx(group.gram)
    assert group.noise.tolist() == [2, 0]
    assert group.smoothness.tolist() == [3, 1]
    assert (group.mixture_smoothness, group.example_smoothness) == (3, 6)
    with pytest.raises(ValueError, match="not in tuple"):
        measured.of_group(("a", "d"))


def test_curvature_that_was_not_measured_is_not_a_number(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    """Then no reach is inside."""
    group = read(artifacts, tmp_path=tmp_path, measured=False).of_group(("a", "b"))
    assert np.isnan(group.smoothness).all()
    assert np.isnan([group.mixture_smoothness, group.example_smoothness]).all()


def test_only_missing_measurements_are_made_again(artifacts: Artifacts, tmp_path: Path) -> None:
    """Each once, whatever the order."""
    specs = [spec_of(task) for task in ("a", "b", "b", "c")]
    commit(artifacts, "a", scratch=tmp_path, bracket=None)
    found = read_measurements(artifacts, specs)
    assert set(found) == {specs[0].id}
    assert missing(specs, found=found) == (specs[1], specs[3])


def test_a_damaged_measurement_is_told_with_its_remedy(artifacts: Artifacts) -> None:
    """The commands that withdraw it and measure again, in place of the parser's words alone."""
    spec = spec_of("a")
    artifacts.store.put(Layout.manifest("constants", spec.id), b"{")
    remedy = "is not JSON.*mergesweep verify STUDY.*`mergesweep measure STUDY` again"
    with pytest.raises(CorruptArtifactError, match=remedy):
        read_measurements(artifacts, [spec])
