"""The specification of a zero-shot head, and the job that makes it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from workers.specs.ids import VERSIONS, content_id


@dataclass(frozen=True, kw_only=True)
class ZeroShotSpec:
    """A classifier that a CLIP model's text tower makes from the names of a task's classes."""

    task: str
    model: str
    """open_clip's name of the CLIP model."""
    weights: str
    """One of open_clip's tags, or `sha256:` and the digest of a checkpoint of the whole model."""
    classes: tuple[str, ...]
    """The names of the classes, in the order of the labels."""
    templates: tuple[str, ...]
    """Texts with `{}` for the name of the class."""

    @cached_property
    def id(self) -> str:
        """The content address."""
        return content_id("head", version=VERSIONS["head"], spec=self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Returns the values that the manifest stores."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ZeroShotSpec":
        """Returns the specification whose `to_json` returned the values.

        Raises:
            KeyError: A list is missing.
            TypeError: A field is missing or unknown.
        """
        lists = {name: tuple(values[name]) for name in ("classes", "templates")}
        return ZeroShotSpec(**{**values, **lists})


@dataclass(frozen=True, kw_only=True)
class HeadJob:
    """The making of a zero-shot head."""

    spec: ZeroShotSpec
    path: str | None
    """The text tower's checkpoint file; None if `weights` is a tag."""
