"""Questions about users' methods and their answers, as JSON. Free of torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from workers.specs.own_method import OwnMethodSpec


@dataclass(frozen=True, kw_only=True)
class MethodQuestion:
    """A user's method to check."""

    name: str
    """The name of the object in the file, or of the entry point."""
    source: str
    """`sha256:<digest of the file>`, or `<distribution>==<version>`."""
    path: str | None
    """The file; None for a method of a package."""

    @property
    def key(self) -> str:
        """The question as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, kw_only=True)
class CheckLine:
    """The outcome of one check."""

    name: str
    is_kept: bool
    """Whether the method keeps this part of the contract."""
    found: str
    """The measured value or the fault, in words."""


@dataclass(frozen=True, kw_only=True)
class MethodReport:
    """The answer about a method."""

    lines: tuple[CheckLine, ...] = ()
    spec: OwnMethodSpec | None = None
    """None if the method cannot be loaded or described."""
    unchecked: str | None = None
    """The reason why the check did not come to an end; None if it did."""
    remedies: Mapping[str, str] = field(default_factory=dict)
    """The correction for each broken part, by the line's name."""

    @property
    def broken(self) -> tuple[CheckLine, ...]:
        """The broken parts of the contract."""
        return tuple(line for line in self.lines if not line.is_kept)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "spec": None if self.spec is None else self.spec.to_json(),
            "unchecked": self.unchecked,
            "remedies": dict(self.remedies),
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "MethodReport":
        """Returns the report whose `to_json` returned the fields.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        spec = fields["spec"]
        return MethodReport(
            lines=tuple(CheckLine(**each) for each in fields["lines"]),
            spec=None if spec is None else OwnMethodSpec.from_json(spec),
            unchecked=fields["unchecked"],
            remedies=fields["remedies"],
        )
