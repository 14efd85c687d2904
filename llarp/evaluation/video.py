"""Films of rollouts: what the robot is told, what it sees, what it does, and how that ends."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from llarp.errors import UserError

Picture = NDArray[np.uint8]  # (H, W, 3)

SIDE = 512  # pixels: each of the two pictures
MARGIN, TOP, CAPTION, BOTTOM = 16, 108, 30, 176
WIDTH = 2 * SIDE + 3 * MARGIN
HEIGHT = TOP + CAPTION + SIDE + BOTTOM  # even, as H.264 wants it
BACKGROUND, TEXT, FAINT = (22, 24, 29), (240, 240, 240), (160, 166, 176)
GOOD, BAD, ACCENT = (46, 160, 88), (206, 62, 58), (74, 144, 226)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def wrap(text: str, width: float, size: int) -> list[str]:
    """Lines of `text` that each fit into `width` pixels; a word too long for a line is broken."""
    font = _font(size)
    lines, line = [], ""
    for word in text.split():
        while font.getlength(word) > width:
            cut = next(i for i in range(len(word), 0, -1) if i == 1 or font.getlength(word[:i]) <= width)
            lines += [line] * bool(line) + [word[:cut]]
            line, word = "", word[cut:]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return lines + [line] * bool(line)


def fit(text: str, width: float, max_lines: int, sizes: tuple[int, ...]) -> tuple[list[str], int]:
    """The largest of `sizes` at which `text` fills at most `max_lines`; cut with "…" where none does."""
    for size in sizes:
        lines = wrap(text, width, size)
        if len(lines) <= max_lines:
            return lines, size
    last = lines[max_lines - 1]
    while last and _font(size).getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: max_lines - 1], f"{last}…"], size


def draw_frame(
    head: Picture,
    third_person: Picture | None,
    instruction: str,
    step: int,
    action_name: str,
    invalid: bool = False,
    reward: float | None = 0.0,
    progress: float | None = 0.0,
    outcome: bool | None = None,
    max_steps: int = 32,
) -> Picture:
    """One frame, uint8 (HEIGHT, WIDTH, 3).

    Args:
        head, third_person: camera pictures, uint8 (H, W, 3) of any size; without the second its half stays dark.
        instruction: what the robot is told.
        step: skills used so far; `action_name` is the last of them ("" before the first).
        invalid, reward: what became of it.
        progress: share of subgoals reached, 0 to 1. Like reward, None where no goal is known: nothing is drawn.
        outcome: None while the episode goes on, then whether it succeeded.
    """
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(canvas)

    draw.text((MARGIN, 10), "INSTRUCTION", FAINT, _font(15))
    lines, size = fit(instruction, WIDTH - 2 * MARGIN, 2, (30, 27, 24, 21, 18))
    for i, line in enumerate(lines):
        draw.text((MARGIN, 30 + i * (size + 8)), line, TEXT, _font(size))

    for column, (picture, caption) in enumerate(((head, "what the robot sees"), (third_person, "from outside"))):
        left = MARGIN + column * (SIDE + MARGIN)
        draw.text((left, TOP + 4), caption, FAINT, _font(17))
        if picture is not None:
            canvas.paste(_enlarged(picture), (left, TOP + CAPTION))
        else:
            draw.rectangle((left, TOP + CAPTION, left + SIDE - 1, TOP + CAPTION + SIDE - 1), (34, 37, 44))

    y = TOP + CAPTION + SIDE + 12
    draw.text((MARGIN, y), f"step {step} of {max_steps}", FAINT, _font(20))
    shown, size = fit(action_name or "starting", 560, 1, (26, 22, 18))
    draw.text((MARGIN + 150, y - 4), shown[0], BAD if invalid else TEXT, _font(size))
    if invalid:
        x = MARGIN + 150 + _font(size).getlength(shown[0]) + 14
        draw.text((x, y), "invalid: nothing changed", BAD, _font(18))
    if reward is not None:
        draw.text((WIDTH - MARGIN, y), f"reward {reward:+.2f}", GOOD if reward > 0 else FAINT, _font(20), anchor="ra")

    y += 46
    if progress is not None:
        draw.text((MARGIN, y), "progress", FAINT, _font(20))
        left, top, right, bottom = bar = (MARGIN + 150, y + 2, WIDTH - MARGIN - 90, y + 24)
        draw.rounded_rectangle(bar, 6, (52, 56, 65))
        share = min(max(progress, 0.0), 1.0)
        if share > 0:
            draw.rounded_rectangle((left, top, left + max(12, round(share * (right - left))), bottom), 6, ACCENT)
        draw.text((WIDTH - MARGIN, y), f"{share:.0%}", TEXT, _font(20), anchor="ra")

    if outcome is not None:
        draw.rectangle((MARGIN, y + 38, WIDTH - MARGIN - 1, y + 93), GOOD if outcome else BAD)
        words = f"SUCCESS after {step} steps" if outcome else f"NOT SOLVED in {step} steps"
        draw.text((WIDTH / 2, y + 66), words, (255, 255, 255), _font(32), anchor="mm")
    return np.asarray(canvas, dtype=np.uint8)


def _enlarged(picture: Picture) -> Image.Image:
    """A camera picture as a SIDE x SIDE image, sharp where it is enlarged."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
    method = Image.Resampling.NEAREST if SIDE % picture.shape[0] == 0 else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((SIDE, SIDE), method)


def check_target(path: Path | str) -> Path:
    """`path` if a film can be written there, else UserError; nothing is written."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise UserError(f"{path}: films are written as .mp4")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise UserError(f"{path}: cannot be written: its folder must exist and be writable")
    return path


class VideoWriter:
    """An H.264 (yuv420p) mp4 that appears under its name only when complete; leaving by an exception leaves nothing.

    ```
    with VideoWriter("rollout.mp4") as film:
        film.add(frame, seconds=0.8)
    ```
    """

    def __init__(self, path: Path | str, fps: int = 10):
        self.path, self.fps = check_target(path), fps
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial.mp4")
        self._writer: Any = None  # imageio-ffmpeg's generator
        self.num_frames = 0

    def add(self, frame: Picture, seconds: float = 0.0) -> None:
        """Append a frame, uint8 (H, W, 3) with even sides, shown for `seconds` (at least one tick)."""
        import imageio_ffmpeg

        if self._writer is None:
            height, width = frame.shape[:2]
            self._writer = imageio_ffmpeg.write_frames(
                str(self._partial), (width, height), fps=self.fps, codec="libx264", pix_fmt_out="yuv420p",
                quality=8, macro_block_size=2, ffmpeg_log_level="error",
            )  # fmt: skip
            self._writer.send(None)
        for _ in range(max(1, round(seconds * self.fps))):
            self._writer.send(np.ascontiguousarray(frame))
            self.num_frames += 1

    def close(self) -> None:
        """Finish the film and put it in place."""
        if self._writer is None:
            raise ValueError(f"{self.path}: a film needs at least one frame")
        self._writer.close()
        os.replace(self._partial, self.path)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.close()
            return
        if self._writer is not None:
            self._writer.close()
        self._partial.unlink(missing_ok=True)
