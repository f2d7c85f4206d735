"""Which taggers a command runs: by profile, by group, and from a user's files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

from schemas.tags import SCAN_GROUPS, WEIGHT_FREE, groups

if TYPE_CHECKING:
    from labeling.embeddings import ClipEmbedder
    from labeling.tagger import Tagger
    from labeling.weights import Models


class Profile(StrEnum):
    CPU = "cpu"
    FULL = "full"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class GroupError(ValueError):
    """A tag group that is not known, or that this command does not make."""


@dataclass(frozen=True)
class Weights:
    """Where models come from and where they run: the options that commands with models share."""

    models: str | None = None
    allow_download: bool = False
    clip_model: str | None = None
    device: Device = Device.AUTO
    captioner: str | None = None

    def find_models(self) -> "Models":
        from labeling.weights import Models

        return Models(self.models, self.allow_download)

    def embedder(self) -> "ClipEmbedder":
        from labeling.embeddings import DEFAULT_CLIP, ClipEmbedder

        return ClipEmbedder(self.clip_model or DEFAULT_CLIP, self.find_models(), self.device.value)


def check_groups(names: Iterable[str]) -> None:
    """Raises GroupError for a group that cannot be asked for."""
    for name in names:
        if name == "dedup":
            raise GroupError("the group dedup compares all clips with each other: run `reelmill dedup DATASET`")
        if name not in groups():
            near = get_close_matches(name, groups(), 1, cutoff=0)[0]
            raise GroupError(f"unknown tag group {name!r}; did you mean {near!r}? `reelmill tags` lists all")


def taggers_of(names: Iterable[str], weights: Weights) -> list["Tagger"]:
    """The taggers of these groups; scan groups have none. What a model needs is looked for here, so that a missing file is said at once.

    Raises TaggerError, which names the missing file, where to get it and the flag.
    """
    return [_MAKERS[name](weights) for name in dict.fromkeys(names) if name not in SCAN_GROUPS]


def profile_groups(profile: Profile, weights: Weights) -> tuple[list[str], list[str]]:
    """Groups of a profile, and a line for each that is left out because its weights, which are optional, are not there."""
    if profile is Profile.CPU:
        return list(WEIGHT_FREE), []
    from labeling.embeddings import DEFAULT_CLIP
    from labeling.taggers import clip, faces, nsfw

    models = weights.find_models()
    optional = {
        "clip_mlp": (clip.IMPROVED_WEIGHTS, clip.IMPROVED_SOURCE),
        "faces": (faces.WEIGHTS, faces.SOURCE),
        "nsfw": (nsfw.WEIGHTS, nsfw.SOURCE),
    }
    if weights.embedder().model != DEFAULT_CLIP:
        del optional["clip_mlp"]  # it reads that model's embeddings only
    absent = [name for name, needed in optional.items() if not weights.allow_download and not models.find(*needed)]
    lines = [f"{name} is left out: {optional[name][0]} is not there (get it from {optional[name][1]}, see --models)" for name in absent]
    return [*WEIGHT_FREE, "clip", "ocr", *(name for name in optional if name not in absent)], lines


def _keyframes(weights: Weights) -> "Tagger":
    from labeling.taggers.keyframes import KeyframeTagger

    return KeyframeTagger()


def _scores(weights: Weights) -> "Tagger":
    from labeling.scores import ScoreTagger

    return ScoreTagger()


def _clip(weights: Weights) -> "Tagger":
    from labeling.taggers.clip import ClipTagger

    return ClipTagger.of(weights.embedder())


def _clip_mlp(weights: Weights) -> "Tagger":
    from labeling.taggers.clip import ImprovedAestheticTagger

    return ImprovedAestheticTagger.of(weights.embedder())


def _clip_captions(weights: Weights) -> "Tagger":
    from labeling.taggers.clip import CaptionTagger

    if weights.captioner is None:
        raise GroupError("the group clip_captions needs captions: run `reelmill caption`, or choose whose with --captions")
    return CaptionTagger.of(weights.embedder(), weights.captioner)


def _ocr(weights: Weights) -> "Tagger":
    from labeling.taggers.ocr import OcrTagger

    return OcrTagger()


def _faces(weights: Weights) -> "Tagger":
    from labeling.taggers.faces import FaceTagger

    return FaceTagger(weights.find_models())


def _nsfw(weights: Weights) -> "Tagger":
    from labeling.taggers.nsfw import NsfwTagger

    return NsfwTagger(weights.find_models())


_MAKERS = {
    "keyframes": _keyframes,
    "scores": _scores,
    "clip": _clip,
    "clip_mlp": _clip_mlp,
    "clip_captions": _clip_captions,
    "ocr": _ocr,
    "faces": _faces,
    "nsfw": _nsfw,
}


def plugins(paths: Sequence[str]) -> list["Tagger"]:
    """The taggers of users' files. Raises TaggerError."""
    from labeling.plugin import load_plugin

    return [load_plugin(path) for path in paths]
