from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.bounds.findings import constants_lines, operator_lines, reach_lines
from orchestrator.plan.measurements import operators_of, reaches_of
from orchestrator.plan.plan import Plan
from orchestrator.record.task_constants import MeasuredTasks
from workers.artifacts.manifests import Manifest
from workers.artifacts.measured import ConstantsMetrics, Measured, OperatorMetrics, ReachMetrics

Make = Callable[..., Manifest]


@pytest.fixture
def manifest_of(make_plan: Callable[..., Plan], expert_manifest: Make) -> Make:
    """Makes the manifest of a measurement."""
    template = expert_manifest(next(iter(make_plan().experts.values())))

    def make(spec: object, metrics: object) -> Manifest:
        return replace(template, id=spec.id, metrics=metrics.to_json())  # type: ignore[attr-defined]

    return make


def constants(*, noise: float, num_batches: int = 4) -> ConstantsMetrics:
    return ConstantsMetrics(
        products=((1.0,) * num_batches,) * num_batches,
        batch_size=8,
        num_weights=10,
        has_kinks=True,
        has_batch_norm=True,
        squared_gradient=Measured(value=-1.25, standard_error=2.0),
        noise=Measured(value=noise, standard_error=0.5),
        loss=Measured(value=1.5, standard_error=0.25),
        curvature=None,
        num_gradients=32,
        num_products=0,
    )


def test_heterogeneity_below_the_noise_is_said_not_to_be_resolved() -> None:
    """Two orthogonal gradients have a heterogeneity of 1/2; 32 images resolve a noise of 16."""
    batches = np.zeros((2, 4, 2))
    batches[0, :, 0] = batches[1, :, 1] = 1
    products = np.einsum("iqd,jrd->iqjr", batches, batches)
    for noise, verdict in ((16.0, "resolved"), (17.0, "not resolved with 32 images a task")):
        measured = MeasuredTasks(
            tasks=("a", "b"),
            metrics={task: constants(noise=noise) for task in ("a", "b")},
            products=products,
        )
        *tasks, together = constants_lines(measured)
        assert tasks[0].startswith("a: loss 1.5 ± 0.25, squared gradient -1.25 ± 2, noise ")
        assert together == f"heterogeneity of the 2 tasks: 0.5 ± 0, {verdict}"


def test_reach_is_said_in_words_beside_what_was_measured(
    make_plan: Callable[..., Plan], manifest_of: Make
) -> None:
    """The largest one decides the words; a setting without measurements has no line."""
    specs = reaches_of(make_plan())
    found = {}
    for spec, reach in zip(specs, (0.5, 2.0, -4.0), strict=True):
        metrics = ReachMetrics(
            slope=Measured(value=-2.0, standard_error=0.1),
            curvature=Measured(value=2 * reach, standard_error=0.1),
            reach=Measured(value=reach, standard_error=0.1),
            squared_length=1.0,
            start_loss=2.0,
            end_loss=1.0,
            batch_size=8,
            num_passes=10,
        )
        found[spec.id] = manifest_of(spec, metrics)
    (line,) = reach_lines({"default": specs, "lr=1": ()}, found=found)
    assert line == (
        "default: path reach 0.5 (median of 3 experts), largest magnitude 4: outside any local "
        "theory; predicted change of the loss -2.5, measured -1"
    )


def test_path_to_a_diverged_expert_has_no_change_to_compare(
    make_plan: Callable[..., Plan], manifest_of: Make
) -> None:
    """Without slopes there is no line; with slopes and no finite end the line says so."""
    specs = reaches_of(make_plan())
    nothing = ReachMetrics(
        slope=None,
        curvature=None,
        reach=None,
        squared_length=1.0,
        start_loss=2.0,
        end_loss=None,
        batch_size=8,
        num_passes=10,
    )
    steep = replace(
        nothing,
        slope=Measured(value=-2.0, standard_error=0.1),
        curvature=Measured(value=9.0, standard_error=0.1),
        reach=Measured(value=4.5, standard_error=0.1),
    )
    for metrics in (nothing, steep):
        assert ReachMetrics.from_json(metrics.to_json()) == metrics
    found = {specs[0].id: manifest_of(specs[0], nothing)}
    assert not list(reach_lines({"default": specs}, found=found))
    found[specs[1].id] = manifest_of(specs[1], steep)
    (line,) = reach_lines({"default": specs}, found=found)
    assert "no expert's loss is finite at the end of its path" in line


def test_corollary_says_what_falls_and_what_it_leaves_out(
    make_plan: Callable[..., Plan], manifest_of: Make
) -> None:
    """Halving orthogonal vectors quarters the spread; averages have no line."""
    specs = operators_of(
        make_plan(merge=[{"method": "average"}, {"method": "ties"}]), leave_one_out=True
    )
    found = {}
    for spec in specs:
        is_ties = spec.merge.method == "ties"
        size = 0.25 if is_ties else 1.0
        metrics = OperatorMetrics(
            before=((1.0, 0.0), (0.0, 1.0)),
            after=((size, 0.0), (0.0, size)),
            moved=(1.0, 1.0),
            flipped=(0.02, 0.04),
            moved_before=(1.0, 1.0),
            flipped_before=(0.1, 0.2),
        )
        found[spec.id] = manifest_of(spec, metrics)
    labels = {spec.merge.id: spec.merge.method for spec in specs}
    (line,) = operator_lines(specs, found=found, labels=labels)
    assert line == (
        "ties: the spread falls, to 0.25 times the one before (mean of 3 merges), relative to the "
        "mean's length to 1.00 times; stability is not covered by this; leaving one expert out "
        "flips 3.0 % of the signs, against 15.0 % of the plain average's"
    )


def test_entries_of_one_method_have_lines_of_their_own(
    make_plan: Callable[..., Plan], manifest_of: Make
) -> None:
    """Two densities of TIES are two methods; a spread of 1.00 times neither falls nor rises."""
    entries = [{"method": "ties", "density": density} for density in (0.1, 0.9)]
    specs = operators_of(make_plan(merge=entries), leave_one_out=False)
    labels = {spec.merge.id: f"ties {spec.merge.params['density']}" for spec in specs}
    found = {}
    for spec in specs:
        size = 0.25 if spec.merge.params["density"] == 0.1 else 1.001
        metrics = OperatorMetrics(
            before=((1.0, 0.0), (0.0, 1.0)),
            after=((size, 0.0), (0.0, size)),
            moved=None,
            flipped=None,
            moved_before=None,
            flipped_before=None,
        )
        found[spec.id] = manifest_of(spec, metrics)
    lines = list(operator_lines(specs, found=found, labels=labels))
    assert [line.split(",")[0] for line in lines] == [
        "ties 0.1: the spread falls",
        "ties 0.9: the spread stays",
    ]
