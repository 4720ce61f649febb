"""The points of the hyperparameter space that a design can have, for checks between fields."""

import itertools
from collections.abc import Iterator
from typing import Any

from orchestrator.study.finetune import Finetune


def points(finetune: Finetune, *names: str) -> Iterator[dict[str, Any]]:
    """Yields the combinations of some hyperparameters that can occur in the design."""
    default = {name: getattr(finetune.default_point, name) for name in names}
    if finetune.design == "listed":
        yield default
        yield from (
            {**default, **{name: point[name] for name in names if name in point}}
            for point in finetune.points
        )
        return
    varied = {name: axis for name, axis in finetune.axes.varied().items() if name in names}
    if finetune.design == "one-factor":
        yield default
        for name, axis in varied.items():
            yield from ({**default, name: value} for value in axis)
        return
    for values in itertools.product(*varied.values()):
        yield {**default, **dict(zip(varied, values, strict=True))}
