"""Pictures and videos that a user gives to a sample, and the MP4 that it becomes."""

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from curation.frames import MediaError, Picture, decode, open_media, rgb, video_stream
from training.pixels import resize
from training.settings import TrainError


def picture_size(path: Path) -> tuple[int, int]:
    """Width and height of an image or of the first frame of a video. Raises TrainError."""
    height, width = _first(path).shape[:2]
    return width, height


def read_image(path: Path, width: int, height: int) -> np.ndarray:
    """An image, or the first frame of a video, as uint8 [1, H, W, 3] RGB of that size, cropped to its aspect ratio. Raises TrainError."""
    return _fill(_first(path), width, height)[None]


def read_video(path: Path, width: int, height: int, fps: float, num_frames: int, last: bool = False) -> np.ndarray:
    """The first frames of a video, or its last, at a rate: uint8 [T, H, W, 3] RGB of that size, cropped to its aspect ratio.

    Frames are those shown at the times of the rate, so that a slower video repeats some. Raises TrainError, also where it is too short.
    """
    times, frames = [], list[np.ndarray]()
    whole_s = (num_frames - 1) / fps
    for time_s, frame in _pictures(path):
        times.append(time_s)
        frames.append(_fill(frame, width, height))
        if not last and time_s > whole_s:
            break
        while last and len(times) > 1 and times[1] <= time_s - whole_s:  # what is shown at the first of the last times is kept
            times.pop(0)
            frames.pop(0)
    wanted = np.arange(num_frames) / fps + (times[-1] - whole_s if last else 0.0)
    step_s = (times[-1] - times[0]) / max(len(times) - 1, 1)
    if wanted[0] < times[0] - 1e-6 or wanted[-1] > times[-1] + step_s + 1e-6:
        raise TrainError(f"{path} is too short: {num_frames} frames at {fps:g} a second are {whole_s:.3g} s")
    return np.stack([frames[max(int(np.searchsorted(times, time_s + 1e-6)) - 1, 0)] for time_s in wanted])


def file_digest(path: Path) -> str:
    """SHA-256 of a file. Raises TrainError."""
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainError(f"{path} cannot be read: {error.strerror or error}") from error


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> str:
    """Write uint8 [H, W, 3] RGB frames, of even width and height, as H.264, atomically. Returns their SHA-256. Raises TrainError."""
    scratch, digest = path.with_name(f".{path.name}.{os.getpid()}"), sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(scratch), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "16"})
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                if not stream.codec_context.is_open:
                    stream.height, stream.width = frame.shape[:2]
                digest.update(frame.tobytes())
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(scratch, path)
    except OSError as error:
        raise TrainError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)
    return digest.hexdigest()


def _first(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        return next(_pictures(path))[1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what its readers raise for broken files
        raise TrainError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _pictures(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """The time in seconds and the pixels of each frame. Raises TrainError, also where there is none."""
    picture: Picture | None = None
    try:
        with open_media(str(path)) as container:
            for picture in decode(container, video_stream(container)):
                yield picture.time_s, rgb(picture.frame)
    except MediaError as error:
        raise TrainError(f"{path} cannot be read: {error}") from error
    if picture is None:
        raise TrainError(f"{path} holds no picture")


def _fill(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of uint8 [H, W, 3] in the aspect ratio of width x height, scaled to that."""
    rows, columns = frame.shape[:2]
    scale = min(columns / width, rows / height)
    across, down = min(round(width * scale), columns), min(round(height * scale), rows)
    left, top = (columns - across) // 2, (rows - down) // 2
    return resize(frame[top : top + down, left : left + across], width, height)
