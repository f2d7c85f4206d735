"""The reference of quality_naturalness_distance: means and deviations of scene statistics over good pictures.

    python tests/benchmarks/scene_statistics.py

Prints the two tables that stand in curation/signals/scenestats.py. Pictures are keyframes as the scan stores them, of camera clips that
tag_validity.py does not use, and the two photographs that scikit-learn ships. As in NIQE, only patches with at least half the local
contrast of the picture's best count; each source gives at most 60.
"""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

ROOT = Path(__file__).parents[2]
CORPUS = Path(os.environ.get("REELMILL_CORPUS", ROOT.parent / "shared"))
sys.path.insert(0, str(ROOT))

from curation.frames import decode, open_media, video_stream  # noqa: E402
from curation.keyframes import encode  # noqa: E402
from curation.probe import probe  # noqa: E402
from curation.signals.planes import resize_down  # noqa: E402
from curation.signals.scenestats import patch_contrast, patch_statistics  # noqa: E402

CLIPS = (
    "finetrainers_hiker.mp4",
    "cogvideo_in_horse.mp4",
    "cogvideo_in_train.mp4",
    "vgen_1066674877.mp4",
    "panda_sample_0WjR6cSMi2A.3.mp4",
    "videollava_sample_demo_3.mp4",
    "videollava_sample_demo_9.mp4",
    "mmaction2_demo.mp4",
    "moviepy_video_with_failing_audio.mp4",
    "nodeopencv_motion.mov",
    "mmaction2_test_video_structuralize.mp4",
    "moviepy_chaplin.mp4",
    "internvid_example1.mp4",
)
EVERY, PICTURES, PATCHES = 40, 8, 60


def stills(name: str) -> list[np.ndarray]:
    """Luma of some keyframes of a clip."""
    with open_media(str(CORPUS / "videos" / name)) as container:
        stream = video_stream(container)
        frames = [one.frame for one in decode(container, stream) if one.index % EVERY == 0][:PICTURES]
        facts = probe(container, stream, frames[0])
        return [cv2.imdecode(np.frombuffer(encode(frame, facts, 512, 90).jpeg, np.uint8), cv2.IMREAD_GRAYSCALE) for frame in frames]


def good_patches(pictures: list[np.ndarray]) -> np.ndarray:
    parts = []
    for luma in pictures:
        contrast = patch_contrast(luma)
        parts.append(patch_statistics(luma)[contrast >= 0.5 * contrast.max()])
    whole = np.concatenate(parts)
    return whole[np.linspace(0, len(whole) - 1, min(PATCHES, len(whole))).astype(int)]


def main() -> None:
    photographs = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in load_sample_images().images]
    photographs = [resize_down(luma, (512, luma.shape[0] * 512 // luma.shape[1])) for luma in photographs]
    patches = np.concatenate([good_patches(pictures) for pictures in [*map(stills, CLIPS), photographs]])
    print(f"{len(patches)} patches")
    for name, values in (("mean", patches.mean(axis=0)), ("deviation", patches.std(axis=0))):
        print(name, np.array2string(values.reshape(2, 8), precision=2, separator=", ", max_line_width=120))


if __name__ == "__main__":
    main()
