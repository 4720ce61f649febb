"""The files of an adapter in peft's layout. Free of torch: the driver looks for them too."""

from pathlib import Path

from eval.user_paths import is_file

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"


def adapter_folder(path: Path) -> Path | None:
    """Returns the folder of the adapter that a path names; None if it names none.

    The path is the folder, or the file of tensors in it. The folder has both files.
    """
    folder = path.parent if path.name == ADAPTER_FILE else path
    names = (CONFIG_FILE, ADAPTER_FILE)
    return folder if all(is_file(folder / name) for name in names) else None
