"""The report as one HTML page that needs nothing but itself."""

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

import pyarrow as pa

from orchestrator.record.holes import Hole
from orchestrator.report.markup import definitions
from orchestrator.report.quantities import by_axis
from orchestrator.report.sections import (
    axes_section,
    axis_id,
    experts_section,
    file_section,
    holes_section,
    summary_section,
)
from orchestrator.results.means import SettingMean, setting_means


def render_report(
    *,
    study: str,
    results: pa.Table,
    experts: pa.Table,
    holes: Sequence[Hole],
    facts: Mapping[str, str],
    study_yaml: str,
) -> str:
    """Return the report of a study as HTML: no scripts, no fonts or pictures from elsewhere.

    Args:
        study: The study's name.
        results: Rows of `RESULTS_SCHEMA`; may be empty.
        experts: Rows of `EXPERTS_SCHEMA`; may be empty.
        holes: What is missing; shown before everything else.
        facts: Names and texts for the end of the page: dates, code version, store URL.
        study_yaml: The study file.

    Returns:
        The page; equal arguments give equal text.

    Raises:
        ValueError: The results mix studies or backbones, or hold a group twice.
    """
    settings = setting_means(results)
    return _template("page.html").substitute(
        title=html.escape(study),
        style=_text("page.css"),
        holes=holes_section(holes),
        summary=summary_section(settings),
        nav=_nav(settings, has_experts=bool(experts.num_rows)),
        axes=axes_section(results, settings),
        experts=experts_section(experts),
        facts=f'<section id="facts"><h2>Facts</h2>{definitions(facts)}</section>',
        study_file=file_section(study_yaml),
    )


def _nav(settings: Sequence[SettingMean], *, has_experts: bool) -> str:
    links = {axis_id(axis): f"Axis: {axis}" for axis in by_axis(settings)}
    if settings:
        links["groups"] = "Group by group"
    if has_experts:
        links["experts"] = "Experts"
    links |= {"facts": "Facts", "study-file": "Study file"}
    items = (f'<li><a href="#{to}">{html.escape(text)}</a></li>' for to, text in links.items())
    return f"<nav><ul>{''.join(items)}</ul></nav>"


def _template(name: str) -> Template:
    return Template(_text(name))


def _text(name: str) -> str:
    return (files("orchestrator.report") / name).read_text(encoding="utf-8")
