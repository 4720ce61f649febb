"""Reports on the models that tests use, which spare a test the process that checks models."""

from dataclasses import replace
from pathlib import Path

import pytest

from workers.artifacts.node_cache import CACHE_VARIABLE
from workers.check.ask import remember_reports
from workers.check.report import ModelReport, ModelUse, StepKind, Weights
from workers.models.model_sizes import ModelSize

MODEL_SIZES = {
    "test_efficientnet": ModelSize(
        num_parameters=99196,
        parameter_bytes=396784,
        state_bytes=407000,
        num_features=256,
        flops_per_pixel=4456.895,
    ),
    "test_resnet": ModelSize(
        num_parameters=372688,
        parameter_bytes=1490752,
        state_bytes=1499192,
        num_features=96,
        flops_per_pixel=8004.0,
    ),
    "tf_efficientnet_lite0": ModelSize(
        num_parameters=3371008,
        parameter_bytes=13484032,
        state_bytes=13652488,
        num_features=1280,
        flops_per_pixel=15302.4375,
    ),
}
"""The sizes that `workers.check` measures, which its own test holds."""
USUAL_STEP = StepKind(batch_size=2, trains_batch_norm=False, linearised=False)
_STEPS = (
    (USUAL_STEP,),
    (USUAL_STEP, replace(USUAL_STEP, trains_batch_norm=True)),
    (USUAL_STEP, replace(USUAL_STEP, linearised=True)),
)

_WEIGHTS: tuple[tuple[Weights, ...], ...] = (("none",), ("file",), ("elsewhere",))


def remember_models(cache: Path) -> None:
    """Writes reports on the usual uses of the models in `MODEL_SIZES` to a node's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(cache))
        remember_reports(
            {
                use.key: ModelReport(size=size)
                for model, size in MODEL_SIZES.items()
                for use in _usual_uses(model)
            }
        )


def _usual_uses(model: str) -> list[ModelUse]:
    return [
        ModelUse(model=model, image_size=size, weights=weights, steps=tuple(sorted(steps)))
        for size in (16, 32, 64)
        for weights in _WEIGHTS
        for steps in _STEPS
    ]
