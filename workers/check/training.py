"""Runs the parts of a trial and of a merge that can fail for a model: a step, a file, a merge."""

from dataclasses import replace

import torch
from torch import nn

from merge.catalogue import parse_params
from merge.merge import MergeOptions, merge
from workers.check.building import RefusedError, check_features, refused
from workers.check.report import StepKind
from workers.models.backbones import Backbone
from workers.models.batch_norm import batch_norms
from workers.models.tangent import Tangent
from workers.models.tensor_files import TensorFile, write_tensors
from workers.models.tied_weights import load_state, own_state
from workers.store.scratch import scratch_directory

NUM_CLASSES = 2


def take_step(backbone: Backbone, *, step: StepKind, image_size: int, device: torch.device) -> None:
    """Computes the gradients of a step on random images, as `workers.train.trainer` does.

    Raises:
        RefusedError: The model fails.
    """
    module = backbone.module
    try:
        module.train()
        if not step.trains_batch_norm:
            for norm in batch_norms(module):
                norm.eval()
        if step.linearised:
            base = {name: each.detach().clone() for name, each in own_state(module).items()}
            backbone = replace(backbone, expansion=Tangent(module, base=base))
        inputs = torch.randn(step.batch_size, 3, image_size, image_size, device=device)
        features = backbone.model(inputs.contiguous(memory_format=torch.channels_last))
        check_features(features.detach(), num_images=step.batch_size, backbone=backbone)
        logits = nn.Linear(backbone.num_features, NUM_CLASSES, device=device)(features)
        labels = torch.zeros(step.batch_size, dtype=torch.int64, device=device)
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    except RefusedError:
        raise
    except Exception as error:
        raise refused(error) from error
    finally:
        module.zero_grad(set_to_none=True)


def store_and_merge(backbone: Backbone) -> None:
    """Writes the weights to a file, reads them, and merges the file with itself.

    Raises:
        RefusedError: The weights cannot be stored, loaded or merged, or are other weights then.
    """
    module = backbone.module
    with scratch_directory("check") as scratch:
        path = scratch / "weights.safetensors"
        try:
            write_tensors(path, own_state(module), about={})
            stored = TensorFile(path)
            options = MergeOptions(params=parse_params("average", {}))
            merged = dict(merge(stored, [stored, stored], options=options))
            load_state(module, merged)
        except OSError:  # a fault of the disk and not of the model
            raise
        except Exception as error:
            raise refused(error) from error
        changed = [
            name for name, tensor in own_state(module).items() if not _equal(tensor, stored[name])
        ]
    if changed:
        raise RefusedError(f"a merge of the model with itself changes {changed[0]!r}")


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.cpu(), other)
