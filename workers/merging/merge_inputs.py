"""The files of a merge outside any study, and their faults, without torch."""

import filecmp
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.counts import first_names
from workers.models.tensor_header import Header, TensorFileError, read_header

OTHER_FORMATS = frozenset(
    {".bin", ".ckpt", ".gguf", ".h5", ".json", ".npy", ".npz", ".onnx", ".pkl", ".pt", ".pth"}
)
"""Endings of files that readers take for another format, because they go by the name."""
_URL = re.compile("(s3|gs|hf|https?|file):(?=/)")
"""The beginning of a URL, as a path keeps it: with one slash."""
_NAMES_SHOWN = 3
_BLOCK_BYTES, _NUM_BLOCKS = 4096, 256
"""Parts of two files that are compared before the whole files."""


@dataclass(frozen=True, kw_only=True)
class MergeFiles:
    """The files of one merge, and how to read them."""

    base: Path
    experts: Sequence[Path]
    output: Path
    prefix: str = ""
    """Prefix of the experts' tensors to merge, such as `backbone.`; it is removed."""
    align: bool = False
    """Whether to permute each expert's channels into the base's order first."""
    head_dim: int | None = None
    """For `align`: the entries of a ViT's attention head; None if the width tells."""
    task: int | None = None
    """Position of the expert whose task to build the model for, if the method builds one model per
    task; None for other methods."""
    dtype: str | None = None
    """The type of the output's floats, as torch calls it, whatever those of the inputs; None for
    the base's, which the experts must share."""


@dataclass(frozen=True, kw_only=True)
class CheckedFiles:
    """The headers of the inputs that can be read, and the faults of files."""

    headers: Mapping[Path, Header]
    problems: Sequence[str]
    """A sentence for each file that cannot be read, or cannot be the output."""
    remarks: Sequence[str]
    """A sentence for each expert that is another one's file, or the base's."""


def check_files(files: MergeFiles) -> CheckedFiles:
    """Reads the headers of all inputs, and compares the names of files."""
    headers, problems = {}, []
    for path in dict.fromkeys((files.base, *files.experts)):
        if url := _URL.match(str(path)):
            problems.append(f"{path}: {url[0]}//... is a URL; download the file, and give its path")
            continue
        try:
            headers[path] = read_header(path)
        except TensorFileError as error:
            problems.append(str(error))
    prefixes = dict.fromkeys([(files.base, ""), *((path, files.prefix) for path in files.experts)])
    for path, prefix in prefixes:
        header = headers.get(path)
        if header and not any(name.startswith(prefix) for name in header.entries):
            problems.append(f"{path}: {_no_tensors(header, prefix=prefix)}")
    problems += _output_problems(files)
    remarks = () if problems else tuple(_repeated(files))
    return CheckedFiles(headers=headers, problems=problems, remarks=remarks)


def _repeated(files: MergeFiles) -> Iterator[str]:
    """Yields each expert with the bytes of the base, or of an expert before it."""
    for index, path in enumerate(files.experts):
        if _has_equal_bytes(path, files.base):
            yield f"{path}: expert {index + 1} is the base, so its task vector is zero"
            continue
        for other, before in enumerate(files.experts[:index]):
            if _has_equal_bytes(path, before):
                yield f"{path}: expert {index + 1} is expert {other + 1} again, which counts twice"
                break


def _has_equal_bytes(left: Path, right: Path) -> bool:
    """Compares some blocks first: experts may be equal up to their last layers."""
    if _is_same_file(left, right):
        return True
    size = left.stat().st_size
    if size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as two:
        for start in range(0, size, max(_BLOCK_BYTES, size // _NUM_BLOCKS)):
            one.seek(start)
            two.seek(start)
            if one.read(_BLOCK_BYTES) != two.read(_BLOCK_BYTES):
                return False
    return filecmp.cmp(left, right, shallow=False)


def _no_tensors(header: Header, *, prefix: str) -> str:
    if not header.entries:
        return "holds no tensors"
    found = dict.fromkeys(name.partition(".")[0] for name in header.entries)
    shown = first_names(map(repr, found), most=_NAMES_SHOWN)
    return f"holds no tensor whose name begins with {prefix!r}; its names begin with {shown}"


def _output_problems(files: MergeFiles) -> Iterator[str]:
    suffix = files.output.suffix.lower()
    if suffix in OTHER_FORMATS:
        yield (
            f"{files.output}: a merge is written as safetensors, and readers would take a file of "
            f"this name for another format; name it {files.output.with_suffix('.safetensors')}"
        )
    for path in (files.base, *files.experts):
        if _is_same_file(path, files.output):
            yield f"{files.output}: is one of the inputs; choose another output"
            return


def _is_same_file(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:  # one of them does not exist
        return False
