"""Films: frames that show what they should, files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from llarp.errors import UserError
from llarp.evaluation import video
from llarp.evaluation.video import VideoWriter, draw_frame

HEAD = np.full((128, 128, 3), (10, 200, 30), np.uint8)
OUTSIDE = np.full((96, 96, 3), (200, 10, 30), np.uint8)
LONG = "Please bring me a " + "very " * 80 + "red apple."


def frame(**changes) -> np.ndarray:
    given = dict(head=HEAD, third_person=OUTSIDE, instruction="Bring the apple.", step=3, action_name="nav(sink)")
    return draw_frame(**(given | changes))


def bottom(picture: np.ndarray) -> np.ndarray:
    return picture[video.TOP + video.CAPTION + video.SIDE :]


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == np.array(color)).all(-1).sum())


def test_both_pictures_are_shown_large() -> None:
    picture = frame()
    assert picture.shape == (video.HEIGHT, video.WIDTH, 3) and picture.dtype == np.uint8
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert count(picture, (10, 200, 30)) == count(picture, (200, 10, 30)) == video.SIDE**2
    assert count(frame(third_person=None), (200, 10, 30)) == 0


def test_progress_fills_the_bar() -> None:
    filled = [count(bottom(frame(progress=p)), video.ACCENT) for p in (0.0, 0.25, 0.5, 1.0)]
    assert filled[0] == 0
    assert filled[1] < filled[2] < filled[3]
    assert filled[2] == pytest.approx(filled[3] / 2, rel=0.02)
    assert count(bottom(frame(progress=None)), video.ACCENT) == 0


@pytest.mark.parametrize(("outcome", "color"), [(True, video.GOOD), (False, video.BAD)])
def test_the_outcome_is_a_banner(outcome: bool, color: tuple[int, int, int]) -> None:
    assert count(bottom(frame(outcome=outcome)), color) > 20_000
    assert count(bottom(frame(outcome=None)), color) < 200


def test_an_invalid_action_is_red() -> None:
    assert count(bottom(frame(invalid=True)), video.BAD) > count(bottom(frame()), video.BAD) + 100


@pytest.mark.parametrize("text", [LONG, "x" * 500, "Go.", "Räume den «Tisch» ab!"])
def test_any_instruction_fits(text: str) -> None:
    lines, size = video.fit(text, 1000, 2, (30, 24, 18))
    assert 1 <= len(lines) <= 2
    assert all(video._font(size).getlength(line) <= 1000 for line in lines)
    picture = frame(instruction=text)
    assert (picture[: video.TOP, -video.MARGIN :] == np.array(video.BACKGROUND)).all()
    assert (picture[: video.TOP, : video.MARGIN - 2] == np.array(video.BACKGROUND)).all()


def test_wrapping_keeps_every_word() -> None:
    text = "bring the small red apple from the sofa to the left counter"
    assert " ".join(video.wrap(text, 150, 20)).split() == text.split()
    assert "".join(video.wrap("x" * 90, 150, 20)) == "x" * 90


def test_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        frame(head=HEAD.astype(np.float32))


def test_a_film_is_h264_and_shows_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with VideoWriter(path, fps=5) as film:
        film.add(frame(), seconds=0.6)
        assert not path.exists()
        film.add(frame(outcome=True))
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    frames = imageio_ffmpeg.read_frames(str(path))
    meta = next(frames)
    assert (meta["codec"], meta["pix_fmt"].split("(")[0], meta["fps"]) == ("h264", "yuv420p", 5.0)
    assert meta["size"] == (video.WIDTH, video.HEIGHT)
    shown = [np.frombuffer(f, np.uint8).reshape(video.HEIGHT, video.WIDTH, 3).astype(int) for f in frames]
    assert len(shown) == 4
    assert np.abs(shown[0] - frame()).mean() < 4
    assert np.abs(shown[3] - frame(outcome=True)).mean() < 4


def test_a_broken_film_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(tmp_path / "film.mp4") as film:
        film.add(frame())
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film.avi", "none/film.mp4"])
def test_impossible_targets_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="film"):
        VideoWriter(tmp_path / name)
