from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from eval.evaluate import evaluate
from eval.model_inputs import to_inputs
from eval.theory.gram import gradient_gram
from eval.theory.sketch import sketched_products
from workers.artifacts.measured import SKETCH_FILE, ConstantsMetrics
from workers.measure.constants import measure_constants
from workers.measure.task_loss import TaskLoss, TooFewImagesError
from workers.models.tied_weights import load_state, own_state
from workers.specs.bases import BaseSpec
from workers.specs.data import DataSpec
from workers.specs.expert import ExpertSpec
from workers.specs.measures import ConstantsSpec, CurvatureSpec, TaskSample
from workers.workspace import Workspace


@pytest.fixture
def sample(base: BaseSpec, datasets: Mapping[str, DataSpec]) -> TaskSample:
    """Returns all 40 training images of a task, in ten batches."""
    return TaskSample(
        task="mnist_5k",
        base_id=base.id,
        data_id=datasets["mnist_5k"].id,
        num_batches=10,
        batch_size=4,
    )


def test_constants_are_those_of_gradients_one_by_one(
    sample: TaskSample, new_workspace: Callable[[], Workspace]
) -> None:
    """With one image a batch, noise is the variance of the images' gradients by `backward`."""
    single = replace(sample, num_batches=6, batch_size=1)
    manifest = measure_constants(ConstantsSpec(sample=single), workspace=new_workspace())
    metrics = ConstantsMetrics.from_json(manifest.metrics)

    workspace = new_workspace()
    loss = TaskLoss(single, workspace=workspace)
    order = np.concatenate(loss.batches())
    head = workspace.probe(sample.base_id, sample.data_id, l2=1.0, kept=np.arange(40))
    backbone = workspace.base_backbone(sample.base_id)
    gradients = []
    for position in order:
        image = workspace.split(sample.data_id, "train").take(np.array([position]))
        gradients.append(_gradient(image, head=head, backbone=backbone, workspace=workspace))
    rows = np.array(gradients)
    assert np.array(metrics.products) == pytest.approx(rows @ rows.T, rel=1e-4, abs=1e-6)
    assert metrics.noise.value == pytest.approx(rows.var(axis=0, ddof=1).sum(), rel=1e-4)
    mean = rows.mean(axis=0)
    unbiased = mean @ mean - rows.var(axis=0, ddof=1).sum() / 6
    assert metrics.squared_gradient.value == pytest.approx(unbiased, rel=1e-3)
    assert (metrics.num_gradients, metrics.num_products, metrics.curvature) == (6, 0, None)
    assert metrics.num_weights == rows.shape[1]
    assert metrics.has_batch_norm
    assert not metrics.has_kinks  # its activations are SiLU


def _gradient(image, *, head, backbone, workspace) -> np.ndarray:  # noqa: ANN001
    backbone.module.zero_grad()
    backbone.module.eval()
    inputs = to_inputs(image.images, normalization=backbone.normalization, device=workspace.device)
    logits = head(backbone.module(inputs))
    nn.functional.cross_entropy(logits, torch.from_numpy(image.labels.copy())).backward()
    return torch.cat([p.grad.flatten() for p in backbone.module.parameters()]).double().numpy()


def test_loss_is_that_of_the_base_under_its_probe(sample: TaskSample, workspace: Workspace) -> None:
    """The probe is fitted to all training images, and BatchNorm uses and keeps its statistics."""
    before = {
        name: tensor.clone()
        for name, tensor in own_state(workspace.base_backbone(sample.base_id).module).items()
    }
    manifest = measure_constants(ConstantsSpec(sample=sample), workspace=workspace)
    metrics = ConstantsMetrics.from_json(manifest.metrics)
    backbone = workspace.base_backbone(sample.base_id)
    for name, tensor in own_state(backbone.module).items():
        assert torch.equal(tensor, before[name])
    sums = evaluate(
        backbone.module,
        workspace.probe(sample.base_id, sample.data_id, l2=1.0, kept=np.arange(40)),
        split=workspace.split(sample.data_id, "train"),
        normalization=backbone.normalization,
        device=workspace.device,
    )
    assert metrics.loss.value == pytest.approx(sums.loss, rel=1e-5)
    assert metrics.num_gradients == 40


def test_measuring_again_gives_the_same_bits(
    sample: TaskSample, new_workspace: Callable[[], Workspace]
) -> None:
    """Another seed, penalty or augmentation is another artifact; the second commit loses."""
    spec = ConstantsSpec(sample=sample)
    first = measure_constants(spec, workspace=new_workspace())
    again = new_workspace()
    assert measure_constants(spec, workspace=again) == first
    again.artifacts.store.delete([f"artifacts/constants/{spec.id[:2]}/{spec.id}/manifest.json"])
    remade = measure_constants(spec, workspace=again)
    assert (remade.metrics, remade.file(SKETCH_FILE)) == (first.metrics, first.file(SKETCH_FILE))
    for changed in ({"seed": 1}, {"probe_l2": 2.0}, {"augment": "flip"}):
        other = ConstantsSpec(sample=replace(sample, **changed))
        assert measure_constants(other, workspace=again).metrics != first.metrics


def test_tasks_measured_apart_can_be_multiplied(
    sample: TaskSample, datasets: Mapping[str, DataSpec], new_workspace: Callable[[], Workspace]
) -> None:
    """The sketched products of two tasks are near the exact ones."""
    tasks = [sample, replace(sample, task="mnist_m", data_id=datasets["mnist_m"].id)]
    sketches, exact = [], []
    for task in tasks:
        spec = ConstantsSpec(sample=task)
        workspace = new_workspace()
        manifest = measure_constants(spec, workspace=workspace)
        sketches.append(np.load(workspace.file("constants", spec.id, SKETCH_FILE)))
        exact.append(np.array(manifest.metrics["products"]))
    gram = gradient_gram(sketched_products(sketches, exact=exact))
    means = []
    for task in tasks:
        loss = TaskLoss(task, workspace=new_workspace())
        found = [loss.gradient(each)[0].astype(float) for each in loss.batches()]
        means.append(np.mean(found, axis=0))
    noise = 5 * np.sqrt(2 / (1 << 18)) * np.linalg.norm(means[0]) * np.linalg.norm(means[1])
    assert gram[0, 1] == pytest.approx(float(means[0] @ means[1]), abs=noise)


def test_product_is_the_derivative_of_the_gradient(
    sample: TaskSample, workspace: Workspace
) -> None:
    """Against a difference of gradients at two points."""
    loss = TaskLoss(sample, workspace=workspace)
    positions = loss.batches()[0]
    direction = loss.gradient(positions)[0]
    step = 1e-3 / np.linalg.norm(direction)
    product = loss.product(positions, direction)
    start, parts = loss.start(), loss.parts(direction)
    loss.move(start, parts, share=step)
    above = loss.gradient(positions)[0].astype(float)
    loss.move(start, parts, share=-step)
    below = loss.gradient(positions)[0].astype(float)
    difference = (above - below) / (2 * step)
    error = np.linalg.norm(product - difference) / np.linalg.norm(difference)
    assert error < 0.05


def test_curvature_comes_as_a_bracket(
    sample: TaskSample, new_workspace: Callable[[], Workspace]
) -> None:
    """The largest eigenvalue is at least any quotient on the same images."""
    curvature = CurvatureSpec(
        num_images=8, num_products=8, num_pairs=2, num_singles=2, tolerance=0.0
    )
    spec = ConstantsSpec(sample=sample, curvature=curvature)
    manifest = measure_constants(spec, workspace=new_workspace())
    found = ConstantsMetrics.from_json(manifest.metrics)
    assert found.curvature is not None
    assert found.curvature.high > 0
    assert found.curvature.single_max >= found.curvature.single_mean > 0
    assert found.num_products == 2 * 9 * 8 + 8 * 2
    loss = TaskLoss(sample, workspace=new_workspace())
    first = loss.later(40, 8)
    vector = loss.gradient(first)[0].astype(float)
    vector /= np.linalg.norm(vector)
    quotient = float(vector @ loss.product(first, vector))
    assert quotient <= found.curvature.high + (found.curvature.high_sd or 0) * 2


def test_an_iteration_that_has_converged_ends(
    sample: TaskSample, new_workspace: Callable[[], Workspace]
) -> None:
    """The bracket stays the same within the tolerance, for fewer products."""
    whole = CurvatureSpec(num_images=8, num_products=12, num_pairs=2, num_singles=2, tolerance=0.0)
    found = []
    for curvature in (whole, replace(whole, tolerance=0.05)):
        spec = ConstantsSpec(sample=sample, curvature=curvature)
        manifest = measure_constants(spec, workspace=new_workspace())
        found.append(ConstantsMetrics.from_json(manifest.metrics))
    longer, shorter = found
    assert longer.curvature is not None
    assert shorter.curvature is not None
    assert shorter.num_products < longer.num_products
    assert shorter.curvature.high == pytest.approx(longer.curvature.high, rel=0.02)
    assert shorter.curvature.single_max == pytest.approx(longer.curvature.single_max, rel=0.02)


class _WithoutForwardMode(torch.autograd.Function):
    """The identity, as a layer that has derivatives in reverse alone."""

    @staticmethod
    def forward(_, tensor):  # noqa: ANN001, ANN205
        return tensor.clone()

    @staticmethod
    def backward(_, gradient):  # noqa: ANN001, ANN205
        return gradient


def test_layers_without_forward_mode_have_the_same_products(
    sample: TaskSample, workspace: Workspace
) -> None:
    """They are differentiated twice in reverse, which gives the same up to rounding."""
    loss = TaskLoss(sample, workspace=workspace)
    positions = loss.batches()[0]
    vector = loss.gradient(positions)[0]
    expected = loss.product(positions, vector)
    module = workspace.base_backbone(sample.base_id).module
    hook = module.register_forward_hook(lambda *each: _WithoutForwardMode.apply(each[-1]))
    found = TaskLoss(sample, workspace=workspace).product(positions, vector)
    hook.remove()
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert not np.array_equal(found, expected)


def test_layers_with_a_wrong_forward_mode_have_right_products(
    sample: TaskSample, workspace: Workspace
) -> None:
    """Through a layer norm, whose slope torch differentiates wrongly; against a difference."""
    module = workspace.base_backbone(sample.base_id).module
    hook = module.register_forward_hook(
        lambda _, __, features: nn.functional.layer_norm(features, features.shape[-1:])
    )
    loss = TaskLoss(sample, workspace=workspace)
    positions = loss.batches()[0]
    direction = loss.gradient(positions)[0]
    product = loss.product(positions, direction)
    step = 1e-3 / np.linalg.norm(direction)
    start, parts = loss.start(), loss.parts(direction)
    loss.move(start, parts, share=step)
    above = loss.gradient(positions)[0].astype(float)
    loss.move(start, parts, share=-step)
    below = loss.gradient(positions)[0].astype(float)
    hook.remove()
    difference = (above - below) / (2 * step)
    assert np.linalg.norm(product - difference) < 0.05 * np.linalg.norm(difference)


def test_task_with_few_images_takes_smaller_batches_or_is_refused(
    sample: TaskSample, new_workspace: Callable[[], Workspace]
) -> None:
    """Batches stay disjoint; below one image a batch nothing can be measured."""
    many = replace(sample, num_batches=13, batch_size=32)
    loss = TaskLoss(many, workspace=new_workspace())
    assert loss.batch_size == 3
    assert len(set(np.concatenate(loss.batches()))) == 39
    with pytest.raises(TooFewImagesError, match="40 training images; 41 batches"):
        TaskLoss(replace(sample, num_batches=41), workspace=new_workspace())


def test_constants_of_an_expert_are_those_at_its_weights(
    sample: TaskSample, experts: tuple[ExpertSpec, ...], new_workspace: Callable[[], Workspace]
) -> None:
    """Under the same probe, at the expert's weights and statistics."""
    (expert,) = (each for each in experts if each.task == sample.task)
    there = replace(sample, expert_id=expert.id)
    manifest = measure_constants(ConstantsSpec(sample=there), workspace=new_workspace())
    workspace = new_workspace()
    probe = workspace.probe(sample.base_id, sample.data_id, l2=1.0, kept=np.arange(40))
    backbone = workspace.base_backbone(sample.base_id)
    load_state(backbone.module, workspace.expert_tensors(expert.id))
    sums = evaluate(
        backbone.module,
        probe,
        split=workspace.split(sample.data_id, "train"),
        normalization=backbone.normalization,
        device=workspace.device,
    )
    found = ConstantsMetrics.from_json(manifest.metrics)
    assert found.loss.value == pytest.approx(sums.loss, rel=1e-5)
    assert manifest.inputs.keys() == {sample.base_id, sample.data_id, expert.id}
