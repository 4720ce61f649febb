import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.images.file_source import FileSource, decode_bytes
from eval.images.protocol import ImageSourceError


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_every_mode_becomes_rgb() -> None:
    """Palettes, alpha, CMYK, grey and bilevel images become three channels of 8 bits."""
    red = Image.new("RGB", (3, 2), (255, 0, 0))
    clear = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    palette = red.convert("P")
    see_through = red.convert("P")
    see_through.info["transparency"] = bytes([0, 255])
    for image, kind in [
        (red, "png"),
        (clear, "png"),
        (palette, "png"),
        (see_through, "png"),
        (Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "tiff"),
    ]:
        found = decode_bytes(encoded(image, kind), channels=3, name="x")
        assert found.dtype == np.uint8
        assert found.tolist() == np.broadcast_to([255, 0, 0], (2, 3, 3)).tolist()
    for image, grey in [(Image.new("L", (3, 2), 9), 9), (Image.new("1", (3, 2), 1), 255)]:
        found = decode_bytes(encoded(image), channels=3, name="x")
        assert found.tolist() == np.full((2, 3, 3), grey).tolist()


def test_grey_stays_one_channel_where_the_task_is_grey() -> None:
    """A colour image of a grey task becomes grey by Pillow's weights."""
    assert decode_bytes(encoded(Image.new("L", (3, 2), 9)), channels=1, name="x").shape == (2, 3, 1)
    white = decode_bytes(encoded(Image.new("RGB", (3, 2), "white")), channels=1, name="x")
    assert white.tolist() == np.full((2, 3, 1), 255).tolist()


def test_sixteen_bits_are_refused() -> None:
    """Pillow would clip all values above 255."""
    deep = Image.fromarray(np.full((2, 3), 40_000, dtype=np.uint16))
    with pytest.raises(ImageSourceError, match=r"scan: .* mode is I;16; save it with 8 bits"):
        decode_bytes(encoded(deep), channels=3, name="scan")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    """The error names an incomplete file, a file that is no image, and a missing file."""
    (tmp_path / "cut.png").write_bytes(encoded(Image.new("RGB", (64, 64)))[:60])
    (tmp_path / "text.png").write_text("no image")
    paths = [tmp_path / name for name in ("cut.png", "text.png", "gone.png")]
    source = FileSource(paths=paths, labels=np.zeros(3, dtype=np.int64), channels=3)
    for index, what in enumerate(["decoded", "decoded", "read"]):
        with pytest.raises(ImageSourceError, match=rf"{paths[index].name}: cannot be {what}"):
            source.image(index)
