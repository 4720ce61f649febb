"""The program in a model card that classifies image files with timm, torch and safetensors."""

_START = """\
import json, sys, timm, torch
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file

folder, task, *files = sys.argv[1:]
about = json.loads(Path(folder, "tasks.json").read_text("utf-8"))[task]
head = load_file(f"{folder}/heads.safetensors")
model = timm.create_model(f"local-dir:{folder}/{about['model']}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
for file in files:
    image = transform(Image.open(file).convert(about["mode"]).convert("RGB"))
    with torch.inference_mode():
        features = model(image[None])
"""
_ADAPTER = """\
        down, up = head[f"{task}.down"], head[f"{task}.up"]
        features = features - torch.relu(features @ down.T) @ up.T
"""
_LINEAR = """\
        logits = features @ head[f"{task}.weight"].T + head[f"{task}.bias"]
"""
_COSINE = """\
        logits = torch.nn.functional.normalize(features) @ head[f"{task}.weight"].T
"""
_END = """\
    print(about["classes"][logits.argmax()])
"""


def snippet(*, has_adapters: bool, is_cosine: bool) -> str:
    """Returns the program for an exported model.

    It takes the folder of the model, a task, and image files, and prints a class for each file.

    Args:
        has_adapters: Whether surgery adapts the features of each task.
        is_cosine: Whether the heads are cosine heads, as zero-shot heads are.
    """
    adapter = _ADAPTER if has_adapters else ""
    return _START + adapter + (_COSINE if is_cosine else _LINEAR) + _END
