"""The parameters of a merge that are chosen on validation images, and the values to try."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

TunedBy = Literal["loss", "accuracy"]
"""The objective: the least loss or the greatest accuracy, each the mean over the group's tasks."""

TunedOver = Literal["group", "setting", "study"]
"""The merges that share a choice: one group's own, all groups of a setting, or all of the study."""

MAX_POINTS = 100
"""Most combinations of values that one merge tries."""


@dataclass(frozen=True, kw_only=True)
class TuningSpec:
    """The values of each tuned parameter; all combinations of them are tried.

    Validation images are training images that are held out of every training
    (`workers.specs.data.DataSpec.max_validation`). No test image is read before the values are
    chosen.
    """

    values: Mapping[str, tuple[float, ...]]
    """By parameter, in the order of the method's parameters; each has one or more values."""
    by: TunedBy = "loss"
    over: str | None = None
    """A digest of the ids of the merges whose mean scores choose, each of which tries the same
    values on its own group; None for a merge that tries them itself."""

    def points(self) -> tuple[dict[str, float], ...]:
        """Returns all combinations of the values, in which the last parameter varies fastest."""
        combinations = product(*self.values.values())
        return tuple(dict(zip(self.values, each, strict=True)) for each in combinations)

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the merge's manifest stores."""
        over = {} if self.over is None else {"over": self.over}  # older ids have no such field
        return {
            "values": {name: list(each) for name, each in self.values.items()},
            "by": self.by,
            **over,
        }

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> "TuningSpec":
        """Returns the specification whose `to_json` returned the fields.

        Raises:
            KeyError, TypeError: A field is missing or unknown.
        """
        values = {name: tuple(each) for name, each in fields["values"].items()}
        return TuningSpec(**{**fields, "values": values})


def point_text(point: Mapping[str, float]) -> str:
    """Returns a combination of values as text: `scaling=0.4`, or `density=0.2, scaling=0.4`."""
    return ", ".join(f"{name}={value}" for name, value in point.items())
