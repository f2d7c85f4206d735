"""Perceptual hashes, the search for copies by them, and their clusters."""

import numpy as np
import pytest

from curation import dedup
from curation.alignment import Signatures
from curation.dedup import Links, search, stars
from curation.scan import ScanConfig, scan_video
from curation.signals.change import thumbnail
from curation.signals.hashing import STEP_S, Region, content_hash, distance, hash_pictures, hash_sequence, inside_bars, mirrored
from tests.video import texture


def thumb(picture):
    """The luma thumbnail of a picture."""
    return thumbnail(picture, picture[::2, ::2], picture[::2, ::2])[: 24 * 32].reshape(24, 32)


def pan(seed, num_frames=240, step=4):
    """Luma thumbnails of a camera that pans over a wide picture."""
    wide = texture(240, 320 + step * num_frames, seed)
    return np.stack([thumb(wide[:, step * k : step * k + 320]) for k in range(num_frames)])


def signatures(*clips, videos=None):
    """Of clips given as (thumbnails, frames a second)."""
    sequences = [hash_sequence(luma, np.arange(len(luma)) / fps, len(luma) / fps) for luma, fps in clips]
    return Signatures(
        video=np.array(videos or range(len(clips))),
        starts=np.cumsum([0, *(len(one.hashes) for one in sequences)]),
        step_s=np.array([one.step_s for one in sequences]),
        hashes=np.concatenate([one.hashes for one in sequences]),
        told=np.concatenate([one.told for one in sequences]),
    )


def pairs(found):
    return {(one, other, flip) for one, other, flip in zip(found.one.tolist(), found.other.tolist(), found.mirrored.tolist(), strict=True)}


def test_the_hash_of_a_mirrored_picture_is_a_mask_away():
    pictures = np.stack([thumb(texture(240, 320, seed)) for seed in range(20)])
    hashes, told = hash_pictures(pictures)
    turned, _ = hash_pictures(pictures[:, :, ::-1])
    assert told.all()
    assert (turned == mirrored(hashes)).all()
    assert distance(hashes, turned).min() > 16


def test_hashes_outlive_scaling_exposure_and_bars():
    for seed in range(10):
        picture = texture(480, 640, seed)
        barred = np.zeros((640, 640), np.uint8)
        barred[80:560] = picture
        (want,), _ = hash_pictures(thumb(picture)[None])
        (small,), _ = hash_pictures(thumb(picture[::4, ::4])[None])
        (dark,), _ = hash_pictures(thumb((picture * 0.6 + 10).astype(np.uint8))[None])
        (inside,), _ = hash_pictures(thumb(barred)[None], inside_bars(0, 0, 80 / 640, 80 / 640))
        (whole,), _ = hash_pictures(thumb(barred)[None])
        assert max(distance(want, other) for other in (small, dark, inside)) <= 4
        assert distance(want, whole) > 6, "what the region of the active picture is for"


def test_flat_pictures_tell_nothing():
    flat = np.full((3, 24, 32), 16, np.uint8)
    flat[1] += np.random.default_rng(0).integers(0, 2, (24, 32), np.uint8)
    flat[2] = thumb(texture(240, 320))
    hashes, told = hash_pictures(flat)
    assert told.tolist() == [False, False, True]
    assert hashes[:2].tolist() == [0, 0]


def test_bars_come_in_pairs():
    assert inside_bars(0.0, 0.0, 0.12, 0.12) == Region(0, 1, 0.12, 0.88)
    assert inside_bars(0.0, 0.0, 0.12, 0.05) == Region(0, 1, 0.12, 0.88), "subtitles in the lower bar"
    assert inside_bars(0.3, 0.0, 0.0, 0.0) == Region(), "a dark side of the picture"


def test_a_sequence_has_a_hash_a_step_and_short_clips_have_shorter_steps():
    luma = pan(0, 50)
    for num_frames, step_s, count in ((50, STEP_S, 8), (15, STEP_S / 2, 5), (3, STEP_S / 4, 2), (1, STEP_S / 4, 1)):
        sequence = hash_sequence(luma[:num_frames], np.arange(num_frames) / 25, num_frames / 25)
        assert (sequence.step_s, len(sequence.hashes)) == (step_s, count)
    assert len(hash_sequence(luma[:1], np.zeros(1), 0.0).hashes) == 1


def test_content_hashes_tell_every_pixel():
    luma = pan(0, 3)
    other = luma.copy()
    other[2, 5, 5] += 1
    assert content_hash(luma) == content_hash(luma.copy()) != content_hash(other)


def test_copies_are_found_retimed_trimmed_and_mirrored_and_nothing_else():
    original = pan(1)
    clips = [
        (original, 30),
        (original, 30 * 1.25),
        (original, 24),
        (original[::2], 15),
        (original[25:200], 30),
        (original[:, :, ::-1], 30),
        *((pan(seed), 30) for seed in range(2, 8)),
    ]
    found = search(signatures(*clips)).links
    assert {(one, other) for one, other, _ in pairs(found)} >= {(0, copy) for copy in range(1, 6)}
    assert max(found.other) <= 5
    assert all(flip == ((one == 5) != (other == 5)) for one, other, flip in pairs(found))
    whole_in_part = found.covers_one[(found.one == 0) & (found.other == 4)]
    assert whole_in_part == pytest.approx([175 / 240], abs=0.06)


def test_the_order_of_clips_does_not_matter():
    clips = [(pan(seed % 4)[10 * (seed // 4) :], 30) for seed in range(8)]
    there = search(signatures(*clips)).links
    back = search(signatures(*reversed(clips))).links
    assert {(7 - other, 7 - one) for one, other, _ in pairs(back)} == {(one, other) for one, other, _ in pairs(there)}
    assert len(there) >= 4


def test_pieces_of_one_shot_are_not_copies_but_a_replay_is(corpus):
    with scan_video(str(corpus / "intel_bottle-detection.mp4"), ScanConfig()) as scan:
        luma = scan.features.luma.copy()
    pieces = [(luma[first : first + 240], 30) for first in (0, 240, 480)]
    replayed = [*pieces, (np.clip(luma[:240].astype(np.int16) + 6, 0, 255).astype(np.uint8), 30)]
    found = search(signatures(*replayed, videos=[0, 0, 0, 0])).links
    assert pairs(found) == {(0, 3, False)}


def test_a_still_scene_later_in_a_video_is_not_a_copy(corpus):
    with scan_video(str(corpus / "opencv_tree.avi"), ScanConfig()) as scan:
        luma, fps = scan.features.luma.copy(), scan.num_frames / scan.frame_ends[-1]
    pieces = [(luma[18:35], fps), (luma[35:52], fps)]
    assert pairs(search(signatures(*pieces, videos=[0, 1])).links) == {(0, 1, False)}, "in two videos they are as good as one picture"
    assert not pairs(search(signatures(*pieces, videos=[0, 0])).links)


def test_another_take_of_a_scene_is_not_a_copy():
    """The same background, and something that moves another way in front of it."""
    across, down = (np.repeat(pan(8)[:1], 150, axis=0) for _ in range(2))
    for k in range(150):
        across[k, 10:15, k * 26 // 150 :][:, :6] = 240
        down[k, k * 18 // 150 :, 4:9][:6] = 240
    brighter = np.clip(across * 1.1, 0, 255).astype(np.uint8)
    found = search(signatures((across, 30), (down, 30), (brighter, 30)))
    assert pairs(found.links) == {(0, 2, False)}
    assert found.candidates >= 3, "they look alike"


def test_one_still_picture_is_one_proof():
    """A logo turns about as many bits of a still clip as of a moving one, which is too many for one picture, however long it stands."""
    moving = pan(4)
    still = np.repeat(moving[:1], 240, axis=0)
    clips = []
    for luma in (still, moving):
        spoiled = luma.copy()
        spoiled[:, 1:5, 20:25] = 255
        clips += [(luma, 30), (spoiled, 30)]
    found = signatures(*clips)
    first, second, third, fourth = np.split(found.hashes, found.starts[1:-1])
    assert distance(first, second).mean() < distance(third, fourth).mean() < 13
    assert pairs(search(found).links) == {(2, 3, False)}


def test_flat_clips_are_left_out():
    black = np.zeros((60, 24, 32), np.uint8)
    found = search(signatures((black, 30), (black, 30), (pan(5), 30)))
    assert (len(found.links), found.entries > 0) == (0, True)
    for nothing in (signatures((black, 30)), Signatures(*(np.zeros(size, int) for size in (0, 1)), np.zeros(0), *_no_hashes())):
        assert len(search(nothing).links) == 0


def _no_hashes():
    return np.zeros(0, np.uint64), np.zeros(0, bool)


def test_crowded_buckets_are_cut_and_counted(monkeypatch):
    monkeypatch.setattr(dedup, "_WINDOW", 4)
    card = np.repeat(pan(6)[:1], 30, axis=0)
    found = search(signatures(*[(card, 30)] * 20, (pan(7), 30)))
    assert found.skipped > 0
    leaders = stars(found.links, np.arange(21))
    assert 1 < len(set(leaders[:20].tolist())) < 6
    assert leaders[20] == 20


def links(*edges):
    """Links as (one, other, share of one seen in other, share of other seen in one)."""
    one, other, covers_one, covers_other = (np.array(column) for column in zip(*edges, strict=True))
    return Links(one, other, np.zeros(len(one), bool), np.ones(len(one)), covers_one, covers_other)


def test_clusters_are_stars_not_chains():
    chain = links(*((k, k + 1, 1.0, 1.0) for k in range(9)))
    leaders = stars(chain, np.arange(10))
    assert leaders.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert stars(chain, np.arange(10)[::-1]).tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9]


def test_a_better_piece_does_not_stand_for_the_whole():
    part_and_whole = links((0, 1, 1.0, 0.3), (0, 2, 1.0, 1.0), (1, 2, 0.3, 1.0))
    assert stars(part_and_whole, np.array([0, 1, 2])).tolist() == [1, 1, 1]
    nearly_whole = links((0, 1, 1.0, 0.8))
    assert stars(nearly_whole, np.array([0, 1])).tolist() == [0, 0]
