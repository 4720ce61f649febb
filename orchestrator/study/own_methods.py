"""Finds the methods of a study that users wrote, and has them checked in another process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from eval.digests import sha256_of_bytes
from eval.user_paths import NoHomeError, expanded
from merge.catalogue import CARDS
from orchestrator.study.problems import StudyProblem, wrong_value
from orchestrator.study.schema import Merge, Study
from workers.contract.ask import method_reports
from workers.contract.report import MethodQuestion, MethodReport
from workers.own_methods.sources import (
    FORMS,
    GROUP,
    MAX_FILE_BYTES,
    OwnMethodError,
    Reference,
    packaged_methods,
    packaged_source,
    parse_reference,
)
from workers.specs.own_method import OwnMethodSpec, file_source


@dataclass(frozen=True, kw_only=True)
class OwnMethods:
    """The users' methods of a study, by the text with which the study names each."""

    found: Mapping[str, tuple[OwnMethodSpec, bytes | None]] = field(default_factory=dict)
    """Each method with the content of its file; None if the file was not read."""
    problems: tuple[StudyProblem, ...] = ()
    """The methods that cannot be used."""

    def given_to(self, study: Study) -> Study:
        """Returns the study, whose entries have the methods that they name."""
        merges = [self.given_to_entry(each) or each for each in study.merge]
        return study.model_copy(update={"merge": merges}) if self.found else study

    def given_to_entry(self, merge: Merge) -> Merge | None:
        """Returns an entry with the method that it names; None if that cannot be used."""
        if parse_reference(merge.method) is None:
            return merge
        if merge.method not in self.found:
            return None
        spec, file = self.found[merge.method]
        return merge.with_own_method(spec, file=file)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A user's method that was found and is not checked yet."""

    question: MethodQuestion
    file: bytes | None
    """The content of its file; None for a method of a package."""


def find_methods(entries: object, *, recorded: Mapping[str, OwnMethodSpec]) -> OwnMethods:
    """Returns the users' methods of a study, checked, and the problems of the others.

    Args:
        entries: The section `merge`, as written.
        recorded: Methods as an earlier plan recorded them, by name; their files are not read.
    """
    written: dict[str, str] = {}
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        method = entry.get("method") if isinstance(entry, dict) else None
        if isinstance(method, str) and parse_reference(method) is not None:
            written.setdefault(method, f"merge[{index}].method")
    found: dict[str, tuple[OwnMethodSpec, bytes | None]] = {}
    asked: dict[str, Asked] = {}
    problems: list[StudyProblem] = []
    for method, at in written.items():
        reference = parse_reference(method)
        assert reference is not None
        if reference.name in recorded:
            found[method] = recorded[reference.name], None
            continue
        try:
            asked[method] = ask_about(reference)
        except OwnMethodError as error:
            problems.append(wrong_value(at, method, remedy=str(error)))
    reports = method_reports(each.question for each in asked.values()) if asked else {}
    for method, each in asked.items():
        report = reports[each.question]
        if report.spec is not None:
            found[method] = report.spec, each.file
        problems += _problems(written[method], method=method, report=report)
    problems += _equal_names(found, written=written)
    return OwnMethods(found=found, problems=tuple(problems))


def ask_about(reference: Reference) -> Asked:
    """Returns a user's method with its source.

    Raises:
        OwnMethodError: It cannot be found, or has the name of a method of the catalogue.
    """
    name = reference.name
    if name in CARDS:
        raise OwnMethodError(f"{name} is the name of a method of mergesweep; give it another name")
    if reference.path is None:
        offered = packaged_methods()
        if name not in offered:
            known = f"installed are {', '.join(offered)}" if offered else "none is installed"
            raise OwnMethodError(
                f"no installed package offers a method {name!r} (entry points of {GROUP}); {known}"
            )
        question = MethodQuestion(name=name, source=packaged_source(offered[name]), path=None)
        return Asked(question=question, file=None)
    content = _content(reference.path)
    source = file_source(sha256_of_bytes(content))
    path = str(expanded(reference.path).resolve())
    return Asked(question=MethodQuestion(name=name, source=source, path=path), file=content)


def _content(path: str) -> bytes:
    try:
        with expanded(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, NoHomeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise OwnMethodError(f"{path} cannot be read: {reason}; expected {FORMS}") from error
    if len(content) > MAX_FILE_BYTES:
        raise OwnMethodError(f"{path} has more than {MAX_FILE_BYTES:,} bytes")
    return content


def _problems(at: str, *, method: str, report: MethodReport) -> Iterator[StudyProblem]:
    for line in report.broken:
        remedy = report.remedies.get(line.name, "see `mergesweep check-method`")
        fault = f"{method} breaks the contract of methods ({line.name}): {line.found}"
        yield StudyProblem(field=at, fault=fault, remedy=remedy)
    if report.unchecked is not None:
        remedy = f"`mergesweep check-method {method}` checks it again"
        fault = f"{method} cannot be used: {report.unchecked}"
        yield StudyProblem(field=at, fault=fault, remedy=remedy)


def _equal_names(
    found: Mapping[str, tuple[OwnMethodSpec, bytes | None]], *, written: Mapping[str, str]
) -> Iterator[StudyProblem]:
    first: dict[str, str] = {}
    for method, (spec, _) in found.items():
        other = first.setdefault(spec.name, method)
        if found[other][0] != spec:
            remedy = f"{other} is another method of this name; give one of them another name"
            yield wrong_value(written[method], method, remedy=remedy)
