"""A tag group of your own: `reelmill tag DATASET --tagger examples/my_tags.py`.

The tags land in DATASET/tags/grass/ and can be queried, reported and frozen like all others. Raise `version` when the
method changes: clips are then measured again, from their stored keyframes.
"""

import numpy as np

from schemas.tags import TagSpec

GROUP = "grass"
TAGS = (
    TagSpec("content_grass", "content", "float32", "share", 0, 1, "none", "pixels that are clearly green; mean of keyframes"),
    TagSpec("content_green_and_still", "content", "bool", "", None, None, "none", "over a third grass and hardly any motion", needs="tags"),
)
READS = ("motion_mean",)  # tags of other groups that `measure` wants; missing ones are not in clip.tags


def measure(clip):
    """Values of one clip. `clip.keyframes` are its pictures, `clip.clip` and `clip.video` its rows; None says "could not be measured"."""
    shares = []
    for keyframe in clip.keyframes:
        blue, green, red = np.moveaxis(keyframe.bgr.astype(int), 2, 0)
        shares.append(np.mean(green > 20 + np.maximum(red, blue)))
    grass = float(np.mean(shares)) if shares else None
    motion = clip.tags.get("motion_mean")
    return {
        "content_grass": grass,
        "content_green_and_still": None if grass is None or motion is None else bool(grass > 1 / 3 and motion < 0.02),
    }
