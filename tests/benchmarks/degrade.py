"""Degradations of real footage, each at five levels, from slight to strong.

In: `Footage`, frames of a real clip. Out: the frames of a spoiled copy, uint8 [H, W, 3] RGB each, and for a few how they are encoded.
Each does what a user means by its name, and no more; every random number comes from a fixed seed.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256

import cv2
import numpy as np

Frames = Sequence[np.ndarray]
LOSSLESS = {"qp": "0", "preset": "ultrafast"}


@dataclass(frozen=True)
class Footage:
    """A clip to spoil, and more that a degradation may draw on."""

    frames: np.ndarray  # uint8 [T, H, W, 3], T >= length: the clip and what comes after it
    length: int  # frames of the clip itself
    fps: int
    other: np.ndarray  # uint8 [length or more, H, W, 3], another clip of the same size

    @property
    def core(self) -> np.ndarray:
        """The clip itself."""
        return self.frames[: self.length]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.shape[1], self.frames.shape[2]


def clip_itself(footage: Footage, level: float) -> Frames:
    return footage.core


def lossless(level: float) -> dict[str, str]:
    return LOSSLESS


def even_times(num_frames: int, fps: int, level: float) -> list[int] | None:
    return None


@dataclass(frozen=True)
class Degradation:
    """`levels` are in the unit of its functions. `times_ms` gives each frame its own time."""

    name: str
    levels: tuple[float, ...]
    frames: Callable[[Footage, float], Frames] = clip_itself
    encoder: Callable[[float], dict[str, str]] = lossless
    times_ms: Callable[[int, int, float], list[int] | None] = even_times

    @property
    def digest(self) -> str:
        """Changes with its levels and its code, though not with that of helpers: copies made by older code are not taken for its own."""
        code = [inspect.getsource(part) for part in (self.frames, self.encoder, self.times_ms)]
        return sha256(repr((self.levels, code)).encode()).hexdigest()[:12]


def each(picture: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Footage, float], Frames]:
    """A degradation of every picture by itself. picture: uint8 [H, W, 3], level -> uint8 [H, W, 3]."""

    @wraps(picture)
    def frames(footage: Footage, level: float) -> Frames:
        return [picture(one, level) for one in footage.core]

    return frames


def reordered(order: Callable[[int, float], np.ndarray]) -> Callable[[Footage, float], Frames]:
    """A degradation that shows frames in another order. order: (length, level) -> frame numbers, which may be beyond the clip."""

    @wraps(order)
    def frames(footage: Footage, level: float) -> Frames:
        numbers = order(footage.length, level)
        return footage.frames[numbers[numbers < len(footage.frames)]]

    return frames


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


# --- detail ------------------------------------------------------------------------------------------------------------------------


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def noise(footage: Footage, sigma: float) -> Frames:
    """Gaussian, in each frame anew, in luma alone."""
    rng = np.random.default_rng(0)
    return [rounded(one + rng.standard_normal((*footage.size, 1), np.float32) * sigma) for one in footage.core]


def upscale(picture: np.ndarray, factor: float) -> np.ndarray:
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (round(width / factor), round(height / factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(picture: np.ndarray, quality: float) -> np.ndarray:
    """The blocks of old codecs: JPEG of every frame, without a deblocking filter."""
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1], cv2.IMREAD_COLOR)


def banding(picture: np.ndarray, bits: float) -> np.ndarray:
    """Luma at fewer bits."""
    step = 2 ** (8 - bits)
    ycc = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
    ycc[..., 0] = rounded((np.floor(ycc[..., 0] / step) + 0.5) * step)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def ringing(picture: np.ndarray, cutoff: float) -> np.ndarray:
    """A brick-wall low-pass at a share of the highest frequency: edges ring as sinc filters do."""
    height, width = picture.shape[:2]
    within = np.hypot(np.fft.fftfreq(height)[:, None] * 2, np.fft.rfftfreq(width)[None] * 2) <= cutoff
    spectrum = np.fft.rfft2(picture.astype(np.float32), axes=(0, 1)) * within[..., None]
    return rounded(np.fft.irfft2(spectrum, (height, width), axes=(0, 1)))


def oversharpen(picture: np.ndarray, amount: float) -> np.ndarray:
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), 1.5), -amount, 0)


def motion_blur(picture: np.ndarray, share: float) -> np.ndarray:
    """A camera that moved by a share of the width while the shutter was open, along a slight slope."""
    length = max(2, round(share * picture.shape[1]))
    kernel = np.zeros((2 * length + 1, 2 * length + 1), np.float32)
    reach = np.array([np.cos(0.3), np.sin(0.3)]) * length / 2
    ends = [tuple(int(value) for value in np.rint((length + sign * reach) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(picture, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def frame_blend(footage: Footage, number: float) -> Frames:
    """Each frame is the mean of several in a row."""
    last = len(footage.frames) - 1
    return [rounded(footage.frames[np.minimum(np.arange(i, i + int(number)), last)].mean(axis=0)) for i in range(footage.length)]


def interlace(footage: Footage, distance: float) -> Frames:
    """Odd lines come from a frame some frames later."""
    last, frames = len(footage.frames) - 1, footage.core.copy()
    for i in range(footage.length):
        frames[i, 1::2] = footage.frames[min(i + int(distance), last), 1::2]
    return frames


# --- light and color ---------------------------------------------------------------------------------------------------------------


def gain(picture: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(picture, alpha=factor)


def contrast(picture: np.ndarray, share: float) -> np.ndarray:
    return cv2.convertScaleAbs(picture, alpha=share, beta=(1 - share) * float(picture.mean()))


def saturation(picture: np.ndarray, share: float) -> np.ndarray:
    gray = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(picture, share, gray, 1 - share, 0)


def warmth(picture: np.ndarray, amount: float) -> np.ndarray:
    return rounded(picture * np.array([1 + amount, 1, 1 - amount], np.float32))


def color_cast(picture: np.ndarray, amount: float) -> np.ndarray:
    """A magenta filter before the lens."""
    return rounded(picture * np.array([1, 1 - amount, 1], np.float32))


def gamma(picture: np.ndarray, exponent: float) -> np.ndarray:
    return cv2.LUT(picture, rounded(255 * (np.arange(256) / 255) ** exponent))


def light_ramp(picture: np.ndarray, amount: float) -> np.ndarray:
    """Light from the right alone."""
    ramp = np.linspace(1 - amount, 1, picture.shape[1], dtype=np.float32)
    return rounded(picture * ramp[None, :, None])


def _radius(height: int, width: int) -> np.ndarray:
    """Distance from the center, 1 in the corners. float32 [H, W, 1]"""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    return np.sqrt((x**2 * width**2 + y**2 * height**2) / (width**2 + height**2))[..., None]


def vignette(picture: np.ndarray, amount: float) -> np.ndarray:
    return rounded(picture * (1 - amount * _radius(*picture.shape[:2]) ** 2))


def backlight(picture: np.ndarray, amount: float) -> np.ndarray:
    """A dark middle before bright surroundings."""
    weight = np.clip(_radius(*picture.shape[:2]) * 2.4 - 0.6, 0, 1)
    return rounded(picture * (1 - 0.8 * amount) * (1 - weight) + (255 - (255 - picture.astype(np.float32)) * (1 - 0.8 * amount)) * weight)


def flicker(footage: Footage, amount: float) -> Frames:
    factors = 1 + amount * np.random.default_rng(1).uniform(-1, 1, footage.length)
    return [cv2.convertScaleAbs(one, alpha=factor) for one, factor in zip(footage.core, factors, strict=True)]


def color_goes(footage: Footage, amount: float) -> Frames:
    """Colors get warmer from the first frame to the last, as where one generated clip was continued by the next."""
    return [warmth(one, amount * i / (footage.length - 1)) for i, one in enumerate(footage.core)]


def color_drift(footage: Footage, amount: float) -> Frames:
    """White balance that hunts: from warm to cold and back, once in two seconds."""
    turns = amount * np.sin(np.pi * np.arange(footage.length) / footage.fps)
    return [warmth(one, turn) for one, turn in zip(footage.core, turns, strict=True)]


# --- time --------------------------------------------------------------------------------------------------------------------------


def freeze(length: int, share: float) -> np.ndarray:
    """One frame stands for a share of the clip; then it goes on where it was."""
    still, start = round(share * length), round(0.1 * length)
    return np.r_[: start + 1, np.full(still, start), start + 1 : length][:length]


def repeat_every(length: int, every: float) -> np.ndarray:
    """Every k-th frame is shown twice, as where a frame rate was raised."""
    return np.arange(length) * int(every) // (int(every) + 1)


def speed_up(footage: Footage, factor: float) -> Frames:
    """All footage there is, faster: the same scene in less time."""
    return footage.frames[np.arange(0, len(footage.frames) - 0.5, factor).astype(int)]


def slow_repeat(length: int, factor: float) -> np.ndarray:
    return (np.arange(length) / factor).astype(int)


def slow_blend(footage: Footage, factor: float) -> Frames:
    """Slowed down, with frames in between blended from their neighbors."""
    frames = []
    for time in np.arange(footage.length) / factor:
        before, weight = int(time), time % 1
        after = footage.frames[min(before + 1, len(footage.frames) - 1)]
        frames.append(cv2.addWeighted(footage.frames[before], 1 - weight, after, weight, 0))
    return frames


def loop(length: int, times: float) -> np.ndarray:
    """Its first part again and again, in the same total time."""
    return np.arange(length) % round(length / times)


def boomerang(length: int, times: float) -> np.ndarray:
    """Its first part forward, backward, forward …: `times` passes in the same total time."""
    one_way = round(length / times)
    phase = np.arange(length) % (2 * one_way)
    return np.minimum(phase, 2 * one_way - 1 - phase)


def backward(length: int, _: float) -> np.ndarray:
    return np.arange(length)[::-1]


def slideshow(footage: Footage, hold_s: float) -> Frames:
    """Each picture stands for a while."""
    hold = max(1, round(hold_s * footage.fps))
    return footage.frames[np.arange(footage.length) // hold * hold]


def jump_cut(length: int, skip: float) -> np.ndarray:
    """In its middle the clip skips as many frames."""
    return np.arange(length) + int(skip) * (np.arange(length) >= length // 2)


def black_frames(footage: Footage, share: float) -> Frames:
    return _lost(footage, share, 0)


def white_frames(footage: Footage, share: float) -> Frames:
    return _lost(footage, share, 255)


def _lost(footage: Footage, share: float, value: int) -> Frames:
    """Single frames, spread evenly, show nothing. A whole stretch of them would be a fade, which belongs to no clip."""
    frames = footage.core.copy()
    count = max(1, round(share * footage.length))
    frames[np.linspace(2, footage.length - 3, count).round().astype(int)] = value
    return frames


def uneven_times(num_frames: int, fps: int, share: float) -> list[int]:
    """Frames come early or late by up to a share of their duration."""
    offsets = np.random.default_rng(2).uniform(-share, share, num_frames)
    return np.maximum.accumulate(np.rint((np.arange(num_frames) + offsets + 1) * 1000 / fps).astype(int)).tolist()


def crf(level: float) -> dict[str, str]:
    return {"crf": str(int(level)), "preset": "medium"}


def keyframe_interval(frames: float) -> dict[str, str]:
    return LOSSLESS | {"g": str(int(frames)), "sc_threshold": "0"}
