"""Which part is killed, when, and for how long: a function of the seed."""

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["worker", "node", "driver", "head", "s3", "mlflow"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SHORT: tuple[Kind, ...] = ("worker", "node", "driver", "s3")
"""The faults of a short seed, once each."""
_MIN_FAULTS, _MAX_FAULTS = 8, 12
_WEIGHTS = {"worker": 3, "node": 3, "driver": 2, "head": 1, "s3": 2, "mlflow": 1}
"""How often a kind is drawn beyond its first time; a lost head costs a minute."""
_AFTER = (0.05, 0.25)
_PAUSE_S = (1.0, 6.0)
_HEAD_PAUSE_S = (2.0, 40.0)
"""Either side of the 20 s after which a driver gives its head up."""
_AT_WORK = 0.7
"""The share of faults that wait for work: at random, most would hit processes that still load."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One part that is killed and started again."""

    kind: Kind
    after: float
    """When, counted from the driver's start, the last fault or the last repair, whichever was last;
    in lengths of the undisturbed study, so that a slow machine gets as far between two faults."""
    is_at_work: bool
    """Whether it waits, besides, until the store has gained something since then."""
    pause_s: float
    """Seconds until the part is started again; a worker process Ray replaces by itself."""
    pick: float
    """Which of several equal parts, in [0, 1)."""


def draw_faults(seed: int, *, is_short: bool) -> tuple[Fault, ...]:
    """Returns a seed's faults: every kind at least once, in an order of the seed's own."""
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
