"""The interface through which a method that reads data uses the model and the images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from merge.parameters.with_data import Loss
    from merge.weight import Weight

    Tensors = Iterable[tuple[str, Tensor]]
    """The weights of one model by name, read one after another, so a generator is enough."""


class Probe(Protocol):
    """A group's model, heads and images. A task is named by its position in the group.

    The experts of the group come first. Further ones may follow: they are merged, but losses and
    accuracies are those of the group. Calls on an expert read the images of its own task.

    Every call first loads the given weights, so calls do not depend on one another, and runs the
    model in evaluation mode. The method does not choose running statistics: calls on a merged model
    use the statistics that the merge will have, calls on an expert use the expert's own. Results
    are deterministic: the order of images is a function of the merge's seed.
    """

    @property
    def num_tasks(self) -> int:
        """Number of tasks of the group; later experts belong to none, and add nothing to a loss."""

    def gradient(
        self,
        weights: Tensors,
        *,
        loss: Loss,
        batch: int,
        batch_size: int,
        task: int | None = None,
    ) -> Mapping[str, Tensor]:
        """Returns the gradient of a merged model's losses, summed over the group's tasks.

        A task's loss is the mean over its batch, in nats.

        Args:
            weights: The merged model's weights.
            loss: `entropy` reads test images without labels, `cross_entropy` reads labelled
                training images.
            batch: Number of the batch in each task's shuffled stream of images, from 0.
            batch_size: Images of each task.
            task: Position of the only task whose loss counts; None for all tasks.

        Shapes: each gradient has the shape of its weight, float32. Weights that the model does not
            train are absent.
        """

    def squared_gradients(
        self, weights: Tensors, *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns the diagonal of an expert's Fisher information on unlabelled training images.

        This is the mean over the images x of E_y [(d log p(y|x) / d weight)^2], with y drawn from
        the predictions.

        Args:
            weights: The expert's weights.
            task: The expert's position.
            num_images: Images of the expert's task; all images if the task has fewer.
            is_exact: Computes the expectation class by class, with one backward pass per image and
                class. Otherwise one backward pass per image sums the classes, each scaled by the
                square root of its probability and a random sign; the square of that sum has the
                same expectation.

        Shapes: as `gradient`.
        """

    def gram_names(self) -> Collection[str]:
        """Returns the names of the weights that the model applies to its inputs as one matrix.

        These are the weights of linear layers and of convolutions without groups, whose inputs are
        patches.
        """

    def grams(
        self, weights: Tensors, *, task: int, num_images: int, names: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Returns X^T X of the inputs X that an expert's layers see on unlabelled training images.

        Args:
            weights: The expert's weights.
            task: The expert's position.
            num_images: As in `squared_gradients`.
            names: The weights whose layers to measure, out of `gram_names`.

        Shapes: (width, width) in float64, for a weight of shape (out, ...) with width entries for
            each output, in the order of the weight's entries.
        """

    def accuracies(self, weights: Tensors, *, num_images: int) -> Sequence[float]:
        """Returns a merged model's accuracy on each task's labelled training images.

        Images that the task's expert was not trained on come first.

        Args:
            weights: The merged model's weights.
            num_images: As in `squared_gradients`.

        Units: fractions in [0, 1].
        """


def expert_tensors(weights: Sequence[Weight], index: int) -> Iterator[tuple[str, Tensor]]:
    """Yields one expert's weights by name, with one in memory at a time."""
    return ((weight.name, weight.expert(index)) for weight in weights)
