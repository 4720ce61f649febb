from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from merge.catalogue import PARAMS, method_of, num_experts_of, parse_params
from merge.errors import ParameterErrors
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
from merge.parameters.with_data import FisherParams
from merge.ranges import Count, range_of


def problems(method: str, **values: object) -> list[tuple[str, object]]:
    with pytest.raises(ParameterErrors) as raised:
        parse_params(method, values)
    return [(problem.field, problem.value) for problem in raised.value.problems]


def test_defaults_are_the_published_ones() -> None:
    """A method without given parameters gets the defaults of the fields' sources."""
    assert parse_params("average", {}) == AverageParams()
    assert parse_params("task_arithmetic", {}) == TaskArithmeticParams(scaling=0.3)
    assert parse_params("weighted_average", {}) == WeightedAverageParams(weights=())
    assert parse_params("model_stock", {}) == ModelStockParams(angle="cosine")
    assert parse_params("slerp", {}) == SlerpParams(t=0.5)
    assert parse_params("ties", {}) == TiesParams(
        density=0.2, scaling=0.3, consensus="sum", scope="model"
    )
    assert parse_params("dare", {}) == DareParams(density=0.5, rescale=True, scaling=0.3)
    assert parse_params("dare_ties", {}) == DareTiesParams(
        density=0.5, rescale=True, trim_density=0.2, scaling=0.5, consensus="sum"
    )
    assert parse_params("tsv_m", {}) == TsvMParams(scaling=1)
    assert parse_params("iso_c", {}) == IsoCParams(scaling=1)
    assert parse_params("iso_cts", {}) == IsoCtsParams(common_fraction=0.8, scaling=1)
    assert parse_params("wudi", {}) == WudiParams(steps=400, lr=1e-5)
    assert parse_params("emr", {}) == EmrParams()
    assert parse_params("tall_mask", {}) == TallMaskParams(tall_lambda=0.4, scaling=0.3)
    assert parse_params("twin", {}) == TwinParams(scaling=0.29, rank_frac=0.1)
    assert parse_params("breadcrumbs", {}) == BreadcrumbsParams(
        density=0.9, gamma=0.01, scaling=0.3
    )
    assert parse_params("della", {}) == DellaParams(
        density=0.7, epsilon=0.14, scaling=1.1, consensus="mean", elect=True
    )
    assert parse_params("consensus_ta", {}) == ConsensusTaParams(
        tall_lambda=0.4, min_tasks=2, scaling=0.3
    )
    assert parse_params("pcb", {}) == PcbParams(density=0.1, scaling=1.0)
    assert parse_params("magmax", {}) == MagMaxParams(scaling=0.5)


def test_given_values_replace_defaults() -> None:
    """The parameters hold the given values."""
    params = parse_params("ties", {"density": 0.1, "consensus": "mean", "scope": "tensor"})
    assert params == TiesParams(density=0.1, scaling=0.3, consensus="mean", scope="tensor")


def test_an_integer_stands_for_the_float_of_the_same_value() -> None:
    """1 and 1.0 give the same parameters, parsed or constructed."""
    for params in (parse_params("ties", {"density": 1}), TiesParams(density=1)):
        assert isinstance(params, TiesParams)
        assert repr(params.density) == "1.0"


@pytest.mark.parametrize("weights", [[1, 2], (1, 2), [1.0, 2.0]])
def test_a_list_of_weights_becomes_a_tuple_of_floats(weights: object) -> None:
    """Lists from a file become hashable, and equal however they were written."""
    params = parse_params("weighted_average", {"weights": weights})
    assert repr(params) == "WeightedAverageParams(weights=(1.0, 2.0))"


@pytest.mark.parametrize(
    "weights",
    [1, "12", [1, -1], [1, -2], [0, 0.0], [1, True], [1, math.nan], [1, [2]], [1001], {"a": 1}],
)
def test_weights_that_are_no_shares_are_refused(weights: object) -> None:
    """Infinite and nested weights are refused, and lists without a positive sum."""
    assert problems("weighted_average", weights=weights) == [("weights", weights)]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(1, True), (3, True), (0, False), (4, False), (2.0, False), (True, False)],
)
def test_a_count_is_a_whole_number(value: object, *, accepted: bool) -> None:
    """Neither a whole float nor a bool is a count."""
    assert Count(at_least=1, at_most=3).accepts(value) is accepted


def test_the_number_of_experts_comes_from_the_method_or_from_its_parameters() -> None:
    """SLERP merges two, weights give a number, and all other methods merge any number."""
    assert num_experts_of(SlerpParams()) == 2
    assert num_experts_of(WeightedAverageParams(weights=(1, 1, 1))) == 3
    assert num_experts_of(WeightedAverageParams()) is None
    assert num_experts_of(TiesParams()) is None


def test_every_problem_is_reported_at_once() -> None:
    """An unknown name, a wrong type and two values out of range are four problems."""
    found = problems("ties", densty=0.2, scaling="0.3", density=1.5, consensus="median")
    assert found == [
        ("densty", 0.2),
        ("scaling", "0.3"),
        ("density", 1.5),
        ("consensus", "median"),
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("density", 0),
        ("density", 1.0000001),
        ("density", True),
        ("density", None),
        ("density", [0.1, 0.2]),
        ("density", math.nan),
        ("scaling", math.inf),
        ("scaling", -10.5),
        ("scaling", 10.5),
        ("rescale", 1),
        ("rescale", "yes"),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: object) -> None:
    """A value of a wrong type, out of bounds or not finite is one problem of its field."""
    with pytest.raises(ParameterErrors) as raised:
        parse_params("dare", {name: value})
    (problem,) = raised.value.problems
    assert problem.field == name
    assert problem.value is value


@pytest.mark.parametrize("value", [0, -3, 1.0, True, "5", None, 1_000_001])
def test_a_count_is_a_whole_number_in_its_range(value: object) -> None:
    """A float is not accepted for a number of images, even if it is whole."""
    assert problems("fisher", images=value) == [("images", value)]


def test_a_count_stays_an_int() -> None:
    """Numbers become floats, but counts stay ints."""
    params = parse_params("fisher", {"images": 7})
    assert isinstance(params, FisherParams)
    assert repr(params.images) == "7"


def test_the_range_of_a_count_is_reported_in_words() -> None:
    """A user who wrote 1.5 learns which values are allowed."""
    with pytest.raises(ParameterErrors, match=r"images=1\.5 .* a whole number from 1 to 1000000"):
        parse_params("fisher", {"images": 1.5})


def test_constructing_parameters_checks_them_too() -> None:
    """Constructed parameters are checked like parsed ones."""
    with pytest.raises(ParameterErrors, match="density=7"):
        TiesParams(density=7)


def test_an_unknown_method_names_its_nearest() -> None:
    """A misspelt method is answered with similar names and all names."""
    with pytest.raises(ParameterErrors, match="did you mean ties") as raised:
        parse_params("tise", {"nonsense": 1})
    (problem,) = raised.value.problems
    assert problem.field == "method"
    assert all(name in problem.allowed for name in PARAMS)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("TIES", "ties"),
        ("TIES-Merging", "ties"),
        ("Task Arithmetic", "task_arithmetic"),
        ("task-arithmetic", "task_arithmetic"),
        ("DARE-TIES", "dare_ties"),
        ("Iso-C", "iso_c"),
        ("FISHER", "fisher"),
        ("SLERP ", "slerp"),
    ],
)
def test_neither_capitals_nor_hyphens_hide_the_nearest_method(given: str, meant: str) -> None:
    """The names of papers and of other tools lead to ours."""
    with pytest.raises(ParameterErrors, match=rf"did you mean {meant}\?"):
        parse_params(given, {})


def test_capitals_do_not_hide_the_nearest_parameter() -> None:
    """`Density` is answered like `densty`."""
    with pytest.raises(ParameterErrors, match="did you mean density"):
        parse_params("ties", {"Density": 0.2})


def test_a_random_drop_keeps_at_least_one_of_a_billion_entries() -> None:
    """Rescaling by a smaller density leaves the range of float32."""
    for method in ("dare", "dare_ties", "della"):
        assert problems(method, density=1e-300) == [("density", 1e-300)]
    assert parse_params("ties", {"density": 1e-300}) == TiesParams(density=1e-300)


def test_an_unknown_parameter_names_its_nearest() -> None:
    """A misspelt parameter is answered with similar names."""
    with pytest.raises(ParameterErrors, match="did you mean density"):
        parse_params("ties", {"densty": 0.2})


def test_a_method_without_parameters_says_so() -> None:
    """The message says that averaging has no parameters."""
    with pytest.raises(ParameterErrors, match=r"average: scaling=1 .* takes no parameters"):
        parse_params("average", {"scaling": 1})


def test_the_message_gives_what_is_allowed_on_one_line_a_problem() -> None:
    """A user can correct the file from the message alone."""
    with pytest.raises(ParameterErrors) as raised:
        parse_params("ties", {"density": 2, "scope": "layer"})
    assert str(raised.value).splitlines() == [
        "ties: density=2 is not allowed: a number above 0 to 1",
        "ties: scope='layer' is not allowed: one of model, tensor",
    ]


def test_parameter_errors_survive_a_process_boundary() -> None:
    """An error raised in a worker keeps its problems."""
    with pytest.raises(ParameterErrors) as raised:
        parse_params("ties", {"density": 2})
    arrived = pickle.loads(pickle.dumps(raised.value))
    assert arrived.problems == raised.value.problems
    assert str(arrived) == str(raised.value)


def test_parameters_cannot_be_changed() -> None:
    """Parameters are part of an id, so they are immutable."""
    with pytest.raises(FrozenInstanceError):
        TiesParams().density = 0.5  # type: ignore[misc]


def test_every_parameter_declares_its_range_and_has_a_default() -> None:
    """Each field of each method can be checked and omitted."""
    for name, params_class in PARAMS.items():
        params = params_class()
        assert method_of(params) == name
        for field in fields(params_class):
            assert range_of(field).accepts(getattr(params, field.name)), (name, field.name)


def test_parameters_and_cards_are_free_of_torch() -> None:
    """A process that only checks a study does not load torch."""
    code = "import sys, merge.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
