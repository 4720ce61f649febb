"""What all sections of the study file have in common."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

T = TypeVar("T")


class Section(BaseModel):
    """A part of the study file: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def distinct(values: list[T]) -> list[T]:
    """Returns a list whose values all differ.

    Raises:
        ValueError: A value is there more than once.
    """
    repeated = {str(value) for value in values if values.count(value) > 1}
    if repeated:
        raise ValueError(f"values must differ; repeated: {', '.join(sorted(repeated))}")
    return values


Axis = Annotated[list[T], Field(min_length=1), AfterValidator(distinct)]
"""The values of an axis, all distinct; an axis that the study does not vary has none."""
