"""The documentation says what is there: every command, and only files that exist."""

import re
from pathlib import Path

import pytest

from orchestrator.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_in_the_readme(command: str) -> None:
    """A newcomer finds each verb in README.md."""
    assert f"mergesweep {command}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A link to a file that was moved or renamed fails here."""
    links = [link for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_study_is_a_valid_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The annotated study.yaml of README.md passes the checks that a user's file must pass."""
    from orchestrator.study.reader import parse_study  # noqa: PLC0415 only this test needs it

    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text("utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    study = parse_study(example, source="README.md", store=str(tmp_path))
    assert study.groups.sizes == [2, 4, 6]


@pytest.mark.parametrize("path", sorted((ROOT / "deploy" / "studies").glob("*.yaml")), ids=str)
def test_every_shipped_study_is_valid(path: Path, tmp_path: Path) -> None:
    """A study in deploy/ never lags behind the schema."""
    from orchestrator.study.reader import parse_study  # noqa: PLC0415 as above

    text = path.read_text("utf-8")
    assert parse_study(text, source=str(path), store=str(tmp_path)).name == path.stem
