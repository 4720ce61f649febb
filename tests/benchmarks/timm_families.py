"""Checks the smallest model of every family of timm, and writes a table of what works.

    python tests/benchmarks/timm_families.py > docs/timm-families.md

Takes about 20 minutes on two cores. Each model is checked in a process of its own.
"""

from dataclasses import replace

from workers.check.building import META, RefusedError, build
from workers.check.report import StepKind

SMALL = 64
"""The default image size of a study."""
STEP = StepKind(batch_size=2, trains_batch_norm=False, linearised=False)
STEPS = (STEP, replace(STEP, trains_batch_norm=True))


def smallest(models: list[str]) -> str | None:
    """Returns the model with the fewest weights that can be built without memory."""
    counts: dict[str, int] = {}
    for model in models:
        try:
            module = build(model, device=META).module
        except RefusedError:
            continue
        counts[model] = sum(each.numel() for each in module.parameters())
    return min(counts, key=lambda model: counts[model]) if counts else None
