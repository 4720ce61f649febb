from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from eval.evaluate import evaluate
from eval.model_inputs import to_inputs
from workers.merging.group_probe import GroupProbe, fisher_roots, unseen_first
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.train.trainer import training_subset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eval.images.split import Split
    from merge.parameters.with_data import Loss
    from workers.workspace import Workspace

Experts = tuple[ExpertSpec, ...]
NUM_TEST, NUM_TRAIN = 48, 40


def group_of(experts: Experts, *, policy: str = "average") -> MergeSpec:
    return MergeSpec(
        method="fisher",
        params={},
        batch_norm=policy,
        recalibration_images=0,
        seed=0,
        base_id=experts[0].base_id,
        experts=experts,
        held_out=(),
    )


@pytest.fixture
def probe(experts: Experts, workspace: Workspace) -> GroupProbe:
    """Returns the probe of all three experts."""
    backbone = workspace.base_backbone(experts[0].base_id)
    return GroupProbe(group_of(experts), backbone=backbone, workspace=workspace)


def is_weight(name: str) -> bool:
    return "running" not in name and "num_batches" not in name


def weights_of(expert: ExpertSpec, *, workspace: Workspace) -> dict[str, Tensor]:
    tensors = workspace.expert_tensors(expert.id)
    return {name: tensor for name, tensor in tensors.items() if is_weight(name)}


def mean_statistics(experts: Experts, *, workspace: Workspace) -> dict[str, Tensor]:
    states = [workspace.expert_tensors(expert.id) for expert in experts]
    names = [name for name in states[0] if "running" in name]
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in names}


def logits_of(
    state: Mapping[str, Tensor],
    *,
    expert: ExpertSpec,
    split: Split,
    workspace: Workspace,
) -> Tensor:
    """Computes a state's logits under an expert's head without the probe's code."""
    backbone = workspace.base_backbone(expert.base_id)
    backbone.module.eval()
    inputs = to_inputs(
        split.images, normalization=backbone.normalization, device=torch.device("cpu")
    )
    logits: Tensor = workspace.expert_head(expert.id)(
        functional_call(backbone.module, dict(state), (inputs,))
    )
    return logits


@pytest.mark.parametrize(("loss", "name"), [("entropy", "test"), ("cross_entropy", "train")])
def test_the_gradient_is_that_of_the_summed_mean_losses(
    experts: Experts,
    new_workspace: Callable[[], Workspace],
    probe: GroupProbe,
    loss: Loss,
    name: str,
) -> None:
    """One batch has all images, so that their order does not matter; statistics are averaged."""
    workspace = new_workspace()
    weights = weights_of(experts[1], workspace=workspace)
    num = len(workspace.split(experts[1].data_id, name))
    found = probe.gradient(weights.items(), loss=loss, batch=0, batch_size=num)
    leaves = {each: tensor.clone().requires_grad_() for each, tensor in weights.items()}
    state = leaves | mean_statistics(experts, workspace=workspace)
    total = torch.zeros(())
    for expert in experts:
        split = workspace.split(expert.data_id, name)
        logits = logits_of(state, expert=expert, split=split, workspace=workspace)
        if loss == "entropy":
            total = total - (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        else:
            labels = torch.from_numpy(split.labels.copy())
            total = total + torch.nn.functional.cross_entropy(logits, labels)
    total.backward()
    assert found.keys() == leaves.keys()
    for each, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(found[each], leaf.grad, rtol=1e-3, atol=1e-5)


def test_batches_are_cut_from_a_shuffled_stream(
    experts: Experts, workspace: Workspace, probe: GroupProbe
) -> None:
    """The mean gradients of two halves of the images average to that of all images."""
    weights = weights_of(experts[0], workspace=workspace)

    def gradient(batch: int, batch_size: int) -> Tensor:
        found = probe.gradient(weights.items(), loss="entropy", batch=batch, batch_size=batch_size)
        return found["conv_stem.weight"]

    halves = [gradient(batch, NUM_TEST // 2) for batch in (0, 1)]
    assert not torch.allclose(halves[0], halves[1])
    torch.testing.assert_close(
        (halves[0] + halves[1]) / 2, gradient(0, NUM_TEST), rtol=1e-3, atol=1e-5
    )


def test_the_tasks_gradients_add_up_to_that_of_all(
    experts: Experts, workspace: Workspace, probe: GroupProbe
) -> None:
    """A single task uses the same images, head and statistics as all tasks together."""
    weights = weights_of(experts[0], workspace=workspace)

    def gradient(task: int | None) -> Tensor:
        found = probe.gradient(
            weights.items(), loss="cross_entropy", batch=1, batch_size=8, task=task
        )
        return found["conv_stem.weight"]

    assert probe.num_tasks == len(experts)
    alone = [gradient(task) for task in range(probe.num_tasks)]
    assert not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(sum(alone), gradient(None), rtol=1e-3, atol=1e-6)


def test_the_exact_fisher_is_the_expectation_over_labels_of_squared_gradients(
    experts: Experts, new_workspace: Callable[[], Workspace], probe: GroupProbe
) -> None:
    """The reference goes image by image and class by class, with the expert's statistics."""
    workspace = new_workspace()
    expert = experts[1]
    weights = weights_of(expert, workspace=workspace)
    found = probe.squared_gradients(weights.items(), task=1, num_images=NUM_TRAIN, is_exact=True)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    state = dict(workspace.expert_tensors(expert.id)) | leaves
    split = workspace.split(expert.data_id, "train")
    logits = logits_of(state, expert=expert, split=split, workspace=workspace)
    expected = torch.zeros_like(weights["conv_stem.weight"])
    for log_chances in logits.log_softmax(1):
        for log_chance in log_chances:
            (each,) = torch.autograd.grad(
                log_chance, [leaves["conv_stem.weight"]], retain_graph=True
            )
            expected += float(log_chance.detach().exp()) * each.square() / NUM_TRAIN
    torch.testing.assert_close(found["conv_stem.weight"], expected, rtol=1e-3, atol=1e-7)


def test_roots_add_up_to_the_fisher_of_the_logits() -> None:
    """By hand: diag(p) - p p^T, the covariance of the label's indicator."""
    logits = torch.tensor([2.0, -1.0, 0.5, 4.0])
    chances, roots = logits.softmax(0), fisher_roots(logits)
    expected = chances.diag() - chances[:, None] * chances
    torch.testing.assert_close(roots.T @ roots, expected)


def test_random_signs_have_the_same_expectation() -> None:
    """The test averages over all sixteen choices of signs for four classes."""
    roots = fisher_roots(torch.tensor([2.0, -1.0, 0.5, 4.0]))
    sums = [torch.tensor(signs) @ roots for signs in product([-1.0, 1.0], repeat=4)]
    mean = sum(each[:, None] * each for each in sums) / len(sums)  # type: ignore[operator]
    torch.testing.assert_close(mean, roots.T @ roots)


def test_random_signs_come_near_the_exact_fisher(
    experts: Experts, workspace: Workspace, probe: GroupProbe
) -> None:
    """Over 40 images the sums of all entries differ by less than half."""
    weights = weights_of(experts[0], workspace=workspace)
    exact, signed = (
        probe.squared_gradients(weights.items(), task=0, num_images=NUM_TRAIN, is_exact=is_exact)
        for is_exact in (True, False)
    )
    sums = [float(sum(each.sum() for each in found.values())) for found in (exact, signed)]
    assert 0.5 < sums[1] / sums[0] < 1.5
    assert sums[0] != sums[1]


def test_gram_matrices_are_of_full_kernels_and_of_no_others(probe: GroupProbe) -> None:
    """Depthwise kernels and vectors have no Gram matrix."""
    kernels = {
        name: weight
        for name, weight in probe._module.named_parameters()
        if weight.ndim == 4 and weight.shape[1] > 1
    }
    assert set(probe.gram_names()) == set(kernels)


def test_the_first_layers_gram_matrix_is_that_of_the_images(
    experts: Experts, workspace: Workspace, probe: GroupProbe
) -> None:
    """The centre taps of a 3 x 3 stem with stride 2 see every other pixel."""
    weights = weights_of(experts[0], workspace=workspace)
    name = "conv_stem.weight"
    grams = probe.grams(weights.items(), task=0, num_images=NUM_TRAIN, names={name})
    assert list(grams) == [name]
    split = workspace.split(experts[0].data_id, "train")
    backbone = probe._backbone
    inputs = to_inputs(
        split.images, normalization=backbone.normalization, device=torch.device("cpu")
    )
    columns = torch.nn.functional.unfold(inputs, 3, padding=1, stride=2)
    rows = columns.transpose(1, 2).reshape(-1, 27).double()
    torch.testing.assert_close(grams[name], rows.T @ rows, rtol=1e-4, atol=1e-2)


def test_accuracies_are_those_of_an_evaluation_with_the_merges_statistics(
    experts: Experts, new_workspace: Callable[[], Workspace], probe: GroupProbe
) -> None:
    """Every task is evaluated under its own head on all of its training images."""
    workspace = new_workspace()
    weights = weights_of(experts[0], workspace=workspace)
    found = probe.accuracies(weights.items(), num_images=NUM_TRAIN)
    backbone = workspace.base_backbone(experts[0].base_id)
    state = weights | mean_statistics(experts, workspace=workspace)
    backbone.module.load_state_dict(state, strict=False)
    assert found == [
        evaluate(
            backbone.module,
            workspace.expert_head(expert.id),
            split=workspace.split(expert.data_id, "train"),
            normalization=backbone.normalization,
            device=torch.device("cpu"),
        ).accuracy
        for expert in experts
    ]


def test_statistics_per_task_are_the_experts_own(experts: Experts, workspace: Workspace) -> None:
    """After a call for the merged model, the backbone has the last task's statistics."""
    backbone = workspace.base_backbone(experts[0].base_id)
    probe = GroupProbe(group_of(experts, policy="per_task"), backbone=backbone, workspace=workspace)
    weights = weights_of(experts[0], workspace=workspace)
    probe.accuracies(weights.items(), num_images=1)
    state, own = backbone.module.state_dict(), workspace.expert_tensors(experts[-1].id)
    names = [name for name in state if "running" in name]
    assert names
    assert all(torch.equal(state[name], own[name]) for name in names)


def test_calls_do_not_depend_on_one_another(
    experts: Experts, workspace: Workspace, probe: GroupProbe
) -> None:
    """The same call after others returns the same bits."""
    first, second = (weights_of(expert, workspace=workspace) for expert in experts[:2])

    def ask() -> Mapping[str, Tensor]:
        return probe.gradient(first.items(), loss="entropy", batch=3, batch_size=8)

    before = ask()
    probe.squared_gradients(second.items(), task=1, num_images=2, is_exact=False)
    probe.accuracies(second.items(), num_images=4)
    after = ask()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_images_that_the_expert_was_not_trained_on_come_first(
    make_expert: Callable[..., ExpertSpec],
) -> None:
    """At a data ratio of 0.75, five of twenty images come first, then the others, none twice."""
    expert = make_expert(data_ratio=0.75, seed=4)
    order = unseen_first(20, expert=expert, seed=1)
    trained_on = training_subset(20, data_ratio=0.75, seed=4)
    assert set(order[:5]) == set(range(20)) - set(trained_on)
    assert sorted(order) == list(range(20))
    assert not np.array_equal(order, unseen_first(20, expert=expert, seed=2))
