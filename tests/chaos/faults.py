"""Draws a seed's faults: the part to kill, the time, and the pause until its restart."""

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["worker", "node", "driver", "head", "s3", "mlflow"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SHORT: tuple[Kind, ...] = ("worker", "node", "driver", "s3")
"""The faults of a short seed, each once."""
_MIN_FAULTS, _MAX_FAULTS = 8, 12
_WEIGHTS = {"worker": 3, "node": 3, "driver": 2, "head": 1, "s3": 2, "mlflow": 1}
"""Weights of the kinds for draws after each kind's first; a lost head costs a minute."""
_AFTER = (0.05, 0.25)
_PAUSE_S = (1.0, 6.0)
_HEAD_PAUSE_S = (2.0, 40.0)
"""On either side of the 20 s after which a driver gives up its head."""
_AT_WORK = 0.7
"""Fraction of faults that wait for progress. Without waiting, most faults would hit processes that
are still loading."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One part that is killed and started again."""

    kind: Kind
    after: float
    """Time since the last event: the driver's start, the last fault or the last repair.

    The unit is the undisturbed study's length, so that a slow machine gets as far between faults.
    """
    is_at_work: bool
    """Whether the fault also waits until the store has a new object since then."""
    pause_s: float
    """Seconds until the part is started again; Ray replaces worker processes by itself."""
    pick: float
    """Position among several equal parts, in [0, 1)."""


def draw_faults(seed: int, *, is_short: bool) -> tuple[Fault, ...]:
    """Returns a seed's faults in random order; every kind occurs at least once."""
    draw = random.Random(f"chaos {seed}")
    kinds = list(SHORT if is_short else KINDS)
    if not is_short:
        num_more = draw.randint(_MIN_FAULTS, _MAX_FAULTS) - len(kinds)
        kinds += draw.choices(KINDS, weights=[_WEIGHTS[kind] for kind in KINDS], k=num_more)
    draw.shuffle(kinds)
    return tuple(
        Fault(
            kind=kind,
            after=draw.uniform(*_AFTER),
            is_at_work=draw.random() < _AT_WORK,
            pause_s=draw.uniform(*(_HEAD_PAUSE_S if kind == "head" else _PAUSE_S)),
            pick=draw.random(),
        )
        for kind in kinds
    )
