"""Plug-in taggers: a tag group in one Python file of the user's, which sees clips as every other tagger does.

The file defines GROUP (a name), TAGS (TagSpecs), `measure(clip) -> {tag: value}` and, where it computes from other tags, READS.
It runs with the rights of the user, like any script of theirs; examples/my_tags.py is one.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from labeling.tagger import ClipView, TaggerError
from schemas.tags import DIMENSIONS, TAGS, TagSpec, groups, tag

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class PluginTagger:
    """A tagger read from a file. It carries the file's text, so that workers anywhere can run it."""

    path: str
    text: str
    group: str
    tags: tuple[TagSpec, ...]
    reads: tuple[str, ...]
    embedder: None = None
    captioner: None = None

    def open(self) -> Callable[[Sequence[ClipView]], Iterable[Mapping[str, object]]]:
        measure = _module(self.path, self.text).measure
        return lambda clips: [self._checked(measure(clip)) for clip in clips]

    def _checked(self, values: Mapping[str, object]) -> Mapping[str, object]:
        if unknown := set(values) - {spec.name for spec in self.tags}:
            raise ValueError(f"measure() gave {', '.join(sorted(unknown))}, which TAGS does not list")
        return values


def load_plugin(path: str) -> PluginTagger:
    """The tagger of a file. Raises TaggerError, which says what is wrong with it."""
    text = Path(path).read_text()
    try:
        module = _module(path, text)
    except Exception as error:
        raise TaggerError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    missing = [name for name in ("GROUP", "TAGS", "measure") if not hasattr(module, name)]
    if missing:
        raise TaggerError(f"{path} defines no {', '.join(missing)}; examples/my_tags.py shows what a tagger needs")
    tagger = PluginTagger(path, text, module.GROUP, tuple(module.TAGS), tuple(getattr(module, "READS", ())))
    _check(tagger)
    return tagger


def _check(tagger: PluginTagger) -> None:
    ours = {spec.name for spec in TAGS}
    if not _NAME.fullmatch(tagger.group) or tagger.group in groups():
        raise TaggerError(f"{tagger.path}: GROUP {tagger.group!r} must be lower-case letters, digits and _, and not one of Reelmill's own")
    if not tagger.tags:
        raise TaggerError(f"{tagger.path}: TAGS is empty")
    for spec in tagger.tags:
        if spec.dimension not in DIMENSIONS or not re.fullmatch(rf"{spec.dimension}_[a-z0-9_]+", spec.name):
            raise TaggerError(f"{tagger.path}: tag {spec.name!r} must be <dimension>_<name>, dimension one of {', '.join(DIMENSIONS)}")
        if spec.name in ours:
            raise TaggerError(f"{tagger.path}: tag {spec.name!r} is one of Reelmill's own")
    for name in tagger.reads:
        tag(name)  # raises for one that is not known


@lru_cache
def _module(path: str, text: str) -> ModuleType:
    module = ModuleType(Path(path).stem)
    module.__file__ = path
    exec(compile(text, path, "exec"), module.__dict__)
    return module
