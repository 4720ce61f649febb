"""Small states, and the ways to merge them that the tests share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from merge.merge import MergeOptions, merge
from merge.weight import Weight
from workers.contract.states import summed_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from merge.parameters.method_params import MethodParams
    from merge.parameters.with_data import Loss
    from merge.probe import Tensors

    Model = Callable[[Mapping[str, Tensor], Tensor], Tensor]


@pytest.fixture
def tensors() -> Callable[..., dict[str, Tensor]]:
    """Makes a state of float32 tensors out of nested lists."""

    def make(**values: list[float]) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}

    return make


@pytest.fixture
def merged_lists() -> Callable[..., dict[str, list[float]]]:
    """Merges states and returns every tensor as a list."""

    def run(
        base: dict[str, Tensor],
        experts: list[dict[str, Tensor]],
        *,
        params: MethodParams,
        seed: int = 0,
    ) -> dict[str, list[float]]:
        return {
            name: tensor.tolist()
            for name, tensor in merge(base, experts, options=MergeOptions(params=params, seed=seed))
        }

    return run


@pytest.fixture
def weight() -> Callable[..., Weight]:
    """Makes one weight out of lists; its base is zero unless given."""

    def make(*experts: list[float], base: list[float] | None = None, name: str = "w") -> Weight:
        zeros = [0.0] * len(experts[0])
        return Weight(
            name=name,
            base_state={name: torch.tensor(base or zeros)},
            expert_states=[{name: torch.tensor(expert)} for expert in experts],
        )

    return make


@dataclass(frozen=True, kw_only=True)
class ToyProbe:
    """A probe of a function of weights and inputs, by autograd; an image is one row of numbers.

    Tasks have no own heads. The inputs of the one weight with a Gram matrix are the images.
    """

    model: Model
    """Weights and inputs to logits."""
    images: Sequence[Tensor]
    """The images of each task, (images, width)."""
    labels: Sequence[Tensor]
    """The labels of each task, (images,)."""
    matrix: str = ""
    """Name of the weight that multiplies the images as a matrix, if there is one."""

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.images)

    def gradient(
        self,
        weights: Tensors,
        *,
        loss: Loss,
        batch: int,
        batch_size: int,
        task: int | None = None,
    ) -> Mapping[str, Tensor]:
        """Returns the gradient of the summed losses; batches wrap around."""
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights}
        tasks = range(self.num_tasks) if task is None else (task,)
        total = summed_loss(
            partial(self.model, leaves),
            [(self.images[each], self.labels[each]) for each in tasks],
            loss=loss,
            rows=range(batch * batch_size, (batch + 1) * batch_size),
        )
        total.backward()
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    def squared_gradients(
        self, weights: Tensors, *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns the mean over images of the exact expectation over labels."""
        assert not is_exact
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights}
        squares = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        images = self.images[task][:num_images]
        for image in images:
            log_chances = self.model(leaves, image[None])[0].log_softmax(0)
            for log_chance in log_chances:
                found = torch.autograd.grad(
                    log_chance, list(leaves.values()), retain_graph=True, allow_unused=True
                )
                for square, each in zip(squares.values(), found, strict=True):
                    if each is not None:
                        chance = float(log_chance.detach().exp())
                        square.add_(each.square(), alpha=chance / len(images))
        return squares

    def gram_names(self) -> Collection[str]:
        """Returns the name of the one matrix, if there is one."""
        return [self.matrix] if self.matrix else []

    def grams(
        self,
        weights: Tensors,
        *,
        task: int,
        num_images: int,
        names: Collection[str],
    ) -> Mapping[str, Tensor]:
        """Returns X^T X of the images."""
        dict(weights)  # reads the weights, as a model would
        rows = self.images[task][:num_images].double()
        return dict.fromkeys(names, rows.T @ rows)

    def accuracies(self, weights: Tensors, *, num_images: int) -> Sequence[float]:
        """Returns each task's accuracy on its first images."""
        state = dict(weights)
        return [
            float((self.model(state, x[:num_images]).argmax(1) == y[:num_images]).double().mean())
            for x, y in zip(self.images, self.labels, strict=True)
        ]


@pytest.fixture
def toy_probe() -> Callable[..., ToyProbe]:
    """Makes a probe of a model; images and labels are random unless given."""

    def make(
        model: Model,
        *,
        num_tasks: int = 0,
        width: int = 1,
        num_classes: int = 2,
        images: Sequence[Tensor] = (),
        labels: Sequence[Tensor] = (),
        matrix: str = "",
    ) -> ToyProbe:
        generator = torch.Generator().manual_seed(3)
        tasks = range(num_tasks)
        return ToyProbe(
            model=model,
            images=images or [torch.randn(12, width, generator=generator) for _ in tasks],
            labels=labels
            or [torch.randint(num_classes, (12,), generator=generator) for _ in tasks],
            matrix=matrix,
        )

    return make
