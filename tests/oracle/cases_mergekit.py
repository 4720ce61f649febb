"""The cases of mergekit."""

from collections.abc import Mapping

from case_schema import SMALL, WITH_BATCH_NORM, Case

THREE = [1.0, 1.0, 1.0]
WEIGHTS = [1.0, 2.0, 5.0]
WITHOUT_TIES = ("small_resnet",)
"""In the other architectures two entries of a row tie, and the order of a sort is arbitrary."""
DELLA = {"density": 0.5, "epsilon": 0.25}
"""mergekit's epsilon is half of this project's."""


def _mergekit(method: str, scaling: float, **others: object) -> tuple[str, Mapping[str, object]]:
    return method, {"weight": 1.0, "lambda": scaling, **others}


CASES: dict[str, Case] = {
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
        architectures=SMALL,
    ),
    "mergekit ties, tied magnitudes": Case(
        ours=("ties", {"density": 0.25, "scaling": 0.3, "scope": "tensor"}),
        peer="mergekit",
        theirs=_mergekit("ties", 0.3, density=0.25, normalize=False),
        architectures=("resnet18",),
    ),
    "mergekit ties, mean": Case(
        ours=("ties", {"density": 0.25, "scaling": 1.0, "consensus": "mean", "scope": "tensor"}),
        peer="mergekit",
        theirs=_mergekit("ties", 1.0, density=0.25),
        architectures=SMALL,
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
    "mergekit dare, divided by the density": Case(
        ours=("dare", {"density": 0.5, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("dare_linear", 0.3, density=0.5, rescale=False),
        is_random=True,
        is_divided=True,
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
    "mergekit breadcrumbs": Case(
        ours=("breadcrumbs", {"density": 0.5, "gamma": 0.25, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("breadcrumbs", 0.3, density=0.5, gamma=0.25),
        architectures=SMALL,
    ),
    "mergekit breadcrumbs, tied magnitudes": Case(
        ours=("breadcrumbs", {"density": 0.5, "gamma": 0.25, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("breadcrumbs", 0.3, density=0.5, gamma=0.25),
        architectures=("resnet18",),
    ),
    "mergekit breadcrumbs, fractions of entries": Case(
        ours=("breadcrumbs", {"density": 0.9, "gamma": 0.01, "scaling": 0.3}),
        peer="mergekit",
        theirs=_mergekit("breadcrumbs", 0.3, density=0.9, gamma=0.01),
    ),
    "mergekit della, divided by the chance": Case(
        ours=("della", {**DELLA, "scaling": 1.0, "consensus": "mean"}),
        peer="mergekit",
        theirs=_mergekit("della", 1.0, density=0.5, epsilon=0.125, rescale=False),
        architectures=WITHOUT_TIES,
        is_random=True,
        is_divided=True,
        are_kernels_matrices=True,
    ),
    "mergekit della_linear, divided by the chance": Case(
        ours=("della", {**DELLA, "scaling": 0.3, "consensus": "sum", "elect": False}),
        peer="mergekit",
        theirs=_mergekit("della_linear", 0.3, density=0.5, epsilon=0.125, rescale=False),
        architectures=WITHOUT_TIES,
        is_random=True,
        is_divided=True,
        are_kernels_matrices=True,
    ),
    "mergekit della, kernels": Case(
        ours=("della", {**DELLA, "scaling": 1.0, "consensus": "mean"}),
        peer="mergekit",
        theirs=_mergekit("della", 1.0, density=0.5, epsilon=0.125, rescale=False),
        architectures=WITHOUT_TIES,
        is_random=True,
        is_divided=True,
    ),
    "mergekit della": Case(
        ours=("della", {**DELLA, "scaling": 1.0, "consensus": "mean"}),
        peer="mergekit",
        theirs=_mergekit("della", 1.0, density=0.5, epsilon=0.125),
        architectures=WITHOUT_TIES,
        is_random=True,
        are_kernels_matrices=True,
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
        is_double=True,
    ),
    "mergekit model_stock": Case(
        ours=("model_stock", {}),
        peer="mergekit",
        theirs=("model_stock", {}),
        is_double=True,
    ),
}
