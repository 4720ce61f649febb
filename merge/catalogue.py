"""The merging methods as data: what each reads and keeps, its parameters, its paper; free of torch.

Whoever checks a study reads this module without loading torch; `merge.table` holds the functions
under the same names. A default's source stands under its field in `merge.parameters`; "FusionBench"
is release 0.2.33.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merge.errors import ParameterErrors, Problem
from merge.parameters.linear import (
    AverageParams,
    ModelStockParams,
    SlerpParams,
    TaskArithmeticParams,
    WeightedAverageParams,
)
from merge.parameters.per_task import EmrParams, TallMaskParams, TwinParams
from merge.parameters.sparse import (
    BreadcrumbsParams,
    ConsensusTaParams,
    DareParams,
    DareTiesParams,
    DellaParams,
    MagMaxParams,
    PcbParams,
    TiesParams,
)
from merge.parameters.spectral import IsoCParams, IsoCtsParams, TsvMParams, WudiParams
from merge.parameters.with_data import (
    AdaMergingParams,
    FisherParams,
    FrankWolfeParams,
    FrankWolfeSoftParams,
    GreedySoupParams,
    RegMeanParams,
)
from merge.ranges import problems_of, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from merge.parameters.method_params import MethodParams

DataUse = Literal["none", "unlabelled_test", "unlabelled_train", "labelled_train"]
"""The data that a method reads while merging; methods that differ in it are not like for like."""

BatchNormPolicy = Literal["average", "pooled", "base", "recalibrate", "per_task"]
"""Where a merged model's running statistics come from (rules in `merge.buffers`)."""


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """Describes one method for tables and reports."""

    title: str
    """Name as the field writes it."""
    paper: str
    """First author, year, title, arXiv number."""
    data_use: DataUse
    """Data that the method reads, beyond the weights."""
    is_random: bool = False
    """Whether the result depends on the seed."""
    needs_gradients: bool = False
    """Whether it differentiates through the model."""
    num_experts: int | None = None
    """Number of experts that it merges; None if it merges any number."""
    is_per_task: bool = False
    """Whether it keeps modules of each task beside the merged model, chosen by the task's identity
    at test time: more parameters and more knowledge than one model has."""


_DARE = "Yu 2023, Language Models are Super Mario, arXiv:2311.03099"
_FW = "Chen 2025, FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization, arXiv:2503.12649"
_ISO = (
    "Marczak 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific "
    "Subspaces, arXiv:2502.04959"
)
_TIES = "Yadav 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708"

CARDS: dict[str, MethodCard] = {
    "average": MethodCard(
        title="Average",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
        data_use="none",
    ),
    "weighted_average": MethodCard(
        title="Weighted Average",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
        data_use="none",
    ),
    "task_arithmetic": MethodCard(
        title="Task Arithmetic",
        paper="Ilharco 2022, Editing Models with Task Arithmetic, arXiv:2212.04089",
        data_use="none",
    ),
    "slerp": MethodCard(
        title="SLERP",
        paper="Shoemake 1985, Animating rotation with quaternion curves; of models: Goddard 2024, "
        "Arcee's MergeKit, arXiv:2403.13257",
        data_use="none",
        num_experts=2,
    ),
    "model_stock": MethodCard(
        title="Model Stock",
        paper="Jang 2024, Model Stock: All we need is just a few fine-tuned models, "
        "arXiv:2403.19522",
        data_use="none",
    ),
    "magmax": MethodCard(
        title="MagMax",
        paper="Marczak 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning, "
        "arXiv:2407.06322",
        data_use="none",
    ),
    "ties": MethodCard(title="TIES", paper=_TIES, data_use="none"),
    "dare": MethodCard(title="DARE", paper=_DARE, data_use="none", is_random=True),
    "dare_ties": MethodCard(
        title="DARE + TIES", paper=f"{_DARE}; {_TIES}", data_use="none", is_random=True
    ),
    "breadcrumbs": MethodCard(
        title="Breadcrumbs",
        paper="Davari 2023, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, "
        "arXiv:2312.06795",
        data_use="none",
    ),
    "della": MethodCard(
        title="DELLA",
        paper="Deep 2024, DELLA-Merging: Reducing Interference in Model Merging through "
        "Magnitude-Based Sampling, arXiv:2406.11617",
        data_use="none",
        is_random=True,
    ),
    "consensus_ta": MethodCard(
        title="Consensus TA",
        paper="Wang 2024, Localizing Task Information for Improved Model Merging and Compression, "
        "arXiv:2405.07813",
        data_use="none",
    ),
    "pcb": MethodCard(
        title="PCB-Merging",
        paper="Du 2024, Parameter Competition Balancing for Model Merging, arXiv:2410.02396",
        data_use="none",
    ),
    "tsv_m": MethodCard(
        title="TSV-M",
        paper="Gargiulo 2024, Task Singular Vectors: Reducing Task Interference in Model Merging, "
        "arXiv:2412.00081",
        data_use="none",
    ),
    "iso_c": MethodCard(title="Iso-C", paper=_ISO, data_use="none"),
    "iso_cts": MethodCard(title="Iso-CTS", paper=_ISO, data_use="none"),
    "wudi": MethodCard(
        title="WUDI",
        paper="Cheng 2025, Whoever Started the Interference Should End It: Guiding Data-Free Model "
        "Merging via Task Vectors, arXiv:2503.08099",
        data_use="none",
    ),
    "emr": MethodCard(
        title="EMR-Merging",
        paper="Huang 2024, EMR-Merging: Tuning-Free High-Performance Model Merging, "
        "arXiv:2405.17461",
        data_use="none",
        is_per_task=True,
    ),
    "tall_mask": MethodCard(
        title="TALL masks",
        paper="Wang 2024, Localizing Task Information for Improved Model Merging and Compression, "
        "arXiv:2405.07813",
        data_use="none",
        is_per_task=True,
    ),
    "twin": MethodCard(
        title="Twin-Merging",
        paper="Lu 2024, Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging, "
        "arXiv:2406.15479",
        data_use="none",
        is_per_task=True,
    ),
    "fisher": MethodCard(
        title="Fisher Merging",
        paper="Matena 2021, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
        data_use="unlabelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "regmean": MethodCard(
        title="RegMean",
        paper="Jin 2022, Dataless Knowledge Fusion by Merging Weights of Language Models, "
        "arXiv:2212.09849",
        data_use="unlabelled_train",
        is_random=True,
    ),
    "adamerging": MethodCard(
        title="AdaMerging",
        paper="Yang 2023, AdaMerging: Adaptive Model Merging for Multi-Task Learning, "
        "arXiv:2310.02575",
        data_use="unlabelled_test",
        is_random=True,
        needs_gradients=True,
    ),
    "frank_wolfe": MethodCard(
        title="FW-Merging",
        paper=_FW,
        data_use="labelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "frank_wolfe_soft": MethodCard(
        title="FW-Merging (soft)",
        paper=_FW,
        data_use="labelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "greedy_soup": MethodCard(
        title="Greedy Soup",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
        data_use="labelled_train",
        is_random=True,
    ),
}

PARAMS: dict[str, type[MethodParams]] = {
    "average": AverageParams,
    "weighted_average": WeightedAverageParams,
    "task_arithmetic": TaskArithmeticParams,
    "slerp": SlerpParams,
    "model_stock": ModelStockParams,
    "magmax": MagMaxParams,
    "ties": TiesParams,
    "dare": DareParams,
    "dare_ties": DareTiesParams,
    "breadcrumbs": BreadcrumbsParams,
    "della": DellaParams,
    "consensus_ta": ConsensusTaParams,
    "pcb": PcbParams,
    "tsv_m": TsvMParams,
    "iso_c": IsoCParams,
    "iso_cts": IsoCtsParams,
    "wudi": WudiParams,
    "emr": EmrParams,
    "tall_mask": TallMaskParams,
    "twin": TwinParams,
    "fisher": FisherParams,
    "regmean": RegMeanParams,
    "adamerging": AdaMergingParams,
    "frank_wolfe": FrankWolfeParams,
    "frank_wolfe_soft": FrankWolfeSoftParams,
    "greedy_soup": GreedySoupParams,
}


def parse_params(method: str, values: Mapping[str, object]) -> MethodParams:
    """Returns a method's parameters with defaults for what `values` leaves out.

    Raises:
        ParameterErrors: the method is unknown, or some parameters are; every problem is listed.
    """
    if method not in PARAMS:
        allowed = unknown(str(method), known=PARAMS)
        problem = Problem(field="method", value=method, allowed=allowed)
        raise ParameterErrors(str(method), problems=[problem])
    params_class = PARAMS[method]
    problems = problems_of(params_class, values=values)
    if problems:
        raise ParameterErrors(method, problems=problems)
    return params_class(**values)


def method_of(params: MethodParams) -> str:
    """Returns the name of the method that the parameters belong to."""
    return next(name for name, each in PARAMS.items() if each is type(params))


def num_experts_of(params: MethodParams) -> int | None:
    """Returns how many experts a group must have for these parameters; None for any number."""
    return params.num_experts or CARDS[method_of(params)].num_experts
