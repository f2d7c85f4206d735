"""Prompts: versioned files of wording, and the question that one makes of a clip."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Any

from labeling.captions.answer import FIELDS, json_schema
from labeling.captions.backends.protocol import CaptionError
from labeling.captions.camera import MEASURED
from labeling.captions.dialogue import Message
from labeling.captions.pictures import Picture

LANGUAGES = ("en", "zh")
FACT_TAGS = ("motion_camera", "motion_level", "quality_residual_cut", "naturalness_text_area", "content_text")
"""Tags whose values a prompt states."""
_FOLDER = Path(__file__).with_name("prompts")
_NO_CUT = 0.6  # quality_residual_cut beyond which a cut may have been missed
_SOME_TEXT = 0.08  # naturalness_text_area from which text is likely
_LONGEST_TEXT = 300  # characters of text on the screen that are passed on


@dataclass(frozen=True)
class Prompt:
    """One prompt file. `version` is its name, and stands with every caption made with it."""

    version: str
    language: str
    wording: Mapping[str, Any] = field(repr=False, compare=False)

    def messages(self, pictures: Sequence[Picture], duration_s: float, tags: Mapping[str, Any]) -> tuple[Message, ...]:
        """The question about a clip: its pictures with their times, what was measured, and the task."""
        parts: list[str | bytes] = [self._text("intro", count=len(pictures))]
        for picture in pictures:
            parts += [self._text("frame", time=f"{picture.time_s:.2f}"), picture.jpeg]
        fields = "\n".join(f"- {name}: {self.wording['fields'][name]}" for name in FIELDS)
        facts = "\n".join([self.wording["facts"]["heading"], *(f"- {fact}" for fact in self.facts(duration_s, tags))])
        parts += [f"{facts}\n\n{self._text('task', fields=fields)}"]
        return Message("system", (self.wording["system"],)), Message("user", tuple(parts))

    def facts(self, duration_s: float, tags: Mapping[str, Any]) -> list[str]:
        """What was measured of a clip, a sentence each; what was not is left out. `tags`: values of FACT_TAGS."""
        words = self.wording["facts"]
        found = [Template(words["duration"]).substitute(seconds=f"{duration_s:.1f}")]
        if tags.get("quality_residual_cut", 1.0) < _NO_CUT:
            found.append(words["one_shot"])
        if (camera := tags.get("motion_camera")) is not None:
            found.append(words["camera"][camera])
        if (level := tags.get("motion_level")) is not None:
            found.append(words["motion"][level])
        if text := tags.get("content_text"):
            # The blank keeps what was written on a wall from being read as a model's control token, such as <|im_end|>.
            plain = text[:_LONGEST_TEXT].replace("<", "< ")
            found.append(Template(words["text"]).substitute(text=json.dumps(plain, ensure_ascii=False)))
        elif "content_text" not in tags and tags.get("naturalness_text_area", 0.0) >= _SOME_TEXT:
            found.append(words["maybe_text"])
        return found

    def repair(self, problem: str) -> str:
        """How a wrong answer is put back."""
        return self._text("repair", problem=problem, keys=", ".join(FIELDS))

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        return json_schema(self.wording["fields"])

    def _text(self, name: str, **values: object) -> str:
        return Template(self.wording[name]).substitute(values)


def shipped_prompt(language: str) -> Prompt:
    """The newest prompt of a language."""
    newest = max(_FOLDER.glob(f"{language}-*.yaml"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    return Prompt(newest.stem, language, _parsed(newest.read_bytes(), newest))


def read_prompt(path: Path) -> Prompt:
    """A prompt file of the user's. Its version carries a digest, so that a changed text is another version. Raises CaptionError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptionError(f"cannot read the prompt {path}: {error.strerror or error}") from error
    wording = _parsed(data, path)
    stem = re.sub(r"[^\w.-]+", "-", path.stem)
    return Prompt(f"{stem}-{sha256(data).hexdigest()[:8]}", wording["language"], wording)


def _parsed(data: bytes, path: Path) -> dict[str, Any]:
    """The wording of a file, checked against what prompts need, by trying it. Raises CaptionError."""
    import yaml

    try:
        wording = yaml.safe_load(data)
        if wording["language"] not in LANGUAGES:
            raise ValueError(f"language is {wording['language']!r}, not one of {', '.join(LANGUAGES)}")
        _try_all(Prompt("", wording["language"], wording))
    except KeyError as error:
        raise CaptionError(
            f"the prompt {path} has no {error}, or names a ${error} that does not exist; prompts/en-1.yaml shows all parts"
        ) from error
    except (ValueError, TypeError, IndexError, AttributeError, yaml.YAMLError) as error:
        raise CaptionError(
            f"the prompt {path} cannot be used: {' '.join(str(error).split())}; prompts/en-1.yaml shows all parts"
        ) from error
    return wording


def _try_all(prompt: Prompt) -> None:
    for level in range(6):
        prompt.facts(1.0, {"motion_level": level})
    for camera in MEASURED:
        prompt.facts(1.0, {"motion_camera": camera, "quality_residual_cut": 0.0, "naturalness_text_area": 1.0})
    prompt.messages([Picture(0.0, b"")], 1.0, {"content_text": "text"})
    prompt.repair("problem")
    _ = prompt.schema
