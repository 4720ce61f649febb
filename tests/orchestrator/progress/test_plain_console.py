"""No text from outside is read as markup or acts on a terminal, wherever it is printed."""

import ast
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table

from orchestrator.progress.panel import progress_panel
from orchestrator.progress.plain_console import LEAST_WIDTH, PIPED_WIDTH, PlainConsole
from orchestrator.progress.say import say
from orchestrator.progress.state import Progress, RunningTrial, Tally
from orchestrator.progress.visible_text import encodable, one_line, visible

ROOT = Path(__file__).parents[3]
HOSTILE = {
    "run[final].safetensors": "run[final].safetensors",
    "[bold red]x[/]": "[bold red]x[/]",
    "[/nothing]": "[/nothing]",
    r"\[x]": r"\[x]",
    ":smile:": ":smile:",
    "[link=file:///x]y[/link]": "[link=file:///x]y[/link]",
    "\x1b[31mred": r"\x1b[31mred",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x9b2J": r"\x9b2J",
    "over\rwritten\x08": r"over\rwritten\x08",
    "a\u202egpj.exe": r"a\u202egpj.exe",
    "\u2066b\u2069": r"\u2066b\u2069",
    "byte \udcff": r"byte \udcff",
    "two\u2028lines": r"two\u2028lines",
    "猫 é ± नमस्ते 👩‍🔬": "猫 é ± नमस्ते 👩‍🔬",
}


def progress_with(text: str) -> Progress:
    return Progress(
        elapsed_s=0.0,
        stage=text,
        stages=(Tally(name=text, num_done=0, num_planned=1),),
        axes=(),
        trials=(RunningTrial(name=text, step=1, steps=2, loss=None),),
        num_trials=1,
        images=(),
        failures=(text,),
        num_failures=1,
        per_minute={},
        in_use=(),
        seconds_left=None,
        tracking=text,
    )


def in_a_table(text: str) -> Table:
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    return table


def show_status(console: PlainConsole, text: str) -> None:
    with console.status(text) as status:
        console.print(status.renderable)


WAYS: dict[str, Callable[[PlainConsole, str], None]] = {
    "message": say,
    "print": lambda console, text: console.print(text),
    "table": lambda console, text: console.print(in_a_table(text)),
    "group": lambda console, text: console.print(Group("head", text)),
    "status": show_status,
    "panel": lambda console, text: console.print(progress_panel(progress_with(text))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_is_printed_as_it_is(way: str, text: str) -> None:
    """Brackets and colons stay; characters that nobody sees are spelt."""
    printed = io.StringIO()
    WAYS[way](PlainConsole(file=printed, width=500), text)
    assert HOSTILE[text] in printed.getvalue()
    assert not set(printed.getvalue()) & set("\x1b\x07\x08\r\x9b\u202e\u2066\u2028\udcff")


def test_line_breaks_stay_in_messages_and_are_spelt_in_names() -> None:
    """A message may have several lines; a name must not forge one."""
    assert visible("one\n\ttwo") == "one\n\ttwo"
    assert one_line("one\n\ttwo") == r"one\n\ttwo"


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp437"])
def test_terminals_without_utf_8_get_every_text(encoding: str) -> None:
    """Columns stay aligned, as the replacement is made before the layout."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    PlainConsole(file=file, width=60).print(in_a_table("12±3 猫 …"))
    lines = raw.getvalue().decode(encoding).splitlines()
    assert encodable("12±3 猫 …", encoding) in raw.getvalue().decode(encoding)
    assert len({len(line) for line in lines[1:-1]}) == 1


@pytest.mark.parametrize(
    ("columns", "width"), [(None, PIPED_WIDTH), ("", PIPED_WIDTH), ("x", PIPED_WIDTH), ("72", 72)]
)
def test_piped_tables_are_as_wide_as_a_table_needs(
    monkeypatch: pytest.MonkeyPatch, columns: str | None, width: int
) -> None:
    """COLUMNS overrides it, if it is a number."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert PlainConsole(file=io.StringIO()).width == width


def test_no_width_hides_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some terminals report a width of 0."""
    monkeypatch.setenv("COLUMNS", "0")
    console = PlainConsole(file=io.StringIO())
    assert console.width == LEAST_WIDTH


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yields the calls of a module with the last part of the called name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def test_no_module_prints_past_the_console() -> None:
    """A second console, markup or `click.echo` elsewhere would read or send texts as they are."""
    refused = {"Console", "from_markup", "from_ansi", "render_markup", "echo", "secho"}
    homes = {
        "orchestrator/progress/plain_console.py": set[str](),
        "orchestrator/cli/command_line.py": {"echo"},
    }
    found = []
    for package in ("orchestrator", "workers", "merge"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for called, call in calls(path):
                switched = {
                    keyword.arg
                    for keyword in call.keywords
                    if keyword.arg in ("markup", "emoji")
                    and not (isinstance(keyword.value, ast.Constant) and not keyword.value.value)
                }
                if switched or called in refused - homes.get(name, set()):
                    found.append(f"{name}:{call.lineno}: {called} {switched or ''}")
    assert not found
