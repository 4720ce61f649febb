"""Random models and images on which a method is tried."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from merge.parameters.with_data import Loss
    from merge.probe import Tensors
    from merge.weight import State

SHAPES: Mapping[str, tuple[int, ...]] = {
    "stem.weight": (6, 3, 3, 3),
    "norm.weight": (6,),
    "norm.bias": (6,),
    "block.weight": (12, 24),
    "scale": (1,),
    "classifier.weight": (4, 8),
}
"""The weights of the small model: a kernel, vectors, matrices and a single number."""
CLASSIFIER = "classifier.weight"
"""The weight that the images see."""
_DELTA = 0.02
"""Standard deviation of the entries of task vectors."""
_NUM_IMAGES = 12


def random_base() -> dict[str, Tensor]:
    """Returns the small base."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def random_experts(num: int) -> list[State]:
    """Returns fine-tuned copies of the small base; each has a tensor that did not change."""
    base = random_base()
    return [_expert(base, number) for number in range(num)]


def _expert(base: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1 + number)
    names = list(base)
    return {
        name: tensor.clone()
        if name == names[number % len(names)]
        else tensor + _DELTA * torch.randn(tensor.shape, generator=generator)
        for name, tensor in base.items()
    }


class LazyState(Mapping[str, Tensor]):
    """A large state that makes a tensor whenever it is read, and keeps none."""

    def __init__(self, *, num_tensors: int, noise: Tensor, factor: float) -> None:
        """Remembers how to make the tensors.

        Args:
            num_tensors: Number of tensors.
            noise: The matrix that all tensors are multiples of.
            factor: Distinguishes this state from others.
        """
        self._names = [f"layer{number}.weight" for number in range(num_tensors)]
        self._noise = noise
        self._factor = factor

    def __getitem__(self, name: str) -> Tensor:
        """Returns the tensor, with the same entries at every read."""
        return self._noise * (self._factor + self._names.index(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True, kw_only=True)
class RandomProbe:
    """Random images of each task, which a linear model with one weight sees.

    It has the interface of `merge.probe.Probe`, so that methods that read data can be tried.
    """

    tasks: tuple[int, ...]
    """The images of the task at each position, by a number that stands for them."""
    weight: str = CLASSIFIER
    """The name of the weight that multiplies the images."""

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

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
        leaf = dict(weights)[self.weight].clone().requires_grad_()
        shape = {"width": leaf.shape[1], "num_classes": leaf.shape[0]}
        tasks = range(self.num_tasks) if task is None else (task,)
        total = summed_loss(
            lambda images: images @ leaf.T,
            [self._images(each, **shape) for each in tasks],
            loss=loss,
            rows=range(batch * batch_size, (batch + 1) * batch_size),
        )
        (found,) = torch.autograd.grad(total, [leaf])
        return {self.weight: found}

    def squared_gradients(
        self, weights: Tensors, *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns the mean over the images of the exact expectation over labels."""
        del is_exact
        leaf = dict(weights)[self.weight]
        images, _ = self._images(task, width=leaf.shape[1], num_classes=leaf.shape[0])
        chances = (images[:num_images] @ leaf.T).softmax(1)
        return {
            self.weight: (chances * (1 - chances)).T @ images[:num_images].square() / num_images
        }

    def gram_names(self) -> Collection[str]:
        """Returns the name of the one weight."""
        return [self.weight]

    def grams(
        self, weights: Tensors, *, task: int, num_images: int, names: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Returns X^T X of the images."""
        leaf = dict(weights)[self.weight]
        images, _ = self._images(task, width=leaf.shape[1], num_classes=leaf.shape[0])
        rows = images[:num_images].double()
        return dict.fromkeys(names, rows.T @ rows)

    def accuracies(self, weights: Tensors, *, num_images: int) -> Sequence[float]:
        """Returns each task's accuracy on its first images."""
        leaf = dict(weights)[self.weight]
        shape = {"width": leaf.shape[1], "num_classes": leaf.shape[0]}
        split = [self._images(task, **shape) for task in range(self.num_tasks)]
        return [
            float(((images @ leaf.T).argmax(1) == labels)[:num_images].double().mean())
            for images, labels in split
        ]

    def _images(self, task: int, *, width: int, num_classes: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 + self.tasks[task])
        images = torch.randn(_NUM_IMAGES, width, generator=generator)
        return images, torch.randint(num_classes, (_NUM_IMAGES,), generator=generator)


def summed_loss(
    model: Callable[[Tensor], Tensor],
    tasks: Iterable[tuple[Tensor, Tensor]],
    *,
    loss: Loss,
    rows: range,
) -> Tensor:
    """Returns the sum over tasks of the mean loss of a batch.

    Args:
        model: Images to logits.
        tasks: The images and the labels of each task.
        loss: The loss of an image.
        rows: The batch: numbers of images, which wrap around at the end of a task's images.
    """
    total = torch.zeros(())
    for images, labels in tasks:
        batch = torch.tensor(rows) % len(images)
        total = total + _LOSSES[loss](model(images[batch]), labels[batch])
    return total


def _entropy(logits: Tensor, labels: Tensor) -> Tensor:
    del labels
    log_chances = logits.log_softmax(1)
    return -(log_chances.exp() * log_chances).sum(1).mean()


_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": _entropy,
    "cross_entropy": functional.cross_entropy,
}
