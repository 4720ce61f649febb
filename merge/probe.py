"""What a method that reads data may ask of the model: the whole of what merging with data needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from merge.parameters.with_data import Loss
    from merge.weight import Weight

    Tensors = Iterable[tuple[str, Tensor]]
    """The weights of one model, by name; taken one after another, so that a generator will do."""


class Probe(Protocol):
    """A group's model, heads and images; tasks go by position in the group.

    Every call first loads the weights given, so that calls do not depend on one another, and works
    in evaluation mode. Running statistics are no matter of the method: what judges a merged model
    uses those that the merge will have, what measures an expert uses the expert's own. Nothing is
    random: images come in an order that is a function of the merge's seed.
    """

    @property
    def num_tasks(self) -> int:
        """Number of tasks; experts beyond it have no images here."""

    def gradient(
        self,
        weights: Tensors,
        *,
        loss: Loss,
        batch: int,
        batch_size: int,
        task: int | None = None,
    ) -> Mapping[str, Tensor]:
        """Returns the gradient of a merged model's losses, added over the group's tasks.

        Args:
            weights: The model's.
            loss: `entropy` reads test images without labels, `cross_entropy` labelled training
                images; the mean over a task's batch, in nats.
            batch: Which batch of each task's shuffled stream of images, from 0.
            batch_size: Images a task.
            task: Position of the one task whose loss counts; None for all.

        Shapes: each that of its weight, float32; weights that the model does not train are absent.
        """

    def squared_gradients(
        self, weights: Tensors, *, task: int, num_images: int, is_exact: bool
    ) -> Mapping[str, Tensor]:
        """Returns the diagonal of an expert's Fisher information on unlabelled training images.

        The mean over the images x of E_y [(d log p(y|x) / d weight)^2], y from the predictions.

        Args:
            weights: The expert's.
            task: Its position.
            num_images: Of its task; all of them where there are fewer.
            is_exact: Takes the expectation class by class, a backward pass for each. Otherwise one
                pass for an image sums the classes' square-root parts with random signs, whose
                square is the same in expectation.

        Shapes: as `gradient`.
        """

    def gram_names(self) -> Collection[str]:
        """Returns the weights that the model applies to its inputs as one matrix.

        Those of linear layers and of convolutions without groups, whose inputs are patches.
        """

    def grams(
        self, weights: Tensors, *, task: int, num_images: int, names: Collection[str]
    ) -> Mapping[str, Tensor]:
        """Returns X^T X of the inputs that an expert's layers see on unlabelled training images.

        Args:
            weights: The expert's.
            task: Its position.
            num_images: As in `squared_gradients`.
            names: The weights whose layers are asked about, out of `gram_names`.

        Shapes: (width, width) in float64, for a weight of shape (out, ...) with width entries an
            output, in the order of the weight's entries.
        """

    def accuracies(self, weights: Tensors, *, num_images: int) -> Sequence[float]:
        """Returns a merged model's accuracy on each task's labelled training images.

        Images that the task's expert was not trained on come first.

        Args:
            weights: The model's.
            num_images: As in `squared_gradients`.

        Units: fractions in [0, 1].
        """


def expert_tensors(weights: Sequence[Weight], index: int) -> Iterator[tuple[str, Tensor]]:
    """Yields one expert's weights, one alive at a time."""
    return ((weight.name, weight.expert(index)) for weight in weights)
