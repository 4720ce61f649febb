"""Notices MLflow's own variable, which users set and mergesweep does not read."""

from orchestrator.environment.problems import Environment
from orchestrator.study.credentials import masked

SERVER_VARIABLE = "MLFLOW_TRACKING_URI"


def unread_server(environment: Environment, *, tracking: str | None, used: str) -> str | None:
    """Returns a warning if MLflow's variable names another server than the study uses.

    A study's `tracking` decides alone, so that everybody who runs the study sends it to one place.

    Args:
        environment: The environment of this process.
        tracking: The address in the study file, None if it has none.
        used: The address to which the study's MLflow runs go.
    """
    named = environment.get(SERVER_VARIABLE, "").strip()
    if tracking is not None or not named or named.rstrip("/") == used.rstrip("/"):
        return None
    return (
        f"{SERVER_VARIABLE} is {masked(named)}, but only the study file decides where MLflow runs "
        f"go: here to {used}. Write `tracking: {masked(named)}` into it to use that server"
    )
