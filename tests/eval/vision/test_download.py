from pathlib import Path

import pytest
from huggingface_hub import constants
from torchvision import datasets

from eval.images.protocol import ImageSourceError
from eval.vision.download import download_vision, main


def test_what_no_program_can_fetch_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stanford Cars lost its page, FER2013 has rules to accept."""
    for name in ("stanford_cars", "fer2013"):
        assert main([name, "--root", str(tmp_path)]) == 2
        assert f"{name}: No program can fetch them" in capsys.readouterr().err


def test_wrong_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a task nor owner/name, or no commit."""
    assert main(["minst", "--root", str(tmp_path)]) == 2
    assert "'minst' is neither owner/name of a hub data set nor one of" in capsys.readouterr().err
    assert main(["me/birds", "--root", str(tmp_path)]) == 2
    assert "me/birds: give the commit of the data set with --revision" in capsys.readouterr().err


def test_hub_without_a_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was asked for."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ImageSourceError, match=r"tanganke/eurosat at 9d4918c.*returned no files"):
        download_vision("eurosat", tmp_path)


def test_page_that_gives_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's own downloader runs, against an address where nothing listens."""
    monkeypatch.setattr(datasets.DTD, "_URL", "http://127.0.0.1:9/dtd.tar.gz")
    with pytest.raises(ImageSourceError, match=f"dtd: cannot be downloaded to {tmp_path}"):
        download_vision("dtd", tmp_path)


def test_files_that_are_there_are_kept(vision_root: Path) -> None:
    """Torchvision's classes look before they fetch: nothing is asked of a network."""
    before = {path: path.stat().st_mtime_ns for path in vision_root.rglob("*")}
    for name in ("mnist", "cifar10", "svhn", "oxford_flowers102"):
        download_vision(name, vision_root)
    assert {path: path.stat().st_mtime_ns for path in vision_root.rglob("*")} == before
