"""Text in a clip's keyframes, by PP-OCRv6 small as packed by rapidocr: its models lie in its wheel, nothing is fetched.

The models read Latin, Chinese, Japanese and Greek script. Text of other scripts is found, and counts as area if something passes for
it, but it is not read. Faint watermarks are missed; signs are read like titles.
"""

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import cv2
import numpy as np

from labeling.tagger import ClipView, TaggerError
from schemas.tags import TAGS, TagSpec

_TAGS = tuple(spec for spec in TAGS if spec.needs == "ocr")
_DETECTION, _RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
_LONGEST_SIDE = 2000  # of what rapidocr looks at
_ALIKE = 0.75  # readings of one line differ in few letters
_PART = 1 / 3  # a shorter piece of a line is a text of its own
_IN_PLACE = 0.5  # intersection over union of a line's boxes in two keyframes
_CHANGED_LEVELS = 12  # of 255; more than the noise of a small picture
_STILL = 0.02  # share of a picture that may change while it stands still
_MOVED = 0.25  # share that has to change before text is called fixed to the screen
_BAND_TOP = 0.68  # subtitles lie below, as a share of the height,
_OFF_CENTER = 0.1  # with their middle at most this far from the picture's, as a share of the width,
_TALLEST = 0.12  # and are not taller than this
_SCRIPTS = {"LATIN": "latin", "CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "GREEK": "greek"}


@dataclass(frozen=True)
class Line:
    """A line of text in one picture."""

    text: str  # without control characters
    score: float  # mean confidence of its letters
    box: np.ndarray  # float [4, 2], its corners, x and y as shares of the picture


@dataclass(frozen=True)
class OcrTagger:
    """Group `ocr`: what is written, how much of the picture it covers, and which of it are subtitles and watermarks."""

    min_score: float = 0.8  # of text that is quoted; below lies guesswork at tiny letters
    min_area_score: float = 0.5  # of text that counts as area; below, the detector mostly took texture for text
    pixels: int = 960_000  # what keyframes are enlarged to: small letters are found that are missed at 512 px
    threads: int = 1
    group: str = "ocr"
    tags: tuple[TagSpec, ...] = _TAGS
    reads: tuple[str, ...] = ()
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load the models. Raises TaggerError if the package or its models are not installed."""
        read = reader(self.pixels, self.min_area_score, self.threads)
        return lambda clips: (
            text_tags(pictures, [read(picture) for picture in pictures], self.min_score)
            for pictures in ([keyframe.bgr for keyframe in clip.keyframes] for clip in clips)
        )


def reader(pixels: int, min_score: float, threads: int) -> Callable[[np.ndarray], list[Line]]:
    """A function from a picture, uint8 [H, W, 3] BGR, to its lines of two and more letters or digits, from top to bottom."""
    try:
        import rapidocr
    except ImportError as error:
        raise TaggerError(f"tag group ocr needs a package that is missing ({error}): pip install 'reelmill[ocr]'") from error
    models = Path(rapidocr.__file__).parent / "models"
    if missing := [name for name in (_DETECTION, _RECOGNITION) if not (models / name).is_file()]:
        raise TaggerError(f"no {missing[0]} in {models}: it comes with rapidocr 3.10, pip install 'reelmill[ocr]'")
    engine = rapidocr.RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,  # films are not upside down
            "Global.text_score": min_score,
            "Global.max_side_len": _LONGEST_SIDE,
            "Det.model_path": str(models / _DETECTION),  # models named by path are never fetched
            "Rec.model_path": str(models / _RECOGNITION),
            "Det.limit_type": "max",
            "Det.limit_side_len": _LONGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": threads,
        }
    )

    def read(picture: np.ndarray) -> list[Line]:
        height, width = picture.shape[:2]
        scale = min((pixels / (height * width)) ** 0.5, _LONGEST_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        found = engine(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC))
        if found.txts is None:
            return []
        boxes = [box / size for box in found.boxes]
        lines = [Line(printable(text), float(score), box) for text, score, box in zip(found.txts, found.scores, boxes, strict=True)]
        # A single letter is how texture is read, up to the whole picture.
        return sorted((line for line in lines if sum(map(str.isalnum, line.text)) > 1), key=lambda line: float(line.box[:, 1].mean()))

    return read


def printable(text: str) -> str:
    """A text without control and private characters, in one line."""
    return " ".join("".join(letter if letter.isspace() or unicodedata.category(letter)[0] != "C" else "" for letter in text).split())


def text_tags(pictures: Sequence[np.ndarray], lines: Sequence[Sequence[Line]], min_score: float) -> dict[str, object]:
    """Tags of a clip from its keyframes, each uint8 [H, W, 3] BGR, and the lines found in each."""
    if not pictures:
        return {}
    legible = [[line for line in some if line.score >= min_score] for some in lines]
    text = distinct(line for some in legible for line in some)
    change = changed_share(pictures)
    subtitles = [[line for line in some if _is_subtitle(line)] for some in legible]
    others = [[line for line in some if not _is_subtitle(line)] for some in legible]
    return {
        "content_text": " | ".join(text),
        "content_text_script": script(" ".join(text)),
        "content_subtitle_text": None if change < _STILL else " | ".join(distinct(line for some in subtitles for line in some)),
        "content_watermark_text": None if change < _MOVED else " | ".join(distinct(_fixed(others))),
        "naturalness_ocr_text_area": float(np.mean([covered_share(some) for some in lines])),
    }


def distinct(lines: Iterable[Line]) -> list[str]:
    """Texts that differ, in the order they came: of readings of one line the surest, or one that is clearly longer."""
    kept: list[Line] = []
    for line in lines:
        same = next((number for number, other in enumerate(kept) if is_same(line.text, other.text)), None)
        if same is None:
            kept.append(line)
        elif (more := len(line.text) - len(kept[same].text)) > 1 or (more >= -1 and line.score > kept[same].score):
            kept[same] = line
    return [line.text for line in kept]


def is_same(one: str, other: str) -> bool:
    """Whether two readings are of one text, or one is of a part of it."""
    one, other = one.casefold().replace(" ", ""), other.casefold().replace(" ", "")
    short, long = sorted((one, other), key=len)
    if len(short) < _PART * len(long):
        return False
    return short in long or SequenceMatcher(None, one, other, autojunk=False).ratio() >= _ALIKE


def script(text: str) -> str | None:
    """The script of most letters, None without letters: latin, han, kana (any in Han means Japanese), greek, other; or mixed."""
    counts = Counter(_SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0], "other") for letter in text if letter.isalpha())
    if counts["kana"]:
        counts["kana"] += counts.pop("han", 0)
    if not counts:
        return None
    name, most = counts.most_common(1)[0]
    return name if most >= 0.8 * counts.total() else "mixed"


def changed_share(pictures: Sequence[np.ndarray]) -> float:
    """Share of the picture that changes from the first keyframe to the one most unlike it; 0 for one keyframe."""
    small = [cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (64, 64), interpolation=cv2.INTER_AREA) for picture in pictures]
    return max(float(np.mean(cv2.absdiff(small[0], other) > _CHANGED_LEVELS)) for other in small)


def covered_share(lines: Iterable[Line]) -> float:
    """Share of the picture under the boxes of some lines."""
    mask = np.zeros((256, 256), np.uint8)
    for line in lines:
        cv2.fillPoly(mask, [np.round(line.box * 255).astype(np.int32)], 1)
    return float(mask.mean())


def _is_subtitle(line: Line) -> bool:
    (left, top), (right, bottom) = line.box.min(axis=0), line.box.max(axis=0)
    is_centered = abs((left + right) / 2 - 0.5) <= _OFF_CENTER
    return bool((top + bottom) / 2 >= _BAND_TOP and is_centered and bottom - top <= _TALLEST)


def _fixed(lines: Sequence[Sequence[Line]]) -> Iterator[Line]:
    """Lines of the first keyframe that are in all others too, at the same place, with what they were read as there."""
    first, *rest = lines
    for line in first:
        again = [[other for other in some if is_same(line.text, other.text) and overlap(line.box, other.box) >= _IN_PLACE] for some in rest]
        if all(again):
            yield from [line, *itertools.chain(*again)]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the upright rectangles around two boxes, [4, 2] each."""
    low, high = np.maximum(one.min(axis=0), other.min(axis=0)), np.minimum(one.max(axis=0), other.max(axis=0))
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = sum(float(np.prod(box.max(axis=0) - box.min(axis=0))) for box in (one, other))
    return shared / max(areas - shared, 1e-12)
