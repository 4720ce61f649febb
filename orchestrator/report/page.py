"""Renders the report as one HTML page that loads nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from string import Template

from orchestrator.record.holes import Hole
from orchestrator.report.figures import Figures
from orchestrator.report.fitting import fitted
from orchestrator.report.markup import definitions, escaped, paragraph
from orchestrator.report.quantities import by_axis
from orchestrator.report.search.chapter import ANCHOR as SEARCH_ANCHOR
from orchestrator.report.search.chapter import search_chapter
from orchestrator.report.sections import (
    axes_section,
    axis_id,
    data_section,
    experts_section,
    external_section,
    file_section,
    guarded,
    holes_section,
    summary_section,
    tuning_section,
)
from orchestrator.report.theory.chapter import ANCHOR, theory_chapter
from orchestrator.results.means import SettingMean
from orchestrator.results.study_results import StudyResults
from orchestrator.search.summary import SearchSummary
from orchestrator.theory.answers import Answers
from workers.artifacts.metrics import DataMetrics


def render_report(
    *,
    study: str,
    results: StudyResults,
    holes: Sequence[Hole],
    datasets: Mapping[str, DataMetrics],
    facts: Mapping[str, str],
    study_yaml: str,
    answers: Answers | None = None,
    search: SearchSummary | None = None,
    drawn: Figures | None = None,
) -> str:
    """Returns the report of a study as HTML without scripts that loads nothing from elsewhere.

    Equal arguments give equal text. The page has at most `MAX_PAGE_BYTES`, whatever the study's
    size: a large study is shown in part, with links to the tables beside the page. A section that
    cannot be made is a line that says why.

    Args:
        study: The study's name.
        results: The study's tables and means; the tables may be empty.
        holes: Missing experts and merges; the page shows them before everything else.
        datasets: The metrics of the prepared images, by task.
        facts: Names and texts for the end of the page, such as dates, code version and store URL.
        study_yaml: The study file.
        answers: The theory tables of the same results; None if there are none.
        search: The candidates of the study's search; None if it has none.
        drawn: The figures of `results.compared`; None to draw them.
    """
    results = results.compared
    theory = guarded("The chapter of theory", partial(theory_chapter, answers, results=results))
    searched = guarded("The chapter of the search", search_chapter, search)
    tuning = guarded("The section of the tuned parameters", tuning_section, results.merges)
    page = _template("page.html").substitute(
        title=escaped(study),
        style=_text("page.css"),
        holes=guarded("The list of holes", holes_section, holes),
        summary=guarded("The summary", summary_section, results.means),
        nav=_nav(
            results.means,
            has_experts=bool(results.experts.num_rows),
            has_data=bool(datasets),
            has_theory=bool(theory),
            has_external=results.external is not None,
            has_tuning=bool(tuning),
            has_search=bool(searched),
        ),
        axes=guarded("The sections of the axes", axes_section, results, drawn),
        search=searched,
        tuning=tuning,
        theory=theory,
        external=guarded("The section of external models", external_section, results),
        experts=guarded("The section of the experts", experts_section, results.experts),
        data=guarded("The section of the images", data_section, datasets),
        facts=f'<section id="facts"><h2>Facts</h2>{definitions(facts)}</section>',
        study_file=file_section(study_yaml),
    )
    return fitted(page)


def render_fault(*, study: str, fault: str) -> str:
    """Returns a page that stands for a report that could not be drawn."""
    text = paragraph(
        f"The report of study {study} could not be drawn: {fault}. The tables beside it are whole. "
        "`mergesweep report` draws it again."
    )
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>{escaped(study)}</title>\n{text}\n'


def _nav(
    settings: Sequence[SettingMean],
    *,
    has_experts: bool,
    has_data: bool,
    has_theory: bool,
    has_external: bool,
    has_tuning: bool,
    has_search: bool,
) -> str:
    links = {axis_id(axis): f"Axis: {axis}" for axis in by_axis(settings)}
    if settings:
        links["groups"] = "Group by group"
    if has_search:
        links[SEARCH_ANCHOR] = "Search"
    if has_tuning:
        links["tuning"] = "Tuned parameters"
    if has_theory:
        links[ANCHOR] = "What the results show"
    if has_external:
        links["external"] = "Models of other tools"
    if has_experts:
        links["experts"] = "Experts"
    if has_data:
        links["data"] = "Data"
    links |= {"facts": "Facts", "study-file": "Study file"}
    items = (f'<li><a href="#{to}">{escaped(text)}</a></li>' for to, text in links.items())
    return f"<nav><ul>{''.join(items)}</ul></nav>"


def _template(name: str) -> Template:
    return Template(_text(name))


def _text(name: str) -> str:
    return (files("orchestrator.report") / name).read_text(encoding="utf-8")
