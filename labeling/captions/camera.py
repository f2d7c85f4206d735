"""Whether what a caption says of the camera fits what was measured."""

from labeling.captions.words import camera_words, denial

_DIRECTIONS = ("pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll")
_FITTING = {
    **{kind: {kind, "moving"} for kind in _DIRECTIONS},
    "static": {"static"},
    "handheld": {"handheld", "moving"},
    "mixed": {*_DIRECTIONS, "handheld", "moving"},
}
"""Measured kind of motion -> what may be said of it."""
MEASURED = tuple(_FITTING)
"""The values of the tag motion_camera."""


def camera_agrees(words: str, language: str, measured: str | None) -> bool | None:
    """Whether the words of a caption's `camera` fit the tag motion_camera. None where it was not measured, or they name no motion.

    Words agree if any motion that they name fits. A direction is more than "pans": where one is named, a bare "pans" says nothing.
    """
    said = named_motions(words, language)
    if measured is None or not said:
        return None
    return bool(said & _FITTING[measured])


def named_motions(words: str, language: str) -> frozenset[str]:
    """The kinds of motion that words name and do not deny: those of motion_camera but mixed, and "moving" for any without a direction."""
    said = set()
    for kind, expression in camera_words(language).items():
        if any(not denial(language).search(words[: match.start()]) for match in expression.finditer(words)):
            said.add(kind)
    if said & {*_DIRECTIONS}:
        said.discard("moving")
    return frozenset(said)
