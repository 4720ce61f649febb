"""The cases of FusionBench."""

from collections.abc import Mapping

from case_schema import SMALL, WITH_BATCH_NORM, Case

WEIGHTS = [1.0, 2.0, 5.0]
VIT = ("small_vit",)


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
        # On small_vit, rounding to the nearest integer also gives the additional entry.
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
        is_double=True,
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
    "fusion_bench magmax": Case(
        ours=("magmax", {"scaling": 0.5}),
        peer="fusion_bench",
        theirs=("magmax", {"scaling_factor": 0.5}),
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
}
