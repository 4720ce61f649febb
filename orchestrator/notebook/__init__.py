"""Tables of a study as pandas data frames, for notebooks.

from orchestrator.notebook import results

results("./mergesweep-store", "demo").groupby("method").accuracy.mean()
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["results"]


def results(store: str, name: str) -> "pd.DataFrame":
    """Returns the result table of a study: a row per setting, method, group and task.

    The rows with the task `macro` or `union` are means over a group's tasks. docs/results.md has
    the columns. The table has what is committed now; nothing is written.

    Args:
        store: The store that has the study: a directory, or s3://bucket/prefix.
        name: The study's name.

    Raises:
        StudyNotFoundError: The store has no study of this name.
        StudyDamagedError: The study is damaged; the message names the command that shows it.
        StoreError: The store cannot be read.
    """
    from orchestrator.results.study_results import StudyResults  # noqa: PLC0415 loads pyarrow
    from orchestrator.run.opened import open_by_name  # noqa: PLC0415 as above

    opened = open_by_name(name, store_url=store, is_read_only=True)
    frame: pd.DataFrame = StudyResults.of(opened.ledger.committed()).rows.to_pandas()
    return frame
