"""Degradations of where things are in the picture: what is laid over it, what frames it, how it is turned, warped and spliced."""

import random

import cv2
import numpy as np

from tests.benchmarks.degrade import Footage, Frames, rounded

_FONT = cv2.FONT_HERSHEY_DUPLEX
_WORDS = ("the", "river", "turned", "slowly", "and", "we", "knew", "that", "nothing", "would", "stay", "before", "winter", "came", "down")


def _texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(_WORDS) for _ in range(6)) for _ in range(count)]


def _write(picture: np.ndarray, text: str, x: int, y: int, height: int, color: tuple[int, int, int] = (255, 255, 255)) -> None:
    """Outlined text of a capital's height in pixels, its baseline at y; in place."""
    scale = height / 21
    for tone, thick in ((0, 0, 0), 4), (color, 1):
        cv2.putText(picture, text, (x, y), _FONT, scale, tone, max(1, round(thick * scale * 1.5)), cv2.LINE_AA)


def _text_width(text: str, height: int) -> int:
    return cv2.getTextSize(text, _FONT, height / 21, 1)[0][0]


# --- laid over the picture ---------------------------------------------------------------------------------------------------------


def burned_text(picture: np.ndarray, lines: float) -> np.ndarray:
    """Lines of text from the top down, where the last level covers the picture."""
    out, height = picture.copy(), max(8, picture.shape[0] // 22)
    for number, text in enumerate(_texts(int(lines))):
        _write(out, text, picture.shape[1] // 20, round(height * (2 + 1.9 * number)), height)
    return out


def subtitles(picture: np.ndarray, size: float) -> np.ndarray:
    """One centered line near the lower edge, with capitals of a share of the picture's height, as wide as fits."""
    out, height = picture.copy(), max(4, round(size * picture.shape[0]))
    text = " ".join(_texts(2, 1))
    while _text_width(text, height) > 0.9 * picture.shape[1]:
        text = text.rsplit(" ", 1)[0]
    _write(out, text, (picture.shape[1] - _text_width(text, height)) // 2, round(0.93 * picture.shape[0]), height)
    return out


def corner_logo(picture: np.ndarray, size: float) -> np.ndarray:
    """A channel's opaque mark in the upper right corner, a share of the width wide."""
    out, side = picture.copy(), round(size * picture.shape[1])
    x, y = picture.shape[1] - side - picture.shape[1] // 30, picture.shape[0] // 25
    center, radius = (x + side // 4, y + side // 4), side // 4
    cv2.circle(out, center, radius, (250, 250, 250), -1, cv2.LINE_AA)
    cv2.circle(out, center, max(1, round(radius * 0.6)), (200, 30, 40), -1, cv2.LINE_AA)
    height = max(5, side // 5)
    _write(out, "TV7", x + side // 2 + side // 16, center[1] + height // 2, height)
    return out


def tiled_watermark(picture: np.ndarray, opacity: float) -> np.ndarray:
    """Slanted words all over the picture, faint to strong."""
    height, width = picture.shape[:2]
    side = int(np.hypot(height, width)) + 2
    layer = np.zeros((side, side), np.uint8)
    capital = max(6, width // 32)
    for row, y in enumerate(range(0, side, capital * 5)):
        for x in range(-(row % 2) * capital * 4, side, capital * 10):
            cv2.putText(layer, "stockfoto", (x, y), _FONT, capital / 21, 255, max(1, capital // 9), cv2.LINE_AA)
    layer = cv2.warpAffine(layer, cv2.getRotationMatrix2D((side / 2, side / 2), 25, 1), (side, side))
    top, left = (side - height) // 2, (side - width) // 2
    weight = layer[top : top + height, left : left + width, None].astype(np.float32) / 255 * opacity
    return rounded(picture * (1 - weight) + 255 * weight)


def mosaic(picture: np.ndarray, share: float) -> np.ndarray:
    """A pixelated region, a share of the picture's area, off its center."""
    out = picture.copy()
    height, width = (round(side * share**0.5) for side in picture.shape[:2])
    block = max(6, picture.shape[1] // 40)
    y, x = (picture.shape[0] - height) // 3, (picture.shape[1] - width) // 3
    region = out[y : y + height, x : x + width]
    small = cv2.resize(region, (max(1, width // block), max(1, height // block)), interpolation=cv2.INTER_AREA)
    out[y : y + height, x : x + width] = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def depth_of_field(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred outside an ellipse in the middle."""
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.float32)
    cv2.ellipse(mask, (width // 2, height // 2), (width // 4, round(height / 2.6)), 0, 0, 360, 1.0, -1)
    weight = cv2.GaussianBlur(mask, (0, 0), width / 60)[..., None]
    return rounded(picture * weight + cv2.GaussianBlur(picture, (0, 0), sigma) * (1 - weight))


def subject_size(footage: Footage, share: float) -> Frames:
    """The middle of another clip before the blurred one: an ellipse, a share of the picture's area."""
    return _subject(footage, share, 0.5)


def subject_offset(footage: Footage, position: float) -> Frames:
    """The same at an eighth of the area, in the middle (0.5 of the width) or further right."""
    return _subject(footage, 0.125, position)


def _subject(footage: Footage, share: float, position: float) -> Frames:
    height, width = footage.size
    radius = np.sqrt(share / np.pi)
    center, axes = (round(position * width), height // 2), (round(radius * width), round(radius * height))
    mask = np.zeros((height, width), np.float32)
    cv2.ellipse(mask, center, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    shift = np.array([[1.0, 0, center[0] - width / 2], [0, 1, 0]])
    out = []
    for ground, subject in zip(footage.core, footage.other, strict=False):
        moved = cv2.warpAffine(subject, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        even = cv2.addWeighted(cv2.GaussianBlur(ground, (0, 0), width / 12), 0.5, np.full_like(ground, 150), 0.5, 0)
        out.append(rounded(moved * mask[..., None] + even * (1 - mask[..., None])))
    return out


def mirrored(picture: np.ndarray, share: float) -> np.ndarray:
    """The right half gives way to the mirror image of the left one, by a share."""
    out, half = picture.copy(), picture.shape[1] // 2
    out[:, -half:] = cv2.addWeighted(picture[:, -half:], 1 - share, np.ascontiguousarray(picture[:, half - 1 :: -1]), share, 0)
    return out


# --- framed ------------------------------------------------------------------------------------------------------------------------


def letterbox(picture: np.ndarray, share: float) -> np.ndarray:
    """Black bars above and below, together a share of the height."""
    out, bar = picture.copy(), round(share * picture.shape[0] / 2)
    out[:bar], out[picture.shape[0] - bar :] = 0, 0
    return out


def pillarbox(picture: np.ndarray, share: float) -> np.ndarray:
    """Black bars left and right, together a share of the width."""
    out, bar = picture.copy(), round(share * picture.shape[1] / 2)
    out[:, :bar], out[:, picture.shape[1] - bar :] = 0, 0
    return out


def side_fill(picture: np.ndarray, core: float) -> np.ndarray:
    """A narrow picture, `core` of the width, over a blurred enlargement of itself."""
    height, width = picture.shape[:2]
    inner = round(core * width / 2) * 2
    left = (width - inner) // 2
    narrow = picture[:, left : left + inner]
    rows = round(inner * height / width)
    wide = cv2.resize(narrow[(height - rows) // 2 : (height - rows) // 2 + rows], (width, height), interpolation=cv2.INTER_LINEAR)
    out = cv2.GaussianBlur(wide, (0, 0), width / 32)
    out[:, left : left + inner] = narrow
    return out


def border(picture: np.ndarray, share: float) -> np.ndarray:
    """The whole picture inside a plain colored frame, whose sides are a share of the shorter side wide."""
    height, width = picture.shape[:2]
    thick = max(1, round(share * min(height, width)))
    out = np.full_like(picture, (214, 196, 150))
    inner = (width - 2 * thick, height - 2 * thick)
    out[thick : height - thick, thick : width - thick] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return out


def split_screen(footage: Footage, share: float) -> Frames:
    """Another clip runs in the right part of the picture, a share of the width."""
    seam, out = round((1 - share) * footage.size[1]), footage.core.copy()
    middle = footage.size[1] // 2 - (footage.size[1] - seam) // 2  # the middle of the other clip
    out[:, :, seam:] = footage.other[: footage.length, :, middle : middle + footage.size[1] - seam]
    return out


# --- turned, warped, shaken --------------------------------------------------------------------------------------------------------


def tilt(picture: np.ndarray, degrees: float) -> np.ndarray:
    """Turned, and enlarged so far that no corner shows."""
    height, width = picture.shape[:2]
    angle = np.deg2rad(degrees)
    scale = np.cos(angle) + np.sin(angle) * max(width / height, height / width)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    return cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)


def quarter_turn(picture: np.ndarray, _: float) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(picture))


def fisheye(picture: np.ndarray, strength: float) -> np.ndarray:
    """Barrel distortion, enlarged so that no border shows: the middle of each side stays where it is or moves out."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    squared = (x**2 * width**2 + y**2 * height**2) / (width**2 + height**2)
    factor = (1 + strength * squared) / (1 + strength)
    map_x, map_y = ((x * factor + 1) * (width - 1) / 2), ((y * factor + 1) * (height - 1) / 2)
    return cv2.remap(picture, map_x, map_y, cv2.INTER_CUBIC)


def fisheye_circle(picture: np.ndarray, radius: float) -> np.ndarray:
    """The round picture of a circular fisheye lens on black: its radius as a share of half the height. Lines bend too."""
    height, width = picture.shape[:2]
    bent, mask = fisheye(picture, 0.5), np.zeros((height, width), np.uint8)
    scale = max(1.0, height / width) * radius
    matrix = np.array([[scale, 0, (1 - scale) * width / 2], [0, scale, (1 - scale) * height / 2]])
    cv2.circle(mask, (width // 2, height // 2), round(radius * min(height, width) / 2), 1, -1, cv2.LINE_AA)
    return cv2.warpAffine(bent, matrix, (width, height)) * mask[..., None]


def wander(footage: Footage, share: float) -> Frames:
    """A view of half the width goes from left to right, by a share of the way there is: it ends in another place than it began."""
    height, width = footage.size
    out, last = [], footage.length - 1
    for i, one in enumerate(footage.core):
        left = width / 4 + (i / last - 0.5) * share * width / 2
        matrix = np.array([[2.0, 0, -2 * left], [0, 2.0, -height / 2]])
        out.append(cv2.warpAffine(one, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    return out


def shake(footage: Footage, amount: float) -> Frames:
    """A hand-held camera's jitter, RMS `amount` of the diagonal, on a picture enlarged to hide the borders."""
    height, width = footage.size
    raw = np.random.default_rng(3).standard_normal((footage.length + 2, 2))
    path = (raw[:-2] + 2 * raw[1:-1] + raw[2:]) / np.sqrt(6) * amount * np.hypot(height, width)
    margin = 1 + 8 * amount
    out = []
    for one, (dx, dy) in zip(footage.core, path, strict=True):
        center = ((width - 1) / 2, (height - 1) / 2)
        matrix = np.array([[margin, 0, center[0] * (1 - margin) + dx], [0, margin, center[1] * (1 - margin) + dy]])
        out.append(cv2.warpAffine(one, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    return out


# --- spliced -----------------------------------------------------------------------------------------------------------------------


def title_card(footage: Footage, share: float) -> Frames:
    """A card with a title stands for the first share of the clip."""
    height, width = footage.size
    card = np.full((height, width, 3), (18, 28, 58), np.uint8)
    for text, capital, y in (("CHAPTER ONE", min(height // 10, width // 18), 0.5), ("the long way home", min(height, width) // 20, 0.66)):
        _write(card, text, (width - _text_width(text, capital)) // 2, round(y * height), capital)
    out = footage.core.copy()
    out[: round(share * footage.length)] = card
    return out


def transition_residue(footage: Footage, opacity: float) -> Frames:
    """The end of a dissolve is left at the start: for a third of a second another clip fades out, from `opacity` on."""
    out, number = footage.core.copy(), max(3, round(footage.fps / 3))
    for i in range(number):
        out[i] = cv2.addWeighted(out[i], 1 - opacity * (1 - i / number), footage.other[i], opacity * (1 - i / number), 0)
    return out
