"""The predictor that is the merge itself on validation images, where a study has scored it there.

A merge that chooses parameters or steps has the validation loss of its choice. The choice was made
by this number, so it is too low: the record says how much that matters for ranking.
"""

from collections.abc import Iterator

from orchestrator.theory.features import MEASURED, Predictor
from orchestrator.theory.panel import Panel

NO_VALIDATION = (
    "no method chooses parameters or steps on them, so that no merge has a validation loss"
)
_NAME = "the merge on validation images"
_NEEDS = "the merge, evaluated on validation images"


def validation_predictors(panel: Panel) -> Iterator[Predictor]:
    """Yields the validation loss of the chosen values, the mean over a group's tasks, if known."""
    loss = panel.group_means("validation_loss")
    found = Predictor(name=_NAME, label=MEASURED, needs=_NEEDS, features=loss[:, :, None])
    if len(found.known_settings):
        yield found
