"""Videos made by tests, where a real one cannot show exactly what is to be seen; their frames, and how like they are to others."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from curation.frames import decode, open_media, rgb, video_stream


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    source_format: str = "rgb24",
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames (uint8 [H, W, 3] RGB, or as `source_format` says); `times_ms` gives each its own time."""
    with av.open(str(path), "w") as container:
        stream = None
        for index, image in enumerate(frames):
            if stream is None:
                # With more threads x264 gives other bytes on a busy machine.
                stream = container.add_stream(codec, rate=fps, options={"threads": "1", **(options or {})})
                stream.height, stream.width, stream.pix_fmt = *image.shape[:2], pix_fmt
                if times_ms is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(image, format=source_format)
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode())
    return path


def read_frames(path: Path) -> np.ndarray:
    """All frames uint8 [T, H, W, 3] RGB of a video."""
    with open_media(str(path)) as container:
        return np.stack([rgb(picture.frame) for picture in decode(container, video_stream(container))])


def psnr_db(frames: np.ndarray, others: np.ndarray) -> float:
    """Of pictures uint8, or of as many of them."""
    return float(10 * np.log10(255**2 / max(np.mean((frames.astype(np.float64) - others) ** 2), 1e-10)))


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random picture uint8 [H, W] with detail at several scales."""
    import cv2

    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.random((height // s + 2, width // s + 2), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for s in (4, 12, 40)
    ]
    mixed = layers[0] * 0.2 + layers[1] * 0.4 + layers[2]
    return cv2.normalize(mixed, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)
