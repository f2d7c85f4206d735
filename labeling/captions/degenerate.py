"""Captions that fit their schema and are still worth nothing."""

import re
from collections import Counter
from functools import cache
from typing import Any

from labeling.captions.answer import FIELDS, Caption
from labeling.captions.words import opening
from schemas.records import NullReason

# The largest share of all letters that one n-gram of words may hold which comes three times: Rae et al. 2021 (Gopher), table A1.
_REPEATED = {2: 0.20, 3: 0.18, 4: 0.16}
_TIMES = 3
_IN_A_ROW = 4
_SENTENCE = 5  # words of a sentence that may not come twice
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|「[^」]*」|『[^』]*』|《[^》]*》|'[^']*'")
_HAN_SHARE = {"en": (0.0, 0.2), "zh": (0.5, 1.0)}
_SURE = 0.95  # probability at which another language is believed
_FEWEST_LETTERS = 40
_NOTHING = re.compile(r"(n/?a|none|null|unknown|string|text|无|未知|\W*)\.?", re.IGNORECASE)


def degeneration(caption: Caption, language: str) -> NullReason | None:
    """What is wrong with a caption as a whole; None if it is worth keeping."""
    if any(_NOTHING.fullmatch(text) or text.lower().replace(" ", "_") in FIELDS for text in caption.lengths):
        return NullReason.EMPTY
    if any(is_refusal(text) for text in caption.lengths):
        return NullReason.REFUSAL
    if any(is_repetitive(text) for text in caption.lengths):
        return NullReason.REPETITION
    if not all(_is_in_script(text, language) for text in caption.lengths) or is_foreign(caption.caption_dense, language):
        return NullReason.LANGUAGE
    if any(opening("boilerplate", language).match(text) for text in caption.lengths):
        return NullReason.BOILERPLATE
    return None


def is_refusal(text: str) -> bool:
    """Whether a text begins like the answer of a model that would not or could not."""
    text = text.replace("’", "'").strip().lstrip("\"'")
    return any(opening("refusal", language).match(text) for language in ("en", "zh"))


def is_repetitive(text: str) -> bool:
    """Whether a text goes in circles: a word four times in a row, a sentence twice, or an n-gram of words that holds too much of it."""
    words = _words(text)
    if any(len(set(words[at : at + _IN_A_ROW])) == 1 for at in range(len(words) - _IN_A_ROW + 1)):
        return True
    sentences = Counter(tuple(_words(sentence)) for sentence in re.split(r"[.!?。！？;；\n]+", text))
    if any(count > 1 and len(sentence) >= _SENTENCE for sentence, count in sentences.items()):
        return True
    letters = sum(map(len, words))
    for size, limit in _REPEATED.items():
        grams = Counter(tuple(words[at : at + size]) for at in range(len(words) - size + 1))
        if any(count >= _TIMES and count * sum(map(len, gram)) > limit * letters for gram, count in grams.items()):
            return True
    return False


def _words(text: str) -> list[str]:
    """Words of a text, in lower case; pairs of characters where it is Chinese, whose words are mostly of two."""
    spaced = re.sub(r"([\u3400-\u9fff]{1,2})", r" \1 ", text.lower())
    return re.findall(r"[^\W_]+", spaced)


def _is_in_script(text: str, language: str) -> bool:
    """Whether a text has as many Chinese characters among its letters as its language should; what it quotes is left out."""
    plain = _QUOTED.sub("", text)
    letters = len(_LETTER.findall(plain))
    low, high = _HAN_SHARE[language]
    return not letters or low <= len(_HAN.findall(plain)) / letters <= high


def is_foreign(text: str, language: str) -> bool:
    """Whether a text is surely of another language, by its byte n-grams (langid, Lui and Baldwin 2012). Short ones never are."""
    plain = _QUOTED.sub("", text)
    if len(_LETTER.findall(plain)) < _FEWEST_LETTERS * (0.5 if language == "zh" else 1):
        return False
    found, probability = language_identifier().classify(plain)
    return found != language and probability >= _SURE


@cache
def language_identifier() -> Any:
    """py3langid's identifier of 97 languages, loaded once: half a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
