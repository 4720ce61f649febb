"""What a method that reads data may ask of the model: the whole of what merging with data needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

Loss = Literal["entropy", "cross_entropy"]
"""Of the predictions alone, or against labels."""


class Probe(Protocol):
    """A group's model, heads and images; tasks go by position in the group.

    Every call first loads the state given, so that calls do not depend on one another. Nothing is
    random: images come in an order that is a function of the merge's seed.
    """

    @property
    def num_tasks(self) -> int:
        """Tasks, and experts, of the group."""

    def gradient(
        self,
        state: Iterable[tuple[str, Tensor]],
        *,
        loss: Loss,
        tasks: Iterable[int],
        batch: int,
        batch_size: int,
    ) -> Mapping[str, Tensor]:
        """Returns the gradient of the tasks' summed mean losses, by name of the weight.

        Args:
            state: The model's tensors.
            loss: `entropy` reads test images without labels, `cross_entropy` labelled training
                images.
            tasks: Whose losses are added.
            batch: Which batch of each task's shuffled stream of images, from 0.
            batch_size: Images a task.

        Shapes: each that of its weight, float32.
        """
