"""Writes the table of the tasks' images."""

from collections.abc import Mapping

from orchestrator.record.data_check import least_median_most
from orchestrator.report.markup import HtmlCell, name_cell, table
from orchestrator.report.wording import MISSING
from workers.artifacts.metrics import DataMetrics, ImagePairs

_SPLITS = ("train", "test")


def data_table(datasets: Mapping[str, DataMetrics]) -> str:
    """Returns a table with a row per task: its images, those of a class, and equal images."""
    columns = ("images", "least", "median", "most")
    return table(
        ("task", "classes", *columns, *columns, "in both splits", "two labels", "skipped"),
        [_row(task, metrics) for task, metrics in datasets.items()],
        over=(("", 2), ("training images", 4), ("test images", 4), ("equal images", 2), ("", 1)),
    )


def _row(task: str, metrics: DataMetrics) -> list[HtmlCell]:
    cells = [name_cell(task), HtmlCell(text=f"{metrics.num_classes:,}")]
    for split, num in zip(_SPLITS, (metrics.num_train, metrics.num_test), strict=True):
        counts = None if metrics.class_counts is None else metrics.class_counts[split]
        of_class = (MISSING,) * 3 if counts is None else map(_number, least_median_most(counts))
        cells += [HtmlCell(text=text) for text in (f"{num:,}", *of_class)]
    cells += [_pairs_cell(metrics.shared), _pairs_cell(metrics.contradictions)]
    skipped = metrics.skipped
    if skipped is None:
        return [*cells, HtmlCell(text="0")]
    return [*cells, HtmlCell(text=f"{skipped.num_images:,}", title="; ".join(skipped.first))]


def _pairs_cell(pairs: ImagePairs | None) -> HtmlCell:
    if pairs is None:
        return HtmlCell(text=MISSING)
    named = [f"{one} and {other}" for one, other in pairs.first]
    return HtmlCell(text=f"{pairs.num_images:,}", title="; ".join(named))


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
