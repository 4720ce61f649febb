"""The base class of the study file's sections, and the types of fields that several of them use."""

import re
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")


class Section(BaseModel):
    """A mapping in the study file; unknown fields and implicit conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def distinct(values: list[T]) -> list[T]:
    """Returns a list if all its values differ.

    Raises:
        ValueError: A value occurs more than once.
    """
    repeated = {str(value) for value in values if values.count(value) > 1}
    if repeated:
        raise ValueError(f"list every value once; repeated: {', '.join(sorted(repeated))}")
    return values


def matching(pattern: str, *, expected: str) -> AfterValidator:
    """Returns a check that the whole text matches a pattern.

    Args:
        pattern: A regular expression.
        expected: The pattern in words, for messages.
    """

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


Axis = Annotated[list[T], Field(min_length=1), AfterValidator(distinct)]
"""The values of an axis. An axis that the study does not vary is an empty list by default."""

Text = Annotated[str, Field(min_length=1)]
MAX_WHOLE = 2**31 - 1
"""The largest number of steps or images of a batch; larger ones fit no table."""
Steps = Annotated[int, Field(ge=1, le=MAX_WHOLE)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_WHOLE)]
LearningRate = Annotated[float, Field(gt=0, lt=100)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Axes(Section):
    """Fields that are axes."""

    def varied(self) -> dict[str, list[Any]]:
        """Returns the axes that the study varies, in the order of the schema."""
        return {name: values for name, values in self if values}
