"""What is compared with what: a literal table, and the differences that have an explanation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["weights", "statistics", "integers"]

WITH_BATCH_NORM = ("small_resnet", "resnet18")
ALL = ("small_resnet", "small_resnet_groupnorm", "small_vit", "resnet18")
SMALL = ("small_resnet", "small_resnet_groupnorm", "small_vit")
VIT = ("small_vit",)
THREE = [1.0, 1.0, 1.0]
WEIGHTS = [1.0, 2.0, 5.0]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One method of ours beside one of a peer's, with parameters that mean the same."""

    ours: tuple[str, Mapping[str, object]]
    """Our method and its parameters."""
    peer: Literal["fusion_bench", "mergekit"]
    theirs: tuple[str, Mapping[str, object]]
    """The peer's method and its parameters."""
    architectures: tuple[str, ...] = ALL
    part: Part = "weights"
    """What is compared. The peer is given weights alone if these are, else the whole state."""
    batch_norm: str = "average"
    num_experts: int = 3
    one_entry_more: str | None = None
    """A density of ours that is raised by one entry of the model."""
    is_random: bool = False
    """Whether the peer's draws are replaced by what ours keeps."""
    are_kernels_matrices: bool = False
    """Whether the peer is given kernels as the matrices that ours takes them for."""
    is_double: bool = False
    """Whether the peer computes in float64, as ours does where it decomposes matrices."""
    task: int | None = None
    """The expert whose task's model is compared, of methods that have one for each."""
    measured: Literal["fisher", "grams"] | None = None
    """What both are given instead of images."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Why a case differs. The check fails when the difference is gone."""

    kind: Literal["the peer's error", "another convention", "the peer refuses"]
    why: str
    shown_by: tuple[str, ...] = field(default=())
    """Cases that agree once the convention is matched, which shows that nothing else differs."""
    message: str = ""
    """What the peer's refusal says."""


def _fusion_bench_ties(merge_func: str, scaling_factor: float) -> tuple[str, Mapping[str, object]]:
    return "ties", {
        "scaling_factor": scaling_factor,
        "threshold": 20,
        "remove_keys": [],
        "merge_func": merge_func,
    }


def _fusion_bench_dare(sparsity: float, *, rescale: bool) -> tuple[str, Mapping[str, object]]:
    return "dare_task_arithmetic", {
        "scaling_factor": 0.3,
        "sparsity_ratio": sparsity,
        "only_on_linear_weights": False,
        "rescale": rescale,
    }


_FUSION_BENCH_DARE_TIES: tuple[str, Mapping[str, object]] = (
    "dare_ties",
    {
        "sparsity_ratio": 0.5,
        "only_on_linear_weights": False,
        "rescale": True,
        "scaling_factor": 0.5,
        "threshold": 20,
        "remove_keys": [],
        "merge_func": "sum",
    },
)


def _mergekit(method: str, scaling: float, **others: object) -> tuple[str, Mapping[str, object]]:
    return method, {"weight": 1.0, "lambda": scaling, **others}


CASES: dict[str, Case] = {
    "fusion_bench average": Case(
        ours=("average", {}), peer="fusion_bench", theirs=("simple_average", {})
    ),
    "fusion_bench average, statistics": Case(
        ours=("average", {}),
        peer="fusion_bench",
        theirs=("simple_average", {}),
        part="statistics",
        architectures=WITH_BATCH_NORM,
    ),
    "fusion_bench average, counters": Case(
        ours=("average", {}),
        peer="fusion_bench",
        theirs=("simple_average", {}),
        part="integers",
        architectures=WITH_BATCH_NORM,
    ),
    "fusion_bench task_arithmetic": Case(
        ours=("task_arithmetic", {"scaling": 0.3}),
        peer="fusion_bench",
        theirs=("task_arithmetic", {"scaling_factor": 0.3}),
    ),
    "fusion_bench task_arithmetic, statistics": Case(
        ours=("task_arithmetic", {"scaling": 0.3}),
        peer="fusion_bench",
        theirs=("task_arithmetic", {"scaling_factor": 0.3}),
        part="statistics",
        architectures=WITH_BATCH_NORM,
    ),
    "fusion_bench ties, sum": Case(
        ours=("ties", {"density": 0.2, "scaling": 0.3}),
        peer="fusion_bench",
        theirs=_fusion_bench_ties("sum", 0.3),
        one_entry_more="density",
    ),
    "fusion_bench ties, mean": Case(
        ours=("ties", {"density": 0.2, "scaling": 1.0, "consensus": "mean"}),
        peer="fusion_bench",
        theirs=_fusion_bench_ties("mean", 1.0),
        one_entry_more="density",
    ),
    "fusion_bench ties, exact density": Case(
        ours=("ties", {"density": 0.2, "scaling": 0.3}),
        peer="fusion_bench",
        theirs=_fusion_bench_ties("sum", 0.3),
        # On the other rounding to the nearest gives the entry more as well.
        architectures=("small_resnet", "small_resnet_groupnorm", "resnet18"),
    ),
    "fusion_bench ties, statistics": Case(
        ours=("ties", {"density": 0.2, "scaling": 0.3}),
        peer="fusion_bench",
        theirs=_fusion_bench_ties("sum", 0.3),
        part="statistics",
        architectures=WITH_BATCH_NORM,
    ),
    "fusion_bench dare": Case(
        ours=("dare", {"density": 0.5, "scaling": 0.3}),
        peer="fusion_bench",
        theirs=_fusion_bench_dare(0.5, rescale=True),
        is_random=True,
    ),
    "fusion_bench dare, no rescaling": Case(
        ours=("dare", {"density": 0.25, "scaling": 0.3, "rescale": False}),
        peer="fusion_bench",
        theirs=_fusion_bench_dare(0.75, rescale=False),
        is_random=True,
    ),
    "fusion_bench dare, statistics": Case(
        ours=("dare", {"density": 0.5, "scaling": 0.3}),
        peer="fusion_bench",
        theirs=_fusion_bench_dare(0.5, rescale=True),
        part="statistics",
        batch_norm="base",
        architectures=WITH_BATCH_NORM,
        is_random=True,
    ),
    "fusion_bench dare_ties": Case(
        ours=("dare_ties", {"density": 0.5, "trim_density": 0.2, "scaling": 0.5}),
        peer="fusion_bench",
        theirs=_FUSION_BENCH_DARE_TIES,
        one_entry_more="trim_density",
        is_random=True,
    ),
    "fusion_bench dare_ties, statistics": Case(
        ours=("dare_ties", {"density": 0.5, "trim_density": 0.2, "scaling": 0.5}),
        peer="fusion_bench",
        theirs=_FUSION_BENCH_DARE_TIES,
        part="statistics",
        architectures=WITH_BATCH_NORM,
        is_random=True,
    ),
    "fusion_bench weighted_average": Case(
        ours=("weighted_average", {"weights": WEIGHTS}),
        peer="fusion_bench",
        theirs=("weighted_average", {"weights": WEIGHTS, "normalize": True}),
    ),
    "fusion_bench weighted_average, statistics": Case(
        ours=("weighted_average", {"weights": WEIGHTS}),
        peer="fusion_bench",
        theirs=("weighted_average", {"weights": WEIGHTS, "normalize": True}),
        part="statistics",
        architectures=WITH_BATCH_NORM,
    ),
    "fusion_bench slerp": Case(
        ours=("slerp", {"t": 0.3}),
        peer="fusion_bench",
        theirs=("slerp", {"t": 0.3}),
        num_experts=2,
    ),
    "fusion_bench model_stock": Case(
        ours=("model_stock", {"angle": "degrees"}),
        peer="fusion_bench",
        theirs=("model_stock", {}),
    ),
    "fusion_bench model_stock, two experts": Case(
        ours=("model_stock", {}),
        peer="fusion_bench",
        theirs=("model_stock", {}),
        num_experts=2,
    ),
    "fusion_bench model_stock, mean of cosines": Case(
        ours=("model_stock", {}),
        peer="fusion_bench",
        theirs=("model_stock", {}),
    ),
    "fusion_bench tsv_m": Case(
        ours=("tsv_m", {"scaling": 1.0}),
        peer="fusion_bench",
        theirs=("tsv_m", {"alpha": 1.0}),
        architectures=SMALL,
        are_kernels_matrices=True,
        is_double=True,
    ),
    "fusion_bench tsv_m, kernels": Case(
        ours=("tsv_m", {"scaling": 1.0}),
        peer="fusion_bench",
        theirs=("tsv_m", {"alpha": 1.0}),
        architectures=SMALL,
    ),
    "fusion_bench iso_c": Case(
        ours=("iso_c", {"scaling": 1.5}),
        peer="fusion_bench",
        theirs=("iso_c", {"scaling_factor": 1.5}),
        architectures=SMALL,
        are_kernels_matrices=True,
        is_double=True,
    ),
    "fusion_bench iso_c, kernels": Case(
        ours=("iso_c", {"scaling": 1.5}),
        peer="fusion_bench",
        theirs=("iso_c", {"scaling_factor": 1.5}),
        architectures=SMALL,
    ),
    "fusion_bench iso_cts": Case(
        ours=("iso_cts", {"scaling": 1.5, "common_fraction": 0.8}),
        peer="fusion_bench",
        theirs=("iso_cts", {"scaling_factor": 1.5, "common_space_fraction": 0.8}),
        architectures=SMALL,
        are_kernels_matrices=True,
        is_double=True,
    ),
    "fusion_bench iso_cts, kernels": Case(
        ours=("iso_cts", {"scaling": 1.5, "common_fraction": 0.8}),
        peer="fusion_bench",
        theirs=("iso_cts", {"scaling_factor": 1.5, "common_space_fraction": 0.8}),
        architectures=SMALL,
    ),
    "fusion_bench wudi": Case(
        ours=("wudi", {"steps": 100}),
        peer="fusion_bench",
        theirs=("wudi", {"iter_num": 100}),
        architectures=SMALL,
        are_kernels_matrices=True,
    ),
    "fusion_bench wudi, kernels": Case(
        ours=("wudi", {"steps": 100}),
        peer="fusion_bench",
        theirs=("wudi", {"iter_num": 100}),
        architectures=SMALL,
    ),
    "fusion_bench emr, one tensor": Case(
        ours=("emr", {}),
        peer="fusion_bench",
        theirs=("emr", {"task": 1}),
        architectures=("one_layer",),
        task=1,
    ),
    "fusion_bench emr": Case(
        ours=("emr", {}),
        peer="fusion_bench",
        theirs=("emr", {"task": 1}),
        task=1,
    ),
    "fusion_bench fisher": Case(
        ours=("fisher", {"normalize": True}),
        peer="fusion_bench",
        theirs=("fisher", {"normalize": True}),
        measured="fisher",
    ),
    "fusion_bench regmean": Case(
        ours=("regmean", {"reduce": 0.9}),
        peer="fusion_bench",
        theirs=("regmean", {"reduce": 0.9}),
        architectures=VIT,
        measured="grams",
    ),
    "mergekit average": Case(
        ours=("average", {}), peer="mergekit", theirs=("linear", {"weight": THREE})
    ),
    "mergekit average, statistics": Case(
        ours=("average", {}),
        peer="mergekit",
        theirs=("linear", {"weight": THREE}),
        part="statistics",
        architectures=WITH_BATCH_NORM,
    ),
    "mergekit task_arithmetic": Case(
        ours=("task_arithmetic", {"scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("task_arithmetic", 0.3),
    ),
    "mergekit ties, sum": Case(
        ours=("ties", {"density": 0.25, "scaling": 0.3, "scope": "tensor"}),
        peer="mergekit",
        theirs=_mergekit("ties", 0.3, density=0.25, normalize=False),
    ),
    "mergekit ties, mean": Case(
        ours=("ties", {"density": 0.25, "scaling": 1.0, "consensus": "mean", "scope": "tensor"}),
        peer="mergekit",
        theirs=_mergekit("ties", 1.0, density=0.25),
    ),
    "mergekit ties, fractions of entries": Case(
        ours=("ties", {"density": 0.2, "scaling": 0.3, "scope": "tensor"}),
        peer="mergekit",
        theirs=_mergekit("ties", 0.3, density=0.2, normalize=False),
    ),
    "mergekit ties, over the model": Case(
        ours=("ties", {"density": 0.25, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("ties", 0.3, density=0.25, normalize=False),
    ),
    "mergekit dare, no rescaling": Case(
        ours=("dare", {"density": 0.5, "scaling": 0.3, "rescale": False}),
        peer="mergekit",
        theirs=_mergekit("dare_linear", 0.3, density=0.5, rescale=False),
        is_random=True,
    ),
    "mergekit dare": Case(
        ours=("dare", {"density": 0.5, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("dare_linear", 0.3, density=0.5),
        is_random=True,
    ),
    "mergekit dare_ties, no trim": Case(
        ours=(
            "dare_ties",
            {"density": 0.5, "trim_density": 1.0, "scaling": 0.5, "rescale": False},
        ),
        peer="mergekit",
        theirs=_mergekit("dare_ties", 0.5, density=0.5, rescale=False),
        is_random=True,
    ),
    "mergekit dare_ties": Case(
        ours=(
            "dare_ties",
            {"density": 0.5, "trim_density": 0.2, "scaling": 0.5, "rescale": False},
        ),
        peer="mergekit",
        theirs=_mergekit("dare_ties", 0.5, density=0.5, rescale=False),
        is_random=True,
    ),
    "mergekit weighted_average": Case(
        ours=("weighted_average", {"weights": WEIGHTS}),
        peer="mergekit",
        theirs=("linear", {"weight": WEIGHTS}),
    ),
    "mergekit slerp": Case(
        ours=("slerp", {"t": 0.3}),
        peer="mergekit",
        theirs=("slerp", {"t": 0.3}),
        num_experts=2,
    ),
    "mergekit model_stock": Case(
        ours=("model_stock", {}), peer="mergekit", theirs=("model_stock", {})
    ),
}

KERNELS = "kernels are averaged, as all that has other than two dimensions; ours are matrices"

DIFFERENCES: dict[str, Difference] = {
    "fusion_bench average, counters": Difference(
        kind="another convention",
        why="counters of batches are averaged; ours are the largest expert's",
    ),
    "fusion_bench task_arithmetic, statistics": Difference(
        kind="the peer refuses",
        why="task vectors of counters are integers, scaled ones are not",
        message="Dtype mismatch",
        shown_by=("fusion_bench task_arithmetic",),
    ),
    "fusion_bench ties, exact density": Difference(
        kind="the peer's error",
        why="everything from the (entries - k)-th smallest magnitude up is kept: k + 1 entries",
        shown_by=("fusion_bench ties, sum", "fusion_bench ties, mean"),
    ),
    "fusion_bench ties, statistics": Difference(
        kind="the peer's error",
        why="running statistics are trimmed, elected and summed as weights are, so that variances "
        "can fall below zero; ours follow the policy",
    ),
    "fusion_bench dare_ties, statistics": Difference(
        kind="the peer's error",
        why="only parameters have the base subtracted, so that the experts' statistics themselves "
        "are merged as task vectors and added to the base's",
    ),
    "fusion_bench weighted_average, statistics": Difference(
        kind="another convention",
        why="running statistics are weighted; ours follow their policy, which is the plain mean",
    ),
    "fusion_bench model_stock, mean of cosines": Difference(
        kind="another convention",
        why="the angles are averaged, in degrees, and not the cosines, as ours by default",
        shown_by=("fusion_bench model_stock", "fusion_bench model_stock, two experts"),
    ),
    "fusion_bench tsv_m, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench tsv_m",),
    ),
    "fusion_bench iso_c, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench iso_c",),
    ),
    "fusion_bench iso_cts, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench iso_cts",),
    ),
    "fusion_bench wudi, kernels": Difference(
        kind="another convention",
        why=KERNELS,
        shown_by=("fusion_bench wudi",),
    ),
    "fusion_bench emr": Difference(
        kind="the peer's error",
        why="the scales are ratios of sums of the tensors' means, so that a bias counts as much as "
        "a kernel; the paper's are of sums over all entries",
        shown_by=("fusion_bench emr, one tensor",),
    ),
    "mergekit average, statistics": Difference(
        kind="the peer refuses",
        why="counters of experts with different numbers of steps differ",
        message="differs between inputs",
        shown_by=("mergekit average",),
    ),
    "mergekit ties, fractions of entries": Difference(
        kind="another convention",
        why="density x entries is cut to the integer below; ours is rounded to the nearest",
        shown_by=("mergekit ties, sum",),
    ),
    "mergekit ties, over the model": Difference(
        kind="another convention",
        why="each tensor is trimmed by itself; the paper, and ours by default, trims the model",
        shown_by=("mergekit ties, sum",),
    ),
    "mergekit dare": Difference(
        kind="the peer's error",
        why="what is kept is rescaled to the L1 norm before the drop; the paper divides by the "
        "density, which keeps the expected value",
        shown_by=("mergekit dare, no rescaling",),
    ),
    "mergekit dare_ties": Difference(
        kind="another convention",
        why="nothing is trimmed between the drop and the election",
        shown_by=("mergekit dare_ties, no trim",),
    ),
}
