"""The two quantities that the figures show, and how they are spelt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.results.means import SettingMean, Spread
from orchestrator.results.schema import MACRO, UNION

MEAN_NAMES = {
    MACRO: "macro (mean over tasks)",
    UNION: "union (all images of the joint test set)",
}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One column of the results and its two references."""

    name: str
    """The column: `accuracy` or `loss`; the references are `base_...` and `expert_...`."""
    unit: str
    factor: float
    """What a number of the table is multiplied with to be in the unit."""

    def of(self, setting: SettingMean, mean: str, *, model: str = "") -> Spread:
        """Return the spread of the merged model, or of the model `base` or `expert`."""
        found = getattr(setting.under(mean), f"{model}_{self.name}" if model else self.name)
        assert isinstance(found, Spread)
        return found


ACCURACY = Quantity(name="accuracy", unit="%", factor=100.0)
LOSS = Quantity(name="loss", unit="nats per image", factor=1.0)
QUANTITIES = (ACCURACY, LOSS)


def fullest(settings: Iterable[SettingMean]) -> dict[str, SettingMean]:
    """Return, for every value, the method with the most groups.

    Base and experts do not depend on the method, so the one that saw the most groups gives their
    most complete means.
    """
    best: dict[str, SettingMean] = {}
    for setting in settings:
        known = best.get(setting.value)
        if known is None or setting.num_groups > known.num_groups:
            best[setting.value] = setting
    return best


def by_axis(settings: Sequence[SettingMean]) -> dict[str, tuple[SettingMean, ...]]:
    """Return the settings of every axis, in order."""
    axes = dict.fromkeys(setting.axis for setting in settings)
    return {axis: tuple(s for s in settings if s.axis == axis) for axis in axes}
