"""Checks the house rules that no linter knows: sizes, first words, temporary files.

    python tests/lint/house_rules.py

Prints one line per violation and exits with 1 if there is any.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "merge", "eval")
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_MODULES_IN_A_ROOM = 20
ROOMS_OF_ANY_SIZE = ("merge/operators",)
"""A new merging method is one more file here, whatever their number."""
MAX_MODULES_BESIDE_ROOMS = {"orchestrator": 2, "workers": 9}
"""Modules directly in a package, `__init__.py` counted, as everywhere."""
TEMPORARY_FILES = {
    "workers/store/scratch.py",
    "workers/store/private_directory.py",
    "orchestrator/cli/command_line.py",  # tracebacks stay
    "orchestrator/environment/ray_directory.py",  # only tries whether a folder can be written
}
"""Modules that import `tempfile`. All others use `scratch_directory`, whose directories are deleted
also if the process is killed."""
REFUSED_FIRST_WORDS = ("What", "How", "Which", "That", "Those", "Who", "Whoever", "Whatever")
"""A sentence that begins so hides its subject."""


def problems() -> Iterator[str]:
    """Yields every violation, with the file and the line."""
    for package in PACKAGES:
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            yield from _room_problems(folder)
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from _module_problems(path)


def _room_problems(folder: Path) -> Iterator[str]:
    name = folder.relative_to(ROOT).as_posix()
    num_modules = len(list(folder.glob("*.py")))
    allowed = MAX_MODULES_BESIDE_ROOMS.get(name, MAX_MODULES_IN_A_ROOM)
    if num_modules > allowed and name not in ROOMS_OF_ANY_SIZE:
        yield f"{name}: {num_modules} modules; at most {allowed}"


def _module_problems(path: Path) -> Iterator[str]:
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    num_lines = text.count("\n")
    if num_lines > MAX_MODULE_LINES:
        yield f"{name}: {num_lines} lines; at most {MAX_MODULE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {num_lines} lines; "
                    f"at most {MAX_FUNCTION_LINES}"
                )
        if name not in TEMPORARY_FILES and _imports_tempfile(node):
            yield f"{name}: imports tempfile; use workers.store.scratch.scratch_directory"
        if line := _refused_docstring(node):
            yield f"{name}:{line}: the docstring begins with a word that hides its subject"


def _imports_tempfile(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "tempfile"
    return isinstance(node, ast.Import) and any(each.name == "tempfile" for each in node.names)


def _refused_docstring(node: ast.AST) -> int | None:
    """Returns the line of a docstring whose first word is refused; None otherwise.

    Strings below attributes count as docstrings.
    """
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return None
    text = node.value.value
    if not isinstance(text, str) or not text.split():
        return None
    return node.lineno if text.split()[0].rstrip(",") in REFUSED_FIRST_WORDS else None


def main() -> None:
    """Prints the violations and exits with 1 if there are any."""
    found = list(problems())
    for problem in found:
        print(problem)  # noqa: T201 a command's output
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
