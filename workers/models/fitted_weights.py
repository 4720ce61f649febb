"""Fits the tensors of a file of weights to a timm model, or says why they do not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from eval.counts import counted, first_names
from eval.digests import sha256_of_file
from merge.buffers import is_variance
from workers.models.backbones import embedding_width
from workers.models.likely_models import likely_model
from workers.models.matched_names import (
    IMAGE_TOWER,
    ExpectedTensors,
    MatchedNames,
    expected_tensors,
    match_names,
    whole_names,
)
from workers.models.pretrained_weights import WeightsError, local_copy
from workers.models.resized_weights import resize_weights
from workers.models.weights_files import WeightsFile, read_weights, shard_remark

OPEN_CLIP_NAMES = ("visual.class_embedding", "module.visual.class_embedding")
"""Names of a tensor in checkpoints of whole ViT models from open_clip. timm converts such
checkpoints to its own names."""
PATCHES = "visual.conv1.weight"
"""End of the name of the weight that embeds patches in such a checkpoint."""
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of weights; others are codes of quantised ones."""
_STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True, kw_only=True)
class FittedWeights:
    """The backbone's tensors in a file, and how they were found there."""

    tensors: Mapping[str, Tensor]
    """The backbone's tensors by timm's names, in the model's dtypes."""
    classifier: Mapping[str, Tensor]
    """The file's tensors of classifiers, by the file's names; empty if it has none."""
    remarks: tuple[str, ...]
    """Whole sentences about tensors that were left out, and about names that are not timm's."""


def fit_weights(
    path: Path, *, model: str, image_size: int | None = None, shown: str | None = None
) -> FittedWeights:
    """Reads a checkpoint of a whole model and returns the backbone's tensors by timm's names.

    * Every tensor of the file is used or is a classifier's; otherwise the file is refused.
    * All names may have one prefix, such as `module.`; see `read_weights` for entries of a file.
    * A checkpoint of an open_clip ViT model gives the tensors of its image tower.
    * If no tensor has a name of timm's, they are matched by order. The last parts of the names and
      the shapes must agree. Safetensors files are sorted by name, which loses the order.
    * The batch counters of BatchNorm may be missing, as in torchvision's oldest files, and are then
      zero.
    * Floating point tensors are converted to the model's dtypes, and must be finite there. Running
      variances must not be negative.

    Args:
        path: The file.
        model: timm's name of the model.
        image_size: A size of images that the file may be for; the model's own size always may.
        shown: The file's name in messages; the path by default.

    Raises:
        WeightsError: The file does not fit the model, or timm has no such model.
    """
    shown = shown or str(path)
    file = read_weights(path)
    text_tower: tuple[str, ...] = ()
    if any(name in file.tensors for name in OPEN_CLIP_NAMES):
        file, text_tower = _image_tower(file, model=model)
    fit = _best_fit(file, model=model, image_size=image_size)
    if not fit.matched.is_complete:
        raise WeightsError(_refusal(fit, file=file, shown=shown, path=path))
    _check_tied(fit.matched, found=file.tensors, shown=shown)
    tensors = _converted(fit, found=file.tensors, shown=shown)
    remarks = _remarks(fit, file=file, text_tower=text_tower, shown=shown)
    classifier = {name: file.tensors[name] for name in fit.matched.heads}
    return FittedWeights(tensors=tensors, classifier=classifier, remarks=remarks)


def fit_source(
    source: str, *, sha256: str, model: str, image_size: int | None = None
) -> FittedWeights:
    """Reads the checkpoint that a study names, once its digest is the expected one.

    Args:
        source: A path, or an `s3://` URL.
        sha256: The digest.
        model: timm's name of the model.
        image_size: The size that the model is built for, to which the weights are interpolated;
            None for its own.

    Raises:
        WeightsError: The file cannot be read, has another digest, or does not fit the model.
    """
    with local_copy(source) as (path, shown):
        try:
            digest = sha256_of_file(path)
        except OSError as error:
            raise WeightsError(f"{shown}: cannot be read: {error.strerror or error}") from error
        if digest != sha256:
            raise WeightsError(f"{shown}: sha256 is {digest}, the plan expects sha256:{sha256}")
        fitted = fit_weights(path, model=model, image_size=image_size, shown=shown)
        tensors = {name: tensor.clone() for name, tensor in fitted.tensors.items()}
        classifier = {name: tensor.clone() for name, tensor in fitted.classifier.items()}
    if image_size is not None:
        tensors = resize_weights(tensors, model=model, image_size=image_size)
    return replace(fitted, tensors=tensors, classifier=classifier)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """The names of a file beside those of a model."""

    expected: ExpectedTensors
    matched: MatchedNames
    is_by_order: bool = False
    """Whether the tensors are matched by their order, because the names are not timm's."""


def _best_fit(file: WeightsFile, *, model: str, image_size: int | None) -> _Fit:
    """Returns the complete fit of a file to a model if there is one; else the fit by names."""
    expected = expected_tensors(model)
    by_name = _Fit(expected=expected, matched=match_names(file.tensors, expected=expected))
    if by_name.matched.is_complete:
        return by_name
    if image_size is not None:
        resized = expected_tensors(model, image_size=image_size)
        matched = match_names(file.tensors, expected=resized)
        if matched.is_complete:
            return _Fit(expected=resized, matched=matched)
    by_order = _by_order(file, expected=expected)
    if by_order is None:
        return by_name
    return _Fit(expected=expected, matched=by_order, is_by_order=True)


def _image_tower(file: WeightsFile, *, model: str) -> tuple[WeightsFile, tuple[str, ...]]:
    """Returns the image tower of an open_clip ViT by timm's names, and the names outside it.

    timm interpolates positions to the model's number of patches. It would also resize the patches
    themselves, which makes another model of the file; they keep their size.
    """
    module = timm.create_model(model, pretrained=False, num_classes=embedding_width(model))
    if not isinstance(module, VisionTransformer):
        return file, ()
    tower = dict(checkpoint_filter_fn(dict(file.tensors), module))
    patches = next(tensor for name, tensor in file.tensors.items() if name.endswith(PATCHES))
    if tower["patch_embed.proj.weight"].shape != patches.shape:
        tower["patch_embed.proj.weight"] = patches
    outside = tuple(name for name in file.tensors if IMAGE_TOWER not in name)
    return replace(file, tensors=tower), outside


def _by_order(file: WeightsFile, *, expected: ExpectedTensors) -> MatchedNames | None:
    """Matches tensors with names of their own by their order; None if they do not fit."""
    found = list(file.tensors)
    if not file.keeps_order or any(name in expected.backbone for name in found):
        return None
    whole = whole_names(expected.model)
    if len(whole) != len(found):
        return None
    pairs = dict(zip(whole, found, strict=True))
    if any(ours.rpartition(".")[2] != theirs.rpartition(".")[2] for ours, theirs in pairs.items()):
        return None
    renamed = {ours: file.tensors[theirs] for ours, theirs in pairs.items()}
    matched = match_names(renamed, expected=expected)
    if not matched.is_complete:
        return None
    return replace(
        matched,
        names={name: pairs[ours] for name, ours in matched.names.items()},
        tied={pairs[ours]: pairs[first] for ours, first in matched.tied.items()},
        heads=tuple(pairs[ours] for ours in matched.heads),
    )


def _check_tied(matched: MatchedNames, *, found: Mapping[str, Tensor], shown: str) -> None:
    differing = [
        f"{name} and {first}"
        for name, first in matched.tied.items()
        if not torch.equal(found[name], found[first])
    ]
    if differing:
        raise WeightsError(
            f"{shown}: the model uses one tensor under several names, but the file has different "
            f"values for {first_names(differing)}"
        )


def _converted(fit: _Fit, *, found: Mapping[str, Tensor], shown: str) -> dict[str, Tensor]:
    """Returns the backbone's tensors in the model's dtypes; batch counters may be missing."""
    matched, expected = fit.matched, fit.expected
    tensors, wrong_dtypes, infinite, negative = {}, [], [], []
    for name, like in expected.backbone.items():
        if name not in matched.names:
            tensors[name] = torch.zeros(like.shape, dtype=like.dtype)
            continue
        tensor = found[matched.names[name]]
        if not _is_convertible(tensor, like=like):
            dtype = str(tensor.dtype).removeprefix("torch.")
            wrong_dtypes.append(f"{matched.names[name]} ({dtype})")
            continue
        tensors[name] = tensor.to(like.dtype)
        if not (torch.isfinite(tensor).all() and torch.isfinite(tensors[name]).all()):
            infinite.append(matched.names[name])
        elif is_variance(name, state=expected.backbone) and bool((tensor < 0).any()):
            negative.append(matched.names[name])
    problems = []
    if wrong_dtypes:
        problems.append(
            "these tensors are not plain floating point numbers, or not counts where the model "
            f"counts: {first_names(wrong_dtypes)}; convert quantised weights to float32 first"
        )
    if infinite:
        problems.append(f"these tensors hold NaN or infinite values: {first_names(infinite)}")
    if negative:
        problems.append(
            f"these variances are negative, so that the model's outputs are NaN: "
            f"{first_names(negative)}"
        )
    if problems:
        raise WeightsError(f"{shown}: {'; '.join(problems)}")
    return tensors


def _is_convertible(tensor: Tensor, *, like: Tensor) -> bool:
    if like.is_floating_point():
        return tensor.dtype in FLOATS
    if tensor.dtype in FLOATS:  # counters that were converted together with the weights
        return bool((tensor.isfinite() & (tensor == tensor.round())).all())
    return not tensor.is_complex()


def _refusal(fit: _Fit, *, file: WeightsFile, shown: str, path: Path) -> str:
    """Returns the message that refuses a file whose names or shapes are not the model's."""
    matched, expected = fit.matched, fit.expected
    model = expected.model
    problems = []
    if not matched.names:
        problems.append(
            f"none of its {counted(len(file.tensors), 'tensor')} has a name of {model} in timm, "
            f"such as {next(iter(expected.backbone))}; it has {first_names(file.tensors)}"
        )
    elif matched.unexpected:
        problems.append(
            f"{model} does not have {len(matched.unexpected)} of its {len(file.tensors)} tensors "
            f"({first_names(matched.unexpected)})"
        )
    if matched.names and matched.missing:
        problems.append(
            f"it lacks {len(matched.missing)} of the {len(expected.backbone)} tensors of {model} "
            f"({first_names(matched.missing)})"
        )
        if all(name.endswith(_STATISTICS) for name in matched.missing):
            problems.append(
                "these are BatchNorm's statistics: save model.state_dict(), not only parameters"
            )
    if matched.wrong_shapes:
        shapes = [
            f"{matched.names[name]} has shape {tuple(file.tensors[matched.names[name]].shape)}, "
            f"expected {tuple(expected.backbone[name].shape)}"
            for name in matched.wrong_shapes
        ]
        problems.append(first_names(shapes))
    likely = likely_model(file.tensors, model=model, file_name=path.name)
    looks = f"; {likely}" if likely else ""
    remark = shard_remark(path)
    return f"{shown} is not a checkpoint of {model}{looks}{remark}: {'; '.join(problems)}"


def _remarks(
    fit: _Fit, *, file: WeightsFile, text_tower: Sequence[str], shown: str
) -> tuple[str, ...]:
    matched = fit.matched
    num_texts = len(matched.text_tower) + len(text_tower)
    remarks = []
    if file.wrapper:
        remarks.append(f"{shown}: the weights are in its entry {file.wrapper}")
    if matched.prefix:
        remarks.append(f"{shown}: the weights are the tensors named {matched.prefix}*")
    if fit.is_by_order:
        remarks.append(
            f"{shown}: its names are not timm's, so its tensors are taken in their order"
        )
    if left_out := (*matched.heads, *file.beside):
        remarks.append(
            f"{shown}: left out, because a base has no classifier: {first_names(left_out)}"
        )
    if num_texts:
        remarks.append(f"{shown}: left out: {counted(num_texts, 'tensor')} of the text tower")
    return tuple(remarks)
