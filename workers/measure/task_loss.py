"""A task's loss under a fixed head, as a function of the backbone's weights, with derivatives.

The backbone is in evaluation mode: in training mode, BatchNorm couples the images of a batch, and
the loss of one image is undefined. Arithmetic is in float32 on every device.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.evaluate import CPU_BATCH_SIZE
from eval.model_inputs import to_inputs
from workers.models.batch_norm import batch_norms
from workers.models.tangent import load_forward_derivatives
from workers.models.tied_weights import load_state
from workers.sampling.batches import training_order
from workers.specs.measures import TaskSample
from workers.train.augmentation import augmented
from workers.workspace import Workspace

_KINKED = ("relu", "hard", "maxpool", "threshold")
"""Parts of the names of layers that are not smooth, in torch and timm."""
AGREEMENT = 1e-3
"""Products by two ways of differentiation differ by rounding: 5e-7 of their length (float32)."""
Positions = npt.NDArray[np.int64]


class TooFewImagesError(ValueError):
    """A task has fewer training images than batches."""


class TaskLoss:
    """The loss of a task at the weights of the process's backbone.

    They begin as the base's, or as those of the sample's expert.

    Vectors are flat and follow the order of the backbone's parameters.
    """

    def __init__(self, sample: TaskSample, *, workspace: Workspace) -> None:
        """Loads base, head and images.

        Raises:
            MissingArtifactError: The base, the images or the head are not committed.
            TooFewImagesError: There are fewer training images than batches.
        """
        self._sample = sample
        self._device = workspace.device
        self._kept_features = workspace.measured_features
        self._train = workspace.split(sample.data_id, "train")
        self._order = training_order(len(self._train), seed=sample.seed)
        self.batch_size = min(sample.batch_size, len(self._order) // sample.num_batches)
        """Images of each batch."""
        if self.batch_size == 0:
            raise TooFewImagesError(
                f"{sample.task} has {len(self._order)} training images; {sample.num_batches} "
                "batches need one each"
            )
        self._head = self._fixed_head(workspace)
        self._backbone = workspace.base_backbone(sample.base_id)
        self._module = self._backbone.module.eval()
        if sample.expert_id is not None:
            load_state(self._module, workspace.expert_tensors(sample.expert_id))
        self._has_forward_mode: bool | None = None  # not known before the first product
        self.names, self._weights = zip(*self._module.named_parameters(), strict=True)

    @property
    def num_weights(self) -> int:
        """Number of the backbone's parameters."""
        return sum(weight.numel() for weight in self._weights)

    @property
    def has_kinks(self) -> bool:
        """Whether the loss has kinks, as far as the names of the backbone's layers tell."""
        names = {type(layer).__name__.lower() for layer in self._module.modules()}
        return any(kinked in name for name in names for kinked in _KINKED)

    @property
    def has_batch_norm(self) -> bool:
        """Whether the backbone has BatchNorm layers."""
        return bool(batch_norms(self._module))

    def batches(self) -> list[Positions]:
        """Returns the positions of the images of each of the disjoint batches."""
        size = self.batch_size
        return [
            self._order[start * size : (start + 1) * size]
            for start in range(self._sample.num_batches)
        ]

    def later(self, start: int, num: int) -> Positions:
        """Returns the images at some places of the sample's order, which goes round."""
        return np.take(self._order, np.arange(start, start + num), mode="wrap")

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return len(self._order)

    def losses(self, positions: Positions) -> Tensor:
        """Returns the loss of each image, in nats, on the CPU.

        Shapes: (images,), float64.
        """
        with torch.no_grad():
            chunks = [self._losses(each) for each in _chunks(positions)]
        return torch.cat(chunks).double().cpu()

    def start_losses(self, positions: Positions) -> Tensor:
        """Returns the loss of each image at the weights that the backbone begins with.

        To be called before the weights move. The process keeps the features, as the experts of a
        task differ in their heads alone there.

        Shapes: (images,), float64.
        """
        sample = self._sample
        at = (sample.base_id, sample.expert_id, sample.data_id, sample.augment, sample.seed)
        with torch.no_grad():
            losses = [
                self._head_losses(
                    self._kept_features.get_or_make(
                        (*at, chunk.tobytes()), partial(self._features, chunk)
                    ),
                    chunk,
                )
                for chunk in _chunks(positions)
            ]
        return torch.cat(losses).double().cpu()

    def gradient(self, positions: Positions) -> tuple[npt.NDArray[np.float32], Tensor]:
        """Returns the gradient of the mean loss of some images, and the loss of each.

        Shapes: (num_weights,); (images,), float64.
        """
        sums = [torch.zeros_like(weight) for weight in self._weights]
        losses = []
        with torch.enable_grad():
            for chunk in _chunks(positions):
                found = self._losses(chunk)
                losses.append(found.detach())
                gradients = self._differentiate(found.sum() / len(positions))
                for sum_, gradient in zip(sums, gradients, strict=True):
                    sum_.add_(gradient)
        return _flat(sums), torch.cat(losses).double().cpu()

    def product(
        self, positions: Positions, vector: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float32]:
        """Returns the Hessian of the mean loss times a flat vector, (num_weights,).

        It is the gradient of the slope along the vector. The slope comes from forward-mode
        differentiation; where that is wrong or missing, from the gradient, which took 1.6 (32
        images) to 3.2 times (one) as long with EfficientNet-Lite0 at 64 pixels. Attention runs
        unfused, because fused kernels have no second derivative.

        Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.
        """
        products = [torch.zeros_like(weight) for weight in self._weights]
        parts = self.parts(vector)
        load_forward_derivatives()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for chunk in _chunks(positions):
                found = self._slope_gradient(chunk, parts, num_images=len(positions))
                for sum_, product in zip(products, found, strict=True):
                    sum_.add_(product)
        return _flat(products)

    def _slope_gradient(
        self, positions: Positions, along: Sequence[Tensor], *, num_images: int
    ) -> tuple[Tensor, ...]:
        """Returns the gradient of the slope of some images' part in the mean loss, by parameter."""
        if self._has_forward_mode is None:
            self._has_forward_mode = self._agrees(positions[:1], along)
        if self._has_forward_mode:
            return self._by_forward_mode(positions, along, num_images=num_images)
        return self._in_reverse(positions, along, num_images=num_images)

    def _agrees(self, positions: Positions, along: Sequence[Tensor]) -> bool:
        """Returns whether forward mode gives the product that two passes in reverse give.

        Some layers have no forward mode, and for a layer norm the gradient of torch 2.15's slope
        is wrong by half without an error. One image is enough to see either.
        """
        expected = self._in_reverse(positions, along, num_images=1)
        try:
            found = self._by_forward_mode(positions, along, num_images=1)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # torch has no class of its own for a layer that lacks it
            return False
        apart = [one - other for one, other in zip(found, expected, strict=True)]
        return dot(expected, expected) > 0 and dot(apart, apart) <= AGREEMENT**2 * dot(
            expected, expected
        )

    def _in_reverse(
        self, positions: Positions, along: Sequence[Tensor], *, num_images: int
    ) -> tuple[Tensor, ...]:
        mean = self._losses(positions).sum() / num_images
        gradients = self._differentiate(mean, create_graph=True)
        slope = torch.stack(
            [(each * part).sum() for each, part in zip(gradients, along, strict=True)]
        ).sum()
        return self._differentiate(slope)

    def _by_forward_mode(
        self, positions: Positions, along: Sequence[Tensor], *, num_images: int
    ) -> tuple[Tensor, ...]:
        def mean(weights: dict[str, Tensor]) -> Tensor:
            return self._losses(positions, weights=weights).sum() / num_images

        def slope(weights: dict[str, Tensor]) -> Tensor:
            found: Tensor = jvp(mean, (weights,), (dict(zip(self.names, along, strict=True)),))[1]
            return found

        at = {name: each.detach() for name, each in zip(self.names, self._weights, strict=True)}
        found: dict[str, Tensor] = grad(slope)(at)
        return tuple(found[name] for name in self.names)

    def parts(self, vector: npt.NDArray[np.floating]) -> list[Tensor]:
        """Returns a flat vector as a tensor for each parameter, on the device."""
        flat = torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32)).to(self._device)
        parts = torch.split(flat, [weight.numel() for weight in self._weights])
        return [part.view(weight.shape) for part, weight in zip(parts, self._weights, strict=True)]

    def direction(
        self, expert_states: Sequence[Mapping[str, Tensor]], coefficients: Sequence[float]
    ) -> list[Tensor]:
        """Returns the sum of task vectors, each times its coefficient, for each parameter."""
        sums = [torch.zeros_like(weight) for weight in self._weights]
        for state, coefficient in zip(expert_states, coefficients, strict=True):
            for sum_, name, weight in zip(sums, self.names, self._weights, strict=True):
                moved = state[name].to(device=self._device, dtype=weight.dtype) - weight.detach()
                sum_.add_(moved, alpha=coefficient)
        return sums

    def start(self) -> list[Tensor]:
        """Returns a copy of the backbone's weights."""
        return [weight.detach().clone() for weight in self._weights]

    def move(self, start: Sequence[Tensor], vector: Sequence[Tensor], *, share: float) -> None:
        """Sets the backbone's weights to a start plus a share of a vector, in place."""
        with torch.no_grad():
            for weight, origin, part in zip(self._weights, start, vector, strict=True):
                torch.add(origin, part, alpha=share, out=weight)

    def _fixed_head(self, workspace: Workspace) -> nn.Linear:
        sample = self._sample
        if sample.head_id is not None:
            head = workspace.zero_shot_head(sample.head_id)
        elif sample.head_expert_id is not None:
            head = workspace.expert_head(sample.head_expert_id)
        else:
            head = workspace.probe(
                sample.base_id, sample.data_id, l2=sample.probe_l2, kept=self._order
            )
        return head.requires_grad_(requires_grad=False).eval()

    def _losses(
        self, positions: Positions, *, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Returns the loss of each image, at other weights if they are given.

        Shapes: (images,).
        """
        return self._head_losses(self._features(positions, weights=weights), positions)

    def _head_losses(self, features: Tensor, positions: Positions) -> Tensor:
        labels = torch.from_numpy(self._train.labels[positions]).to(self._device)
        return functional.cross_entropy(self._head(features), labels, reduction="none")

    def _features(
        self, positions: Positions, *, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        batch = self._train.take(positions)
        inputs = to_inputs(
            batch.images, normalization=self._backbone.normalization, device=self._device
        )
        inputs = augmented(
            inputs,
            augmentation=self._sample.augment,
            seed=self._sample.seed,
            step=int(positions[0]),
        )
        if weights is None:
            features: Tensor = self._module(inputs)
        else:
            features = functional_call(self._module, dict(weights), (inputs,))
        return features

    def _differentiate(self, value: Tensor, *, create_graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            value,
            self._weights,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )


def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Returns the inner product of two vectors, summed in float64."""
    return float(sum((a * b).sum(dtype=torch.float64) for a, b in zip(left, right, strict=True)))


def _chunks(positions: Positions) -> list[Positions]:
    """Returns runs of images that are passed through the model together, alike on every device."""
    return [
        positions[start : start + CPU_BATCH_SIZE]
        for start in range(0, len(positions), CPU_BATCH_SIZE)
    ]


def _flat(tensors: Sequence[Tensor]) -> npt.NDArray[np.float32]:
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return flat.cpu().numpy()
