from pathlib import Path

import pytest
from huggingface_hub import constants
from torchvision import datasets

from eval.images.protocol import ImageSourceError
from eval.vision.download import download_vision, main


def test_data_set_that_no_program_can_download_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stanford Cars' page no longer exists, and FER2013 has rules to accept."""
    for name in ("stanford_cars", "fer2013"):
        assert main([name, "--root", str(tmp_path)]) == 2
        assert f"{name}: No program can fetch them" in capsys.readouterr().err


def test_wrong_names_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name must be a task or owner/name, and owner/name needs a commit."""
    assert main(["minst", "--root", str(tmp_path)]) == 2
    assert "'minst' is neither owner/name of a hub data set nor one of" in capsys.readouterr().err
    assert main(["me/birds", "--root", str(tmp_path)]) == 2
    assert "me/birds: give the commit of the data set with --revision" in capsys.readouterr().err


def test_hub_without_a_network_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the requested data set and commit."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ImageSourceError, match=r"tanganke/eurosat at 9d4918c.*returned no files"):
        download_vision("eurosat", tmp_path)


def test_unreachable_page_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's own downloader runs against an address where nothing listens."""
    monkeypatch.setattr(datasets.DTD, "_URL", "http://127.0.0.1:9/dtd.tar.gz")
    with pytest.raises(ImageSourceError, match=f"dtd: cannot be downloaded to {tmp_path}"):
        download_vision("dtd", tmp_path)


def test_existing_files_are_kept(vision_root: Path) -> None:
    """Torchvision's classes check existing files first, so the network is not used."""
    before = {path: path.stat().st_mtime_ns for path in vision_root.rglob("*")}
    for name in ("mnist", "cifar10", "svhn", "oxford_flowers102"):
        download_vision(name, vision_root)
    assert {path: path.stat().st_mtime_ns for path in vision_root.rglob("*")} == before


def test_a_root_that_cannot_be_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the option and the variable that choose another folder."""
    (tmp_path / "file").touch()
    assert main(["dtd", "--root", str(tmp_path / "file" / "below")]) == 1
    assert "below cannot be written: Not a directory; choose another folder with --root or" in (
        capsys.readouterr().err
    )
