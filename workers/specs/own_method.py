"""A user's merging method as plans, manifests and the driver know it. Free of torch.

The code stays in the file or the package. A merge's id has the digest of the file, or the name and
version of the package's distribution.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any

from merge.catalogue import DataUse, MethodCard
from merge.own import named
from merge.parameters.method_params import MethodParams
from merge.ranges import Choice, Count, Flag, Number, Numbers, Range, allow, range_of

_RANGES: Mapping[str, type[Any]] = {
    "number": Number,
    "numbers": Numbers,
    "count": Count,
    "flag": Flag,
    "choice": Choice,
}
_TYPES: Mapping[type[Any], Any] = {
    Number: float,
    Numbers: tuple[float, ...],
    Count: int,
    Flag: bool,
    Choice: str,
}
_SHA256 = "sha256:"


class OwnParameterError(ValueError):
    """A parameter of a user's method has no default or no range that a study file can use."""


@dataclass(frozen=True, kw_only=True)
class OwnParameter:
    """A parameter of a user's method."""

    name: str
    default: bool | float | str | tuple[float, ...]
    values: Range
    """The values that it accepts."""


@dataclass(frozen=True, kw_only=True)
class OwnMethodSpec:
    """Everything about a user's method that is known without running its code."""

    name: str
    """The method's name in tables: of the object in the file, or of the entry point."""
    source: str
    """`sha256:<digest of the file>`, or `<distribution>==<version>`."""
    title: str
    paper: str
    data_use: DataUse
    is_random: bool
    needs_gradients: bool
    num_experts: int | None
    is_per_task: bool
    parameters: tuple[OwnParameter, ...]

    @staticmethod
    def of(card: MethodCard, *, name: str, source: str) -> "OwnMethodSpec":
        """Returns the description of a method.

        Raises:
            OwnParameterError: A parameter lacks a default or a range, or its default is outside.
        """
        return OwnMethodSpec(
            name=name,
            source=source,
            title=card.title,
            paper=card.paper,
            data_use=card.data_use,
            is_random=card.is_random,
            needs_gradients=card.needs_gradients,
            num_experts=card.num_experts,
            is_per_task=card.is_per_task,
            parameters=_parameters(card.params),
        )

    @property
    def sha256(self) -> str | None:
        """The digest of the method's file; None for a method of a package."""
        return sha256_of_source(self.source)

    @property
    def card(self) -> MethodCard:
        """The method's card, whose parameters check values as the user's own class does."""
        return _card(self)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields for a manifest and a plan."""
        return {**asdict(self), "parameters": [_parameter_to_json(p) for p in self.parameters]}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "OwnMethodSpec":
        """Returns the method whose `to_json` returned the fields.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        parameters = tuple(_parameter_from_json(each) for each in values["parameters"])
        return OwnMethodSpec(**{**values, "parameters": parameters})


def file_source(sha256: str) -> str:
    """Returns the source of a method in a file with a digest."""
    return f"{_SHA256}{sha256}"


def sha256_of_source(source: str) -> str | None:
    """Returns the digest in the source of a method in a file; None for a method of a package."""
    return source.removeprefix(_SHA256) if source.startswith(_SHA256) else None


@lru_cache(maxsize=256)
def _card(spec: OwnMethodSpec) -> MethodCard:
    members: dict[str, Any] = {"__annotations__": {}, "__doc__": f"Parameters of {spec.name}."}
    for each in spec.parameters:
        members["__annotations__"][each.name] = _TYPES[type(each.values)]
        members[each.name] = field(default=each.default, metadata=allow(each.values))
    made: type[MethodParams] = type(spec.name, (MethodParams,), members)
    params = dataclass(frozen=True, kw_only=True)(made)
    card = MethodCard(
        title=spec.title,
        paper=spec.paper,
        params=params,
        data_use=spec.data_use,
        is_random=spec.is_random,
        needs_gradients=spec.needs_gradients,
        num_experts=spec.num_experts,
        is_per_task=spec.is_per_task,
    )
    return named(spec.name, card=card, functions=None)


def _parameters(params_class: type[MethodParams]) -> tuple[OwnParameter, ...]:
    found = []
    for each in fields(params_class):
        known = next((kind for kind in _TYPES if isinstance(_range(each), kind)), None)
        if known is None:
            raise OwnParameterError(
                f"parameter {each.name} declares no range; expected "
                "`field(default=..., metadata=allow(...))` with one of "
                f"{', '.join(kind.__name__ for kind in _TYPES)} of merge.ranges"
            )
        if each.default is MISSING or not range_of(each).accepts(each.default):
            shown = "no default" if each.default is MISSING else f"the default {each.default!r}"
            allowed = range_of(each).allowed
            raise OwnParameterError(f"parameter {each.name} has {shown}; expected {allowed}")
        found.append(OwnParameter(name=each.name, default=each.default, values=range_of(each)))
    return tuple(found)


def _range(parameter: Any) -> object:  # noqa: ANN401 a dataclass's field of any type
    try:
        return range_of(parameter)
    except KeyError:
        return None


def _parameter_to_json(parameter: OwnParameter) -> dict[str, Any]:
    kind = next(name for name, each in _RANGES.items() if isinstance(parameter.values, each))
    bounds = {
        name: value
        for name, value in vars(parameter.values).items()
        if value not in (float("-inf"), float("inf"))  # JSON has no infinities
    }
    return {
        "name": parameter.name,
        "default": parameter.default,
        "values": {"kind": kind, **bounds},
    }


def _parameter_from_json(values: Mapping[str, Any]) -> OwnParameter:
    bounds = {name: _frozen(value) for name, value in values["values"].items() if name != "kind"}
    accepted = _RANGES[values["values"]["kind"]](**bounds)
    return OwnParameter(name=values["name"], default=_frozen(values["default"]), values=accepted)


def _frozen(value: Any) -> Any:  # noqa: ANN401 any JSON value
    return tuple(value) if isinstance(value, list) else value
