"""The catalogue of methods: title, paper, parameters and data use of each, without torch.

A process that checks a study imports this module and never loads torch. `merge.table` holds the
methods' functions under the same names. `merge.parameters` gives the source of every default;
"FusionBench" there is release 0.2.33.
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
from merge.ranges import one_of, problems_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from merge.parameters.method_params import MethodParams

DataUse = Literal["none", "unlabelled_test", "unlabelled_train", "labelled_train"]
"""The data that a method reads while merging. Methods that differ in it are not comparable."""

BatchNormPolicy = Literal["average", "pooled", "base", "recalibrate", "per_task"]
"""Policies for BatchNorm's running statistics; `merge.buffers` has the rules."""


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """The description of one method, for checks, tables and reports."""

    title: str
    """The method's usual name in papers."""
    paper: str
    """First author, year, title and arXiv number."""
    params: type[MethodParams]
    """The class of the method's parameters."""
    data_use: DataUse = "none"
    """Data that the method reads besides the weights."""
    is_random: bool = False
    """Whether the result depends on the seed."""
    needs_gradients: bool = False
    """Whether the method differentiates through the model."""
    num_experts: int | None = None
    """Number of experts that the method merges; None for any number."""
    is_per_task: bool = False
    """Whether the method keeps modules of each task beside the merged model and selects them by
    the task's identity at test time. It then has more parameters and more knowledge than one
    model."""


_DARE = "Yu 2023, Language Models are Super Mario, arXiv:2311.03099"
_FW = "Chen 2025, FW-Merging: Scaling Model Merging with Frank-Wolfe Optimization, arXiv:2503.12649"
_ISO = (
    "Marczak 2025, No Task Left Behind: Isotropic Model Merging with Common and Task-Specific "
    "Subspaces, arXiv:2502.04959"
)
_TIES = "Yadav 2023, TIES-Merging: Resolving Interference When Merging Models, arXiv:2306.01708"

CARDS: dict[str, MethodCard] = {
    "average": MethodCard(
        params=AverageParams,
        title="Average",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
    ),
    "weighted_average": MethodCard(
        params=WeightedAverageParams,
        title="Weighted Average",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
    ),
    "task_arithmetic": MethodCard(
        params=TaskArithmeticParams,
        title="Task Arithmetic",
        paper="Ilharco 2022, Editing Models with Task Arithmetic, arXiv:2212.04089",
    ),
    "slerp": MethodCard(
        params=SlerpParams,
        title="SLERP",
        paper="Shoemake 1985, Animating rotation with quaternion curves; of models: Goddard 2024, "
        "Arcee's MergeKit, arXiv:2403.13257",
        num_experts=2,
    ),
    "model_stock": MethodCard(
        params=ModelStockParams,
        title="Model Stock",
        paper="Jang 2024, Model Stock: All we need is just a few fine-tuned models, "
        "arXiv:2403.19522",
    ),
    "magmax": MethodCard(
        params=MagMaxParams,
        title="MagMax",
        paper="Marczak 2024, MagMax: Leveraging Model Merging for Seamless Continual Learning, "
        "arXiv:2407.06322",
    ),
    "ties": MethodCard(params=TiesParams, title="TIES", paper=_TIES),
    "dare": MethodCard(params=DareParams, title="DARE", paper=_DARE, is_random=True),
    "dare_ties": MethodCard(
        params=DareTiesParams, title="DARE + TIES", paper=f"{_DARE}; {_TIES}", is_random=True
    ),
    "breadcrumbs": MethodCard(
        params=BreadcrumbsParams,
        title="Breadcrumbs",
        paper="Davari 2023, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, "
        "arXiv:2312.06795",
    ),
    "della": MethodCard(
        params=DellaParams,
        title="DELLA",
        paper="Deep 2024, DELLA-Merging: Reducing Interference in Model Merging through "
        "Magnitude-Based Sampling, arXiv:2406.11617",
        is_random=True,
    ),
    "consensus_ta": MethodCard(
        params=ConsensusTaParams,
        title="Consensus TA",
        paper="Wang 2024, Localizing Task Information for Improved Model Merging and Compression, "
        "arXiv:2405.07813",
    ),
    "pcb": MethodCard(
        params=PcbParams,
        title="PCB-Merging",
        paper="Du 2024, Parameter Competition Balancing for Model Merging, arXiv:2410.02396",
    ),
    "tsv_m": MethodCard(
        params=TsvMParams,
        title="TSV-M",
        paper="Gargiulo 2024, Task Singular Vectors: Reducing Task Interference in Model Merging, "
        "arXiv:2412.00081",
    ),
    "iso_c": MethodCard(params=IsoCParams, title="Iso-C", paper=_ISO),
    "iso_cts": MethodCard(params=IsoCtsParams, title="Iso-CTS", paper=_ISO),
    "wudi": MethodCard(
        params=WudiParams,
        title="WUDI",
        paper="Cheng 2025, Whoever Started the Interference Should End It: Guiding Data-Free Model "
        "Merging via Task Vectors, arXiv:2503.08099",
    ),
    "emr": MethodCard(
        params=EmrParams,
        title="EMR-Merging",
        paper="Huang 2024, EMR-Merging: Tuning-Free High-Performance Model Merging, "
        "arXiv:2405.17461",
        is_per_task=True,
    ),
    "tall_mask": MethodCard(
        params=TallMaskParams,
        title="TALL masks",
        paper="Wang 2024, Localizing Task Information for Improved Model Merging and Compression, "
        "arXiv:2405.07813",
        is_per_task=True,
    ),
    "twin": MethodCard(
        params=TwinParams,
        title="Twin-Merging",
        paper="Lu 2024, Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging, "
        "arXiv:2406.15479",
        is_per_task=True,
    ),
    "fisher": MethodCard(
        params=FisherParams,
        title="Fisher Merging",
        paper="Matena 2021, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
        data_use="unlabelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "regmean": MethodCard(
        params=RegMeanParams,
        title="RegMean",
        paper="Jin 2022, Dataless Knowledge Fusion by Merging Weights of Language Models, "
        "arXiv:2212.09849",
        data_use="unlabelled_train",
        is_random=True,
    ),
    "adamerging": MethodCard(
        params=AdaMergingParams,
        title="AdaMerging",
        paper="Yang 2023, AdaMerging: Adaptive Model Merging for Multi-Task Learning, "
        "arXiv:2310.02575",
        data_use="unlabelled_test",
        is_random=True,
        needs_gradients=True,
    ),
    "frank_wolfe": MethodCard(
        params=FrankWolfeParams,
        title="FW-Merging",
        paper=_FW,
        data_use="labelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "frank_wolfe_soft": MethodCard(
        params=FrankWolfeSoftParams,
        title="FW-Merging (soft)",
        paper=_FW,
        data_use="labelled_train",
        is_random=True,
        needs_gradients=True,
    ),
    "greedy_soup": MethodCard(
        params=GreedySoupParams,
        title="Greedy Soup",
        paper="Wortsman 2022, Model soups, arXiv:2203.05482",
        data_use="labelled_train",
        is_random=True,
    ),
}

PARAMS: dict[str, type[MethodParams]] = {name: card.params for name, card in CARDS.items()}
"""The class of each method's parameters."""

CHANGE_TASK_VECTORS = frozenset(
    {
        *("ties", "dare", "dare_ties", "breadcrumbs", "della", "consensus_ta", "magmax", "pcb"),
        *("emr", "tall_mask", "twin", "tsv_m", "iso_c", "iso_cts", "wudi"),
    }
)
"""Methods that do more than add task vectors with coefficients (`merge.measures`)."""

SCALE_ONE_VECTOR = frozenset(
    {
        *("task_arithmetic", "magmax", "ties", "dare", "dare_ties", "breadcrumbs", "della"),
        *("consensus_ta", "pcb", "tsv_m", "iso_c", "iso_cts"),
    }
)
"""Methods whose merged weights are the base plus `scaling` times a vector that does not depend on
`scaling`, so that the merges of all scalings need the vector once."""


def parse_params(
    method: str, values: Mapping[str, object], *, card: MethodCard | None = None
) -> MethodParams:
    """Returns a method's parameters, with defaults where `values` has none.

    Args:
        method: The method's name.
        values: Parameters by name.
        card: The card of a method that a user wrote; None for a method of the catalogue.

    Raises:
        ParameterErrors: The method or a parameter is unknown, or a value is not allowed; the error
            lists every problem.
    """
    if card is None and method not in CARDS:
        allowed = one_of(CARDS, given=str(method))
        problem = Problem(field="method", value=method, allowed=allowed)
        raise ParameterErrors(str(method), problems=[problem])
    params_class = (card or CARDS[method]).params
    problems = problems_of(params_class, values=values)
    if problems:
        raise ParameterErrors(method, problems=problems)
    return params_class(**values)


def method_of(params: MethodParams) -> str:
    """Returns the name of the method that these parameters belong to."""
    if params.own is not None:
        return str(params.own.name)
    return next(name for name, each in PARAMS.items() if each is type(params))


def card_of(params: MethodParams) -> MethodCard:
    """Returns the card of the method that these parameters belong to."""
    card: MethodCard = CARDS[method_of(params)] if params.own is None else params.own.card
    return card


def num_experts_of(params: MethodParams) -> int | None:
    """Returns the number of experts that these parameters need in a group; None for any number."""
    return params.num_experts or card_of(params).num_experts


def wrong_number(params: MethodParams, *, num_experts: int) -> str | None:
    """Returns in words that these parameters need another number of experts, or None."""
    needed = num_experts_of(params)
    if needed in (None, num_experts):
        return None
    given = " with these parameters" if params.num_experts else ""
    return f"{method_of(params)} merges exactly {needed} experts{given}, not {num_experts}"


def lacking_data(params: MethodParams) -> str | None:
    """Returns in words that the method reads images, which files alone do not give it, or None."""
    use = card_of(params).data_use
    if use == "none":
        return None
    reads = f"{method_of(params)} reads {use.replace('_', ' ')} images"
    return f"{reads} while it merges; only a study has them"


def wrong_task(params: MethodParams, *, has_task: bool) -> str | None:
    """Returns in words that a task is chosen without need, or not chosen though needed, or None."""
    method = method_of(params)
    if card_of(params).is_per_task == has_task:
        return None
    if has_task:
        return f"{method} makes one model for all tasks, so --task chooses nothing"
    return f"{method} builds one model per task: choose an expert with --task"
