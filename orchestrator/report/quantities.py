"""The two quantities that the figures show, accuracy and loss, and groupings of the means."""

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
    """A quantity that is measured of merged models, of the base and of the experts."""

    name: str
    """Column of the result table, `accuracy` or `loss`; `base_` and `expert_` columns go with it.
    """
    unit: str
    factor: float
    """Factor from the table's numbers to the unit."""

    def of(self, setting: SettingMean, mean: str, *, model: str = "") -> Spread:
        """Returns the spread for the merged model, or for `base` or `expert` as the model."""
        found = getattr(setting.under(mean), f"{model}_{self.name}" if model else self.name)
        assert isinstance(found, Spread)
        return found


ACCURACY = Quantity(name="accuracy", unit="%", factor=100.0)
LOSS = Quantity(name="loss", unit="nats per image", factor=1.0)
QUANTITIES = (ACCURACY, LOSS)


def fullest(settings: Iterable[SettingMean]) -> dict[str, SettingMean]:
    """Returns the setting mean of the method with the most groups, for every value.

    The numbers of base and experts do not depend on the method, so the method with the most groups
    gives their most complete means.
    """
    best: dict[str, SettingMean] = {}
    for setting in settings:
        known = best.get(setting.value)
        if known is None or setting.num_groups > known.num_groups:
            best[setting.value] = setting
    return best


def by_axis(settings: Sequence[SettingMean]) -> dict[str, tuple[SettingMean, ...]]:
    """Groups setting means by axis and keeps their order."""
    axes = dict.fromkeys(setting.axis for setting in settings)
    return {axis: tuple(s for s in settings if s.axis == axis) for axis in axes}
