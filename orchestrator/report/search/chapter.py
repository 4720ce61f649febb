"""Writes the report's chapter on a search."""

from orchestrator.report.fitting import piece
from orchestrator.report.markup import HtmlCell, bullets, escaped, inline_svg, paragraph, table
from orchestrator.report.sections import guarded
from orchestrator.report.wording import MISSING
from orchestrator.search.summary import SearchSummary, importances

ANCHOR = "search"
MAX_ROWS = 200
"""Rows of the table of candidates that the page shows; candidates.parquet has all."""
_INTRODUCTION = (
    "Candidates are compared on validation images. The winner alone was evaluated on test images: "
    "the numbers of its axis are those. Stopped: not among the best of its batch at that rung. "
    "Trained steps: optimizer steps of all trials, once the row was scored."
)
_IMPORTANCE = (
    "Importance: the share of the variance of the objective after the first rung that the "
    "hyperparameter takes part in, as far as a random forest tells: half the square error that is "
    "added, on candidates that the forest was not fitted to, if the value is another candidate's "
    "(permutation importance). 0: nothing that holds for other candidates. It says what mattered "
    "within the searched ranges, and not which way."
)


def search_chapter(summary: SearchSummary | None) -> str:
    """Returns the chapter as HTML; an empty string for a study without a search."""
    if summary is None or not summary.candidates.num_rows:
        return ""
    parts = [
        bullets(summary.lines),
        paragraph(_INTRODUCTION),
        guarded("The figure of the best score", _incumbent_figure, summary),
        guarded("The parallel coordinates", _parallel_figure, summary),
        guarded("The importances", _importance_table, summary),
        piece(_candidate_table(summary), what="the table of candidates"),
    ]
    body = "\n".join(part for part in parts if part)
    return f'<section id="{ANCHOR}"><h2>{escaped("Search")}</h2>\n{body}\n</section>'


def _incumbent_figure(summary: SearchSummary) -> str:
    # Imported here because matplotlib takes 0.4 s to load.
    from orchestrator.report.search.charts import incumbent_chart  # noqa: PLC0415

    label = "Scores over trained steps"
    svg = inline_svg(incumbent_chart(summary), name="incumbent", label=label)
    return f'<figure class="single">{svg}</figure>'


def _parallel_figure(summary: SearchSummary) -> str:
    from orchestrator.report.search.charts import parallel_chart  # noqa: PLC0415

    label = "Parallel coordinates of the candidates, each at its last rung"
    svg = inline_svg(parallel_chart(summary), name="parallel", label=label)
    return f'<figure class="single">{svg}</figure>'


def _importance_table(summary: SearchSummary) -> str:
    found = importances(summary)
    if not found:
        return ""
    rows = [
        [HtmlCell(text=name, css="text"), HtmlCell(text=f"{value:.2f}")]
        for name, value in found.items()
    ]
    return paragraph(_IMPORTANCE) + table(("hyperparameter", "importance"), rows)


def _candidate_table(summary: SearchSummary) -> str:
    names = [name for name in summary.candidates.column_names if name not in {"batch", "rung"}]
    rows = [
        [
            HtmlCell(text=_text(row[name]), css="text" if isinstance(row[name], str) else "")
            for name in names
        ]
        for row in summary.candidates.slice(0, MAX_ROWS).to_pylist()
    ]
    return table(names, rows)


def _text(value: object) -> str:
    if value is None:
        return MISSING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
