"""Gives merging methods with data a group's model, heads and images.

This is the workers' implementation of the protocol `merge.probe.Probe`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from eval.evaluate import CPU_BATCH_SIZE, autocast, evaluate
from eval.images.split import Split
from eval.model_inputs import to_inputs
from merge.buffers import is_statistic, merge_statistic
from merge.parameters.with_data import Loss
from merge.weight import Weight
from workers.merging.task_models import expert_names
from workers.models.backbones import Backbone
from workers.models.batch_norm import copy_statistics
from workers.models.layer_inputs import LayerInputs, add_gram
from workers.sampling.batches import batch_positions, training_subset
from workers.sampling.seeds import derive_seed
from workers.specs.expert import ExpertSpec
from workers.specs.merge import MergeSpec
from workers.workspace import Workspace

if TYPE_CHECKING:
    from merge.catalogue import BatchNormPolicy

Tensors = Iterable[tuple[str, Tensor]]

CHUNK_IMAGES = CPU_BATCH_SIZE
"""Images per backward pass; the same on every device, so that results are too."""


class GroupProbe:
    """The process's backbone with one group's heads and images, for one merge.

    The merge is later written into the same backbone. Until then, the backbone has the weights and
    running statistics of the last call. No gradient stays in the backbone.

    A merged model is evaluated with the running statistics that the merge will have. For `per_task`
    these are each expert's own statistics. For `recalibrate` they are the mean over the experts,
    because a recalibration would differ at every call.
    """

    def __init__(self, spec: MergeSpec, *, backbone: Backbone, workspace: Workspace) -> None:
        self._spec = spec
        self._backbone = backbone
        self._workspace = workspace
        self._device = workspace.device
        self._heads = [workspace.expert_head(expert.id) for expert in spec.merged]
        for head in self._heads:
            head.requires_grad_(requires_grad=False)
        self._merged_statistics = _merged_statistics(spec, workspace=workspace)
        self._module = backbone.module
        self._model = backbone.model.eval()

    @property
    def num_tasks(self) -> int:
        """Number of tasks: those of the group, whose experts come first."""
        return len(self._spec.experts)

    @torch.enable_grad()
    def gradient(
        self,
        weights: Tensors,
        *,
        loss: Loss,
        batch: int,
        batch_size: int,
        task: int | None = None,
    ) -> Mapping[str, Tensor]:
        """Returns the gradient of a merged model's losses, summed over the group's tasks."""
        self._load(weights)
        for each in range(self.num_tasks) if task is None else (task,):
            expert = self._spec.experts[each]
            self._use_merged_statistics(expert)
            split = self._split(expert, loss=loss)
            positions = batch_positions(
                np.arange(len(split)),
                step=batch,
                batch_size=batch_size,
                seed=self._seed("images", expert.task),
            )
            for images in split.take(positions).batches(CHUNK_IMAGES):
                losses = _LOSSES[loss](self._logits(each, images), self._labels(images))
                (losses.sum() / batch_size).backward()  # type: ignore[no-untyped-call]
        return self._take_gradients()

    @torch.enable_grad()
    def squared_gradients(
        self, weights: Tensors, *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns the diagonal of an expert's Fisher information, averaged over images."""
        self._load_expert(weights, task)
        seed = self._seed("signs", self._spec.merged[task].task)
        generator = torch.Generator().manual_seed(seed)
        images = self._train_images(task, num_images)
        trained = dict(self._module.named_parameters())
        squares = {name: torch.zeros_like(weight) for name, weight in trained.items()}
        for index in range(len(images)):
            logits = self._logits(task, images.rows(index, index + 1))[0]
            roots = fisher_roots(logits.detach())
            if not is_exact:
                signs = torch.randint(2, (len(roots),), generator=generator) * 2.0 - 1
                roots = (signs.to(self._device) @ roots)[None]
            for root in roots:
                found = torch.autograd.grad(
                    logits, list(trained.values()), root, retain_graph=True, allow_unused=True
                )
                for square, gradient in zip(squares.values(), found, strict=True):
                    if gradient is not None:
                        square.addcmul_(gradient, gradient, value=1 / len(images))
        return squares

    def gram_names(self) -> Collection[str]:
        """Returns the weights that the model applies as matrices, found with one image."""
        found: dict[str, None] = {}
        image = self._workspace.split(self._spec.experts[0].data_id, "train").rows(0, 1)
        with LayerInputs(self._module, on_inputs=lambda name, _: found.update({name: None})):
            self._forward(image)
        return found.keys()

    def grams(
        self, weights: Tensors, *, task: int, num_images: int, names: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Returns X^T X of the inputs of an expert's layers."""
        self._load_expert(weights, task)
        sums: dict[str, Tensor] = {}

        def add(name: str, inputs: Callable[[], Tensor]) -> None:
            if name in names:
                add_gram(sums, name, inputs())

        with LayerInputs(self._module, on_inputs=add):
            for images in self._train_images(task, num_images).batches(CHUNK_IMAGES):
                self._forward(images)
        return sums

    def accuracies(self, weights: Tensors, *, num_images: int) -> Sequence[float]:
        """Returns a merged model's accuracy on each task's training images."""
        self._load(weights)
        return [
            self._accuracy(task, num_images=num_images) for task in range(len(self._spec.experts))
        ]

    def _accuracy(self, task: int, *, num_images: int) -> float:
        expert = self._spec.experts[task]
        self._use_merged_statistics(expert)
        split = self._workspace.split(expert.data_id, "train")
        order = unseen_first(len(split), expert=expert, seed=self._seed("images", expert.task))
        return evaluate(
            self._model,
            self._heads[task],
            split=split.take(order[:num_images]),
            normalization=self._backbone.normalization,
            device=self._device,
        ).accuracy

    def _load(self, weights: Tensors) -> None:
        destination = self._module.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                destination[name].copy_(tensor)

    def _load_expert(self, weights: Tensors, task: int) -> None:
        self._load(weights)
        expert = self._spec.merged[task]
        copy_statistics(self._workspace.expert_tensors(expert.id), module=self._module)

    def _use_merged_statistics(self, expert: ExpertSpec) -> None:
        is_own = self._spec.batch_norm == "per_task"
        own = self._workspace.expert_tensors(expert.id) if is_own else None
        copy_statistics(own or self._merged_statistics, module=self._module)

    def _split(self, expert: ExpertSpec, *, loss: Loss) -> Split:
        name = self._spec.evaluate_on if loss == "entropy" else "train"
        return self._workspace.split(expert.data_id, name)

    def _train_images(self, task: int, num_images: int) -> Split:
        expert = self._spec.merged[task]
        split = self._workspace.split(expert.data_id, "train")
        order = np.random.default_rng(self._seed("images", expert.task)).permutation(len(split))
        return split.take(order[:num_images])

    def _seed(self, purpose: str, task: str) -> int:
        return derive_seed(self._spec.seed, "merge", purpose, task)

    def _logits(self, task: int, images: Split) -> Tensor:
        with autocast(self._device):
            logits: Tensor = self._heads[task](self._features(images))
        return logits.float()

    def _forward(self, images: Split) -> None:
        with torch.no_grad(), autocast(self._device):
            self._features(images)

    def _features(self, images: Split) -> Tensor:
        normalization = self._backbone.normalization
        inputs = to_inputs(images.images, normalization=normalization, device=self._device)
        features: Tensor = self._model(inputs)
        return features

    def _labels(self, images: Split) -> Tensor:
        return torch.from_numpy(images.labels).to(self._device)

    def _take_gradients(self) -> dict[str, Tensor]:
        taken = {}
        for name, weight in self._module.named_parameters():
            if weight.grad is not None:
                taken[name], weight.grad = weight.grad, None
        return taken


def fisher_roots(logits: Tensor) -> Tensor:
    """Returns square roots of one image's Fisher information with respect to its logits.

    Row y is sqrt(p_y) (e_y - p): the gradient of log p(y) with respect to the logits, times the
    root of the probability of y. The squares of the rows' derivatives with respect to a weight add
    up to the diagonal of the Fisher information. A sum of the rows with random signs has the same
    square in expectation, because the cross terms are zero in expectation. Drawing a label instead
    would be a worse estimate: for a certain prediction, nearly every draw has a gradient of zero.

    Shapes:
        logits: (classes,). returns: (classes, classes).
    """
    probabilities = logits.softmax(dim=0)
    identity = torch.eye(len(probabilities), device=logits.device)
    return probabilities.sqrt()[:, None] * (identity - probabilities)


def unseen_first(num_images: int, *, expert: ExpertSpec, seed: int) -> npt.NDArray[np.int64]:
    """Returns the positions of a training split with the images that an expert has not seen first.

    Both parts are shuffled. At a data ratio of 1 the first part is empty.

    Shapes:
        returns: (num_images,).
    """
    trained = expert.hyperparameters
    seen = training_subset(num_images, data_ratio=trained.data_ratio, seed=trained.seed)
    order = np.random.default_rng(seed).permutation(num_images)
    is_seen = np.isin(order, seen)
    return np.concatenate([order[~is_seen], order[is_seen]])


def _entropies(logits: Tensor, labels: Tensor) -> Tensor:
    del labels
    log_probabilities = logits.log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": _entropies,
    "cross_entropy": _cross_entropies,
}


def _merged_statistics(spec: MergeSpec, *, workspace: Workspace) -> dict[str, Tensor]:
    base = workspace.base_tensors(spec.base_id)
    experts = [workspace.expert_tensors(expert.id) for expert in spec.merged]
    policy = cast("BatchNormPolicy", spec.batch_norm)
    return {
        name: merge_statistic(
            Weight(name=name, base_state=base, expert_states=experts, names=expert_names(spec)),
            policy=policy,
        )
        for name in base
        if base[name].is_floating_point() and is_statistic(name, state=base)
    }
