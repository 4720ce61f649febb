"""Measures how hard the embedded tasks are for the default backbone before any fine-tuning.

For each task: the test accuracy of logistic regression on the features of the pretrained
EfficientNet-Lite0 at 64 pixels, and on the pixels of the same images at 16.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from eval.embedded.build import compose_splits
from eval.embedded.randomness import random_stream
from eval.evaluate import features_of
from eval.images.decoding import resized
from eval.images.split import Split
from eval.suites import SUITES, find_task
from workers.models.backbones import Backbone, create_backbone
from workers.models.fitted_weights import fit_weights
from workers.models.pretrained_weights import packaged_path

MODEL = "tf_efficientnet_lite0"
IMAGE_SIZE = 64
PIXELS_SIZE = 16
NUM_TRAIN, NUM_TEST = 500, 300
RIDGE = 1e-2  # relative to the mean loss, on standardized inputs; chosen once for all tasks
NUM_STEPS = 100


def main() -> None:
    """Prints a row of the table for each task as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tasks", nargs="*", default=SUITES["embedded20"])
    backbone = pretrained()
    print("| task | chance | features | 16 x 16 pixels |")  # noqa: T201 its output
    print("| --- | ---: | ---: | ---: |")  # noqa: T201 as above
    for name in parser.parse_args().tasks:
        train, test = first_images(name)
        features = accuracy(features_at(train, backbone), features_at(test, backbone), train, test)
        pixels = accuracy(pixels_of(train), pixels_of(test), train, test)
        chance = 1 / find_task(name).num_classes
        print(f"| `{name}` | {chance:.0%} | {features:.0%} | {pixels:.0%} |", flush=True)  # noqa: T201 as above


def first_images(name: str) -> tuple[Split, Split]:
    """Returns the first images of both splits in the order of a study."""
    taken = []
    for (split, composed), num in zip(
        compose_splits(find_task(name)).items(), (NUM_TRAIN, NUM_TEST), strict=True
    ):
        order = random_stream(name, split, "order").permutation(len(composed))[:num]
        channels = find_task(name).channels
        images = [
            resized(composed.image(index), image_size=IMAGE_SIZE, channels=channels)
            for index in order.tolist()
        ]
        taken.append(Split(images=np.stack(images), labels=composed.labels[order]))
    return taken[0], taken[1]


def pretrained() -> Backbone:
    """Returns the default backbone with the packaged weights."""
    backbone = create_backbone(MODEL, seed=0, device=torch.device("cpu"))
    weights = fit_weights(packaged_path(MODEL), model=MODEL).tensors
    backbone.module.load_state_dict(weights)
    return backbone


def features_at(split: Split, backbone: Backbone) -> Tensor:
    """Returns the backbone's features, (num, features)."""
    return features_of(
        backbone.module,
        split=split,
        normalization=backbone.normalization,
        device=torch.device("cpu"),
    ).clone()


def pixels_of(split: Split) -> Tensor:
    """Returns the pixels of shrunken images, (num, pixels)."""
    size = (PIXELS_SIZE, PIXELS_SIZE)
    small = [Image.fromarray(image.squeeze()).resize(size) for image in split.images]
    return torch.from_numpy(np.stack(small).reshape(len(split), -1) / 255).float()


def accuracy(train_inputs: Tensor, test_inputs: Tensor, train: Split, test: Split) -> float:
    """Fits logistic regression to standardized inputs; returns its test accuracy."""
    mean, std = train_inputs.mean(dim=0), train_inputs.std(dim=0) + 1e-6
    inputs, expected = (train_inputs - mean) / std, torch.from_numpy(train.labels.copy())
    head = nn.Linear(inputs.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=NUM_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(head(inputs), expected)
        value = value + RIDGE * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    guesses = head((test_inputs - mean) / std).argmax(dim=1).numpy()
    return float((guesses == test.labels).mean())


if __name__ == "__main__":
    main()
