"""Typed views of the metrics in the manifests of measurements, without torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

Json = Mapping[str, Any]
Matrix = tuple[tuple[float, ...], ...]

SKETCH_FILE = "gradients.npy"
"""The sketches of the batches' gradients (`eval.theory.sketch`), (Q, width), float32."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its standard error."""

    value: float
    standard_error: float

    @classmethod
    def from_json(cls, values: Json) -> Self:
        """Returns the number of its JSON object."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class CurvatureMetrics:
    """A curvature's bracket (`eval.theory.curvature`), in 1 / step."""

    low: float
    """Mean Rayleigh quotient on independent samples, which is biased down."""
    high: float
    """Mean largest eigenvalue, which is biased up."""
    low_sd: float | None
    """Over the pairs of samples; None for a single pair."""
    high_sd: float | None
    num_images: int
    """Images of each sample; fewer than specified if the task has too few."""
    num_pairs: int
    single_mean: float
    """Mean over single images of their own largest eigenvalue."""
    single_max: float
    """The largest one of them: a lower value of `L1`."""
    num_singles: int


@dataclass(frozen=True, kw_only=True)
class ConstantsMetrics:
    """The constants of a base on one task."""

    products: Matrix
    """Inner products of the mean gradients of the batches, (Q, Q), exact."""
    batch_size: int
    """m, images of a batch that were used."""
    num_weights: int
    """Parameters of the backbone."""
    has_kinks: bool
    """Whether the backbone has layers such as ReLU or max-pooling, as far as their names tell."""
    has_batch_norm: bool
    squared_gradient: Measured
    """Unbiased `|g_i|^2`, which may be negative."""
    noise: Measured
    """Unbiased `sigma_i2` of single examples."""
    loss: Measured
    """Mean cross-entropy of the sample at the base, nats per image."""
    curvature: CurvatureMetrics | None
    num_gradients: int
    """Cost: examples that were differentiated once."""
    num_products: int
    """Cost: examples whose Hessian was multiplied by a vector, each about five gradients."""

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return asdict(self)

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of the metrics of constants."""
        curvature = metrics["curvature"]
        numbers = ("squared_gradient", "noise", "loss")
        return cls(
            **{
                **metrics,
                **{name: Measured.from_json(metrics[name]) for name in numbers},
                "products": _matrix(metrics["products"]),
                "curvature": None if curvature is None else CurvatureMetrics(**curvature),
            }
        )


@dataclass(frozen=True, kw_only=True)
class ReachMetrics:
    """The loss of one task along a path from the base, to second order and as it is."""

    slope: Measured | None
    """`g't`, nats; None if the loss is not finite so near the base, as for diverged experts."""
    curvature: Measured | None
    """`t'H t`, nats; None as the slope."""
    reach: Measured | None
    """`rho = t'H t / |g't|`, with a jackknife error; None if the slope is 0."""
    squared_length: float
    """`|t|^2` over the backbone's parameters."""
    start_loss: float
    """Nats per image, of the sample at the base."""
    end_loss: float | None
    """At the end of the path, under the same head and the base's running statistics; None if it is
    not finite."""
    batch_size: int
    num_passes: int
    """Cost: forward passes of single examples, without those at the start, which paths share."""

    @property
    def predicted_change(self) -> float | None:
        """The change of the loss along the path, to second order; None without a slope."""
        if self.slope is None or self.curvature is None:
            return None
        return self.slope.value + self.curvature.value / 2

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return asdict(self)

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of the metrics of a reach."""
        numbers = {name: metrics[name] for name in ("slope", "curvature", "reach")}
        return cls(
            **{
                **metrics,
                **{
                    name: None if number is None else Measured.from_json(number)
                    for name, number in numbers.items()
                },
            }
        )


@dataclass(frozen=True, kw_only=True)
class OperatorMetrics:
    """A method's effect on the task vectors of one group, in the order of its experts."""

    before: Matrix
    """Inner products of the task vectors, (N, N)."""
    after: Matrix | None
    """Of the parts that the method adds; None if it has none (`merge.measures.operator`)."""
    moved: tuple[float, ...] | None
    """Squared distances by which leaving each expert out moves the merge; None if not measured."""
    flipped: tuple[float, ...] | None
    """Shares of entries whose sign leaving each expert out flips."""
    moved_before: tuple[float, ...] | None
    """As `moved` and `flipped`, for the plain average of the same experts."""
    flipped_before: tuple[float, ...] | None

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics as the manifest stores them."""
        return asdict(self)

    @classmethod
    def from_json(cls, metrics: Json) -> Self:
        """Returns the view of the metrics of a method's effect."""
        lists = ("moved", "flipped", "moved_before", "flipped_before")
        return cls(
            before=_matrix(metrics["before"]),
            after=None if metrics["after"] is None else _matrix(metrics["after"]),
            **{name: None if metrics[name] is None else tuple(metrics[name]) for name in lists},
        )


def _matrix(rows: Any) -> Matrix:  # noqa: ANN401 JSON
    return tuple(tuple(row) for row in rows)
