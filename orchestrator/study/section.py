"""What all sections of the study file have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of the study file: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def distinct(values: list[Any]) -> list[Any]:
    """Returns a list whose values all differ.

    Raises:
        ValueError: A value is there more than once.
    """
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"values must differ; repeated: {', '.join(map(str, repeated))}")
    return values


def Axis(value: Any) -> Any:  # noqa: ANN401, N802 builds a type
    """Returns the type of a list of distinct values."""
    return Annotated[list[value], Field(min_length=1), AfterValidator(distinct)]
