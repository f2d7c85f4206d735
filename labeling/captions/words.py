"""The expressions of words.yaml, compiled."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


@cache
def camera_words(language: str) -> Mapping[str, re.Pattern[str]]:
    """Kind of camera motion -> what names it."""
    return {kind: _any(expressions, language) for kind, expressions in _file()["camera"][language].items()}


@cache
def denial(language: str) -> re.Pattern[str]:
    """What stands before words that it denies."""
    return re.compile(_file()["denial"][language], re.IGNORECASE)


@cache
def opening(kind: str, language: str) -> re.Pattern[str]:
    """How a refusal or boilerplate begins; for `match`."""
    return _any(_file()[kind][language], language)


def _any(expressions: list[str], language: str) -> re.Pattern[str]:
    edge = r"\b" if language == "en" else ""
    return re.compile(f"{edge}({'|'.join(expressions)}){edge}", re.IGNORECASE)


@cache
def _file() -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
