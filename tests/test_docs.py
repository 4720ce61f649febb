"""Checks that the documentation's commands, options, fields, columns, files and links exist."""

import importlib.util
import re
import shlex
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Union, get_args, get_origin

import pytest
import yaml
from _pytest.mark import ParameterSet
from click import Context
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from eval.suites import find_task
from eval.task_source import TaskSource
from merge.catalogue import CARDS
from orchestrator.cli.command_line import cli
from orchestrator.results.schema import (
    EXPERTS_SCHEMA,
    EXTERNAL,
    LORA,
    MICRO_BATCH,
    POINT_COLUMNS,
    POOL,
    RESULTS_SCHEMA,
    SKIPPED,
    TUNING,
)
from orchestrator.search.table import FIXED, PRIOR
from orchestrator.study.reader import parse_study
from orchestrator.study.schema import Study
from orchestrator.theory.schema import SCHEMAS
from orchestrator.tracking.theory_runs import KIND as THEORY_KIND

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MANUAL = [README, *sorted((ROOT / "docs").glob("*.md"))]
"""The pages for users: README.md and docs/."""
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
"""Every page of the repository, including the READMEs of packages and rooms."""
ROOM_PAGES = [
    page
    for page in PAGES
    if page.name == "README.md"
    and page.relative_to(ROOT).parts[0] in {"eval", "merge", "orchestrator", "workers"}
    and page.parent != ROOT / "merge" / "operators"  # its table is by method
]
"""The READMEs that list the modules of a package or room."""
MAX_README_BYTES = 8 * 1024

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
PATH = re.compile(r"(?:orchestrator|workers|merge|eval|tests|deploy|docker|docs)/[\w./-]*")
PYTHON_MODULE = re.compile(r"python -m ([\w.]+)")

of_manual = pytest.mark.parametrize("page", MANUAL, ids=lambda page: page.name)
of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_of(page: Path) -> str:
    return page.read_text("utf-8")


def prose_of(page: Path) -> str:
    """Returns the text of a page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def spans_of(page: Path) -> list[str]:
    """Returns the inline code of a page, with line breaks inside a span as spaces."""
    return [" ".join(span.split()) for span in SPAN.findall(prose_of(page))]


def code_lines_of(page: Path) -> list[str]:
    """Returns the inline code and the lines of the fenced blocks of a page."""
    fenced = [line for _, block in FENCE.findall(text_of(page)) for line in block.splitlines()]
    return [*spans_of(page), *(line.strip() for line in fenced)]


def anchors_of(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, spelled as code hosting sites spell them."""
    kept = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(prose_of(page)))
    return {title.strip().replace(" ", "-") for title in kept}


def section_of(page: Path, heading: str) -> str:
    """Returns the text below a heading, up to the next one."""
    _, _, rest = text_of(page).partition(f"\n{heading}\n")
    return re.split(r"\n#+ ", rest)[0]


def first_cells(text: str) -> list[str]:
    """Returns the first cell of every row of the tables in a text."""
    return [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]


@of_pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """Every relative link leads to an existing file and, if it names one, an existing heading."""
    dead = []
    for link in LINK.findall(prose_of(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


@of_manual
def test_every_path_in_the_manual_exists(page: Path) -> None:
    """Every path that the manual names in inline code exists, also after files have moved."""
    named = [span for span in spans_of(page) if PATH.fullmatch(span)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ROOM_PAGES, ids=lambda page: str(page.parent.relative_to(ROOT)))
def test_every_module_of_a_room_is_in_its_readme(page: Path) -> None:
    """The README of a package or room names every module in it."""
    modules = {path.name for path in page.parent.glob("*.py") if not path.name.startswith("__")}
    assert sorted(modules - {span.split("/")[-1] for span in spans_of(page)}) == []


@of_pages
def test_every_module_that_a_command_runs_exists(page: Path) -> None:
    """Every NAME in a documented `python -m NAME` is an importable module."""
    names = {each for line in code_lines_of(page) for each in PYTHON_MODULE.findall(line)}
    assert [name for name in sorted(names) if importlib.util.find_spec(name) is None] == []


@of_pages
def test_every_make_target_exists(page: Path) -> None:
    """Every documented `make TARGET` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        each
        for line in code_lines_of(page)
        for each in re.findall(r"(?:^|&& )make ([a-z-]+)", line)
    }
    assert named <= targets


def test_readme_is_short() -> None:
    """README.md takes at most 8 KiB, so that people read it to its end."""
    assert len(README.read_bytes()) <= MAX_README_BYTES


def test_readme_links_every_page_of_docs() -> None:
    """README.md links every page of docs/, so that its readers find them."""
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(text_of(README))}
    assert set(MANUAL[1:]) <= linked


def test_readme_lists_exactly_the_commands() -> None:
    """The table of commands in README.md has every verb of the program and no other."""
    cells = first_cells(section_of(README, "## Commands"))
    verbs = [span.split()[0] for cell in cells[2:] for span in SPAN.findall(cell)]
    assert sorted(verbs) == sorted(cli.commands)


def test_readme_layout_names_existing_files() -> None:
    """Every room in the layout table exists, and every module in a row is in that row's rooms."""
    rows = section_of(README, "## Layout").splitlines()
    for row in (line for line in rows if line.startswith("| `")):
        _, rooms, content, _ = row.split("|")
        names = SPAN.findall(rooms)
        package = names[0].split("/")[0]
        folders = [ROOT / name for name in (names[0], *names[1:])]
        folders = [each if each.exists() else ROOT / package / each.name for each in folders]
        assert [folder for folder in folders if not folder.is_dir()] == []
        modules = [span for span in SPAN.findall(content) if span.endswith(".py")]
        missing = [name for name in modules if not any((each / name).exists() for each in folders)]
        assert missing == []


@of_manual
def test_every_command_line_is_accepted(page: Path) -> None:
    """Every documented command line parses; a verb without arguments only has to exist."""
    for line in code_lines_of(page):
        if not line.startswith("mergesweep "):
            continue
        verb, *arguments = shlex.split(line, comments=True)[1:]
        if verb.startswith("-"):
            continue
        assert verb in cli.commands, line
        if arguments:
            cli.commands[verb].make_context(verb, arguments, parent=Context(cli))


@of_manual
def test_every_option_exists(page: Path) -> None:
    """Every option that the text names is an option of some verb."""
    known = {
        option
        for command in cli.commands.values()
        for each in command.params
        for option in each.opts
    }
    named = {span.split()[0] for span in spans_of(page) if span.startswith("--")}
    assert named <= known


def studies() -> Iterator[ParameterSet]:
    for page in MANUAL:
        blocks = [block for language, block in FENCE.findall(text_of(page)) if language == "yaml"]
        for number, block in enumerate(blocks):
            yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("text", list(studies()))
def test_every_yaml_block_is_a_valid_study(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every YAML block passes the checks of a study file; files of its own tasks may be absent."""
    monkeypatch.chdir(tmp_path)
    tasks = yaml.safe_load(text)["tasks"]
    own = tasks.get("own", {}) if isinstance(tasks, dict) else {}
    recorded = {name: TaskSource(task=find_task("mnist_5k")) for name in own}
    study = parse_study(text, source="the page", store=str(tmp_path), recorded=recorded)
    assert study.store == str(tmp_path)


SHIPPED = [
    path
    for path in sorted((ROOT / "deploy").rglob("*.yaml"))
    if path.parent.name == "studies" or path.name == "study.yaml"
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_study_is_valid(path: Path, tmp_path: Path) -> None:
    """Every study in deploy/ is valid and has the name of its file, unless that is study.yaml."""
    study = parse_study(text_of(path), source=str(path), store=str(tmp_path))
    assert path.name == "study.yaml" or study.name == path.stem


def sections_of(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yields the sections of a study with their dotted paths."""
    yield path, model
    for name, field in model.model_fields.items():
        below = f"{path}.{name}" if path else name
        for section, is_by_name in models_in(field.annotation):
            yield from sections_of(section, f"{below}.NAME" if is_by_name else below)


def models_in(annotation: object) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yields the sections in a type, and whether each is in a mapping whose keys users choose."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, False
    elif get_origin(annotation) in (list, dict, Union, types.UnionType):
        for each in get_args(annotation):
            for model, is_by_name in models_in(each):
                yield model, is_by_name or get_origin(annotation) is dict


PATHS: dict[type[BaseModel], set[str]] = {}
"""The paths at which a study file has each section."""
for _path, _model in sections_of(Study):
    PATHS.setdefault(_model, set()).add(_path)


@pytest.mark.parametrize("model", PATHS, ids=lambda model: model.__name__)
def test_every_field_of_a_study_is_documented(model: type[BaseModel]) -> None:
    """Every section has a table of all its fields in schema order with their actual defaults."""
    page = ROOT / "docs" / "study-file.md"
    headings = re.findall(r"^### .+$", text_of(page), re.MULTILINE)
    (heading,) = [each for each in headings if PATHS[model] & paths_in(each)]
    rows = [line.split("|") for line in section_of(page, heading).splitlines()]
    shown = {row[1].strip(" `"): row[2].strip() for row in rows if "`" in "".join(row[1:2])}
    assert list(shown) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert shown[name] == "required" if field.is_required() else is_default(shown[name], field)


def paths_in(heading: str) -> set[str]:
    """Returns the paths of the sections in a heading; the whole study has the empty path."""
    return {""} if heading == "### The whole study" else set(SPAN.findall(heading))


def is_default(cell: str, field: FieldInfo) -> bool:
    """Returns whether the cell of a table states the default of a field."""
    default = field.get_default(call_default_factory=True)
    if cell == "none":
        return default is None or default == []
    if isinstance(default, BaseModel):
        written = {} if cell == "section" else yaml.safe_load(cell.strip("`"))
        return type(default).model_validate(written) == default
    return bool(yaml.safe_load(cell.strip("`")) == default)


def test_every_column_of_tuned_parameters_is_documented() -> None:
    """docs/results.md lists the further columns of the result table in their order."""
    cells = first_cells(section_of(ROOT / "docs" / "results.md", "## Columns of tuned parameters"))
    assert [span for cell in cells for span in SPAN.findall(cell)] == [each.name for each in TUNING]


def test_every_column_of_candidates_is_documented() -> None:
    """docs/search.md lists the table's columns beside hyperparameters, in their order."""
    cells = first_cells(section_of(ROOT / "docs" / "search.md", "## Candidates"))
    columns = [each.name for each in (*FIXED, PRIOR)]
    assert [span for cell in cells for span in SPAN.findall(cell)] == columns


def test_every_column_of_adapters_is_documented() -> None:
    """docs/results.md lists the columns of studies with LoRA adapters in their order."""
    cells = first_cells(section_of(ROOT / "docs" / "results.md", "## Columns of LoRA"))
    assert [span for cell in cells for span in SPAN.findall(cell)] == [each.name for each in LORA]


def test_every_column_of_pools_is_documented() -> None:
    """docs/results.md lists the columns of studies with pools in their order."""
    cells = first_cells(section_of(ROOT / "docs" / "results.md", "## Columns of pools"))
    assert [span for cell in cells for span in SPAN.findall(cell)] == [each.name for each in POOL]


def test_every_column_is_documented() -> None:
    """docs/results.md lists every column of both tables in the order of the schemas."""
    page = ROOT / "docs" / "results.md"
    shown = [
        span
        for cell in first_cells(section_of(page, "## The result table"))
        for span in SPAN.findall(cell)
    ]
    assert shown == RESULTS_SCHEMA.names
    cells = first_cells(section_of(page, "## The experts table"))
    span = f"`{POINT_COLUMNS[0]}` to `{POINT_COLUMNS[-1]}`"
    assert span in cells
    others = [name for cell in cells if cell != span for name in SPAN.findall(cell)]
    assert others == [name for name in EXPERTS_SCHEMA.names if name not in POINT_COLUMNS]
    assert f"the {len(POINT_COLUMNS)} hyperparameters" in section_of(page, "## The experts table")
    for extra in (SKIPPED, EXTERNAL):
        assert f"`{extra.name}`" in section_of(page, "## The result table")
    assert f"`{MICRO_BATCH.name}`" in section_of(page, "## The experts table")


def test_every_column_of_the_theory_tables_is_documented() -> None:
    """docs/theory.md lists every column of every theory table in the order of the schemas."""
    rows = section_of(ROOT / "docs" / "theory.md", "## The tables").splitlines()
    cells = [row.split("|") for row in rows if row.startswith("| `")]
    shown = {SPAN.findall(cell[1])[0]: SPAN.findall(cell[3]) for cell in cells}
    assert shown == {name: schema.names for name, schema in SCHEMAS.items()}


@pytest.mark.parametrize("page", ["docs/results.md", "orchestrator/tracking/README.md"])
def test_every_kind_of_mlflow_run_is_documented(page: str) -> None:
    """Both tables have every kind that the code gives to an MLflow run."""
    modules = (ROOT / "orchestrator" / "tracking").glob("*_runs.py")
    tagged = re.compile(r'common_tags\([\w.]+, kind="(\w+)"')
    kinds = {kind for path in modules for kind in tagged.findall(text_of(path))}
    named = SPAN.findall(" ".join(first_cells(text_of(ROOT / page))))
    assert sorted({*kinds, THEORY_KIND} - set(named)) == []


def test_every_method_is_documented() -> None:
    """docs/methods.md names every method of the catalogue in its introduction."""
    cells = text_of(ROOT / "docs" / "methods.md").partition("## ")[0]
    assert [name for name in CARDS if f"`{name}`" not in cells] == []
