"""Tags made from the CLIP embeddings of a clip's keyframes: learned aesthetics, zero-shot classes, likeness of frames.

Probabilities are the model's own softmax (Radford et al. 2021): they sum to 1 over the classes of a set in prompts.yaml, whether or not
the picture shows any of them, and are not calibrated. "Computer-made" classes in particular are told by style, not by forensics.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from labeling.embeddings import DEFAULT_CLIP, ClipEmbedder
from labeling.tagger import ClipView, TaggerError
from labeling.weights import Models, read_tensors
from schemas.tags import TAGS, TagSpec

_LAION = "https://github.com/LAION-AI/aesthetic-predictor/raw/main/"
IMPROVED_WEIGHTS = "sac+logos+ava1-l14-linearMSE.pth"
IMPROVED_SOURCE = f"https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/{IMPROVED_WEIGHTS}"

Prompts = Mapping[str, Sequence[str]]
"""The texts of each class of a set, templates filled in."""

LaionHead = Literal["large", "small"]
_HEADS: dict[str, LaionHead] = {DEFAULT_CLIP: "large", "ViT-B-32-quickgelu/openai": "small"}
_HEAD_FILES = {"large": "sa_0_4_vit_l_14_linear.pth", "small": "sa_0_4_vit_b_32_linear.pth"}


@dataclass(frozen=True)
class ClipTagger:
    """Group `clip`. `head` is LAION's for the model of the embedder; without one aesthetics_laion is null."""

    embedder: ClipEmbedder
    head: LaionHead | None
    group: str = "clip"
    tags: tuple[TagSpec, ...] = tuple(spec for spec in TAGS if spec.needs == "clip")
    reads: tuple[str, ...] = ()
    captioner: None = None

    @classmethod
    def of(cls, embedder: ClipEmbedder) -> "ClipTagger":
        """With the head that was trained on the embedder's model, if there is one. Raises TaggerError if weights are missing."""
        head = _HEADS.get(embedder.model)
        embedder.find()
        if head is not None:
            _head_file(embedder.models, head)
        return cls(embedder, head)

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load the head and encode the prompts. Raises TaggerError if weights are missing or are refused."""
        rate = laion_head(self.embedder.models, self.head) if self.head is not None else None
        sets = {name: zero_shot_classes(prompts, self.embedder.encode_texts) for name, prompts in prompt_sets().items()}
        scale = self.embedder.logit_scale()

        def values(clip: ClipView) -> dict[str, object]:
            frames = _frames(clip)
            if frames is None:
                return {}
            likely = {name: classes.probabilities(frames, scale) for name, classes in sets.items()}
            found: dict[str, object] = {
                "aesthetics_laion": rate(frames) if rate is not None else None,
                "naturalness_source_class": _first(likely["source"]),
                "naturalness_camera_footage": likely["source"]["camera_footage"],
                "naturalness_ai_generated": likely["source"]["ai_generated"],
                "naturalness_start_end_similarity": start_end_similarity(frames),
                "content_frame_similarity": neighbor_similarity(frames),
                "content_indoor": likely["place"]["indoor"],
            }
            for name in ("scene", "subject", "shot_size"):
                found[f"content_{name}"] = _first(likely[name])
                found[f"content_{name}_probability"] = likely[name][_first(likely[name])]
            return found

        return lambda clips: (values(clip) for clip in clips)


@dataclass(frozen=True)
class ImprovedAestheticTagger:
    """Group `clip_mlp`: the improved aesthetic predictor (Schuhmann 2022), trained on OpenAI's ViT-L/14."""

    embedder: ClipEmbedder
    group: str = "clip_mlp"
    tags: tuple[TagSpec, ...] = tuple(spec for spec in TAGS if spec.needs == "clip_mlp")
    reads: tuple[str, ...] = ()
    captioner: None = None

    @classmethod
    def of(cls, embedder: ClipEmbedder) -> "ImprovedAestheticTagger":
        """Raises TaggerError for another model than the one it was trained on, and if weights are missing."""
        if embedder.model != DEFAULT_CLIP:
            raise TaggerError(f"aesthetics_improved was trained on {DEFAULT_CLIP} and cannot read {embedder.model}")
        embedder.find()
        embedder.models.file(IMPROVED_WEIGHTS, IMPROVED_SOURCE)
        return cls(embedder)

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        """Load the layers. Raises TaggerError if their file is missing or is refused."""
        rate = improved_head(self.embedder.models)

        def values(clip: ClipView) -> dict[str, object]:
            frames = _frames(clip)
            return {"aesthetics_improved": rate(frames)} if frames is not None else {}

        return lambda clips: (values(clip) for clip in clips)


@dataclass(frozen=True)
class CaptionTagger:
    """Group `clip_captions`: how well the captions of `captioner` fit the pictures."""

    embedder: ClipEmbedder
    captioner: str
    group: str = "clip_captions"
    tags: tuple[TagSpec, ...] = tuple(spec for spec in TAGS if spec.needs == "clip_captions")
    reads: tuple[str, ...] = ()

    @classmethod
    def of(cls, embedder: ClipEmbedder, captioner: str) -> "CaptionTagger":
        """Raises TaggerError if weights are missing."""
        embedder.find()
        return cls(embedder, captioner)

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        def values(clips: Sequence[ClipView]) -> Iterable[Mapping[str, object]]:
            vectors = iter(self.embedder.encode_texts([clip.caption for clip in clips if clip.caption]))
            for clip in clips:
                frames, caption = _frames(clip), next(vectors) if clip.caption else None
                likeness = None if frames is None or caption is None else caption_similarity(caption, frames)
                yield {"content_caption_similarity": likeness}

        return values


@dataclass(frozen=True)
class ZeroShotClasses:
    """Names of classes and their vectors, float32 [C, D] of unit length."""

    names: tuple[str, ...]
    vectors: np.ndarray

    def probabilities(self, frames: np.ndarray, scale: float) -> dict[str, float]:
        """Probability of each class, mean over frames, float32 [K, D] of unit length; `scale` is the model's inverse temperature."""
        logits = scale * (frames @ self.vectors.T).astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return dict(zip(self.names, (weights / weights.sum(axis=1, keepdims=True)).mean(axis=0).tolist(), strict=True))


@cache
def prompt_sets() -> Mapping[str, Prompts]:
    """The sets of prompts.yaml, by name."""
    import yaml

    sets = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text(encoding="utf-8"))

    def filled(phrases: Sequence[str], templates: Sequence[str]) -> list[str]:
        return [template.format(phrase) for phrase in phrases for template in templates]

    return {name: {label: filled(phrases, one["templates"]) for label, phrases in one["classes"].items()} for name, one in sets.items()}


def zero_shot_classes(prompts: Prompts, encode_texts: Callable[[Sequence[str]], np.ndarray]) -> ZeroShotClasses:
    """A class is the mean of its texts' unit vectors, made unit again (prompt ensembling, Radford et al. 2021, section 3.1.4)."""
    rows = encode_texts([text for texts in prompts.values() for text in texts])
    ends = np.cumsum([len(texts) for texts in prompts.values()])
    means = np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])])
    return ZeroShotClasses(tuple(prompts), means / np.linalg.norm(means, axis=1, keepdims=True))


def start_end_similarity(frames: np.ndarray) -> float | None:
    """Cosine of the first and the last of unit vectors [K, D]; None for fewer than two."""
    return min(float(frames[0] @ frames[-1]), 1.0) if len(frames) > 1 else None


def neighbor_similarity(frames: np.ndarray) -> float | None:
    """Mean cosine of neighbors among unit vectors [K, D]; None for fewer than two."""
    return min(float(np.sum(frames[:-1] * frames[1:], axis=1).mean()), 1.0) if len(frames) > 1 else None


def caption_similarity(caption: np.ndarray, frames: np.ndarray) -> float | None:
    """Mean cosine of a caption's unit vector [D], of `ClipEmbedder.encode_texts`, and unit vectors of frames [K, D]; None without frames.

    CLIPScore (Hessel et al. 2021) is 2.5 times its positive part.
    """
    return float((frames @ caption).mean()) if len(frames) else None


def laion_head(models: Models, size: LaionHead) -> Callable[[np.ndarray], float]:
    """LAION's linear aesthetic head (Schuhmann et al. 2022), as the package aesthetic-predictor builds it.

    The function returned maps float32 [K, D] of unit length to the mean rating over K, about 1 to 10. The file is looked for in the folder
    of models, then where the package keeps it. The package's loader takes no path, fetches what it misses and unpickles; so it is shown a
    folder with only the tensors of our file, read by the reader that refuses all else.
    """
    from aesthetic_predictor import libs

    return _rating(_head_file(models, size), lambda tensors: _build_head(libs, size, tensors))


def _head_file(models: Models, size: LaionHead) -> Path:
    name = _HEAD_FILES[size]
    kept = Path.home() / ".cache/aesthetic_predictor" / name
    return models.find(name, _LAION + name) or (kept if kept.is_file() else models.file(name, _LAION + name))


_BUILDING = threading.Lock()


def _build_head(libs: Any, size: LaionHead, tensors: Mapping[str, Any]) -> Any:
    import torch

    with TemporaryDirectory() as home:
        file = Path(home, ".cache/aesthetic_predictor", _HEAD_FILES[size])
        file.parent.mkdir(parents=True)
        torch.save(dict(tensors), file)
        with _BUILDING:
            path_class, libs.Path = libs.Path, SimpleNamespace(home=lambda: Path(home))
            try:
                return libs.get_aesthetic_model.__wrapped__(size)  # past its cache, which knows sizes and not files
            finally:
                libs.Path = path_class


def improved_head(models: Models) -> Callable[[np.ndarray], float]:
    """The improved aesthetic predictor: five linear layers from 768 to 1 over ViT-L/14, trained on SAC, Logos and AVA. As `laion_head`."""

    def build(tensors: Mapping[str, Any]) -> Any:
        from torch import nn

        network = nn.Sequential(
            *(nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
        )
        network.load_state_dict({key.removeprefix("layers."): value for key, value in tensors.items()})
        return network.eval()

    return _rating(models.file(IMPROVED_WEIGHTS, IMPROVED_SOURCE), build)


def _rating(path: Path, build: Callable[[Mapping[str, Any]], Any]) -> Callable[[np.ndarray], float]:
    import torch

    tensors = read_tensors(path)
    try:
        network = build(tensors)
    except Exception as error:
        raise TaggerError(f"{path} does not fit: {' '.join(str(error).split())[:200]}") from error

    def rate(frames: np.ndarray) -> float:
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(frames, np.float32))).mean().item()

    return rate


def _frames(clip: ClipView) -> np.ndarray | None:
    """Embeddings of a clip's keyframes [K, D], of unit length again after their rounding to float16; None if it has none."""
    if clip.embeddings is None or not len(clip.embeddings):
        return None
    return clip.embeddings / np.linalg.norm(clip.embeddings, axis=1, keepdims=True)


def _first(likely: Mapping[str, float]) -> str:
    """The likeliest class; the first of equals."""
    return max(likely, key=likely.__getitem__)
