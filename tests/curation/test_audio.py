"""Sound measured in the pass: levels and kinds of sound with known truth, alignment, and damage that must stay in the sound."""

import subprocess
from dataclasses import replace

import imageio_ffmpeg
import numpy as np
import pytest

from curation.audio import SoundMeter
from curation.frames import decode, open_media, video_stream
from curation.rows import rows
from curation.scan import ScanConfig, scan_video
from curation.signals.sound import FLOOR_DB, RATE, SLOT, SLOT_S, Slots, low_energy, measure, shares, syllabic
from curation.sources import Found, identify
from schemas.records import TagRecord
from schemas.tags import TAGS

SOUND = sorted(tag.name for tag in TAGS if tag.dimension == "content" and tag.needs == "scan" and tag.name != "content_dominant_color")


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True)


def scanned(path, threads=1):
    with scan_video(str(path), ScanConfig(), threads) as scan:
        return list(rows(scan, identify(Found(str(path))), ScanConfig())), scan


def sound_tags(path):
    found, _ = scanned(path)
    return [{name: row.values[name] for name in SOUND} for row in found if isinstance(row, TagRecord) and row.group == "content"]


def sound_of(path):
    """Slots of a whole file."""
    with open_media(str(path)) as container:
        meter = SoundMeter.of(container)
        for packet in container.demux(container.streams.audio[0]):
            meter.take(packet)
        return meter.finish(0.0)


def with_sound(path, source, seconds=4, video="testsrc=size=160x90:rate=25", codec=("-c:a", "aac", "-b:a", "96k"), before=()):
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        video,
        *before,
        "-f",
        "lavfi",
        "-i",
        source,
        "-t",
        seconds,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        *codec,
        path,
    )
    return path


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [
        ("v2d_test_video.mp4", "speech", 0.7),
        ("torchcodec_nasa_13013.mp4", "speech", 0.7),
        ("kphotoalbum_movie.avi", "speech", 0.7),
        ("mmaction2_test.avi", "speech", 0.7),
        ("moviepy_chaplin.mp4", "music", 0.9),
        ("panda_sample_0WjR6cSMi2A.3.mp4", "music", 0.9),
        ("moviepy_big_buck_bunny_0_30.webm", "music", 0.7),
        ("daft_sample_video.mp4", "music", 0.5),
        ("dj_video11.mp4", "silence", 1.0),
    ],
)
def test_real_sound_is_told_apart(corpus, name, kind, least):
    found = shares(sound_of(corpus / name).slots, 0.0)
    assert getattr(found, kind) >= least
    assert found.speech + found.music + found.silence <= 1 + 1e-6


@pytest.mark.parametrize(
    ("source", "loudness", "music", "silence"),
    [
        ("sine=frequency=440:sample_rate=44100", -21.1, 1, 0),  # ffmpeg's sine has an amplitude of 1/8
        ("anullsrc=channel_layout=stereo:sample_rate=48000", FLOOR_DB, 0, 1),
        ("anoisesrc=amplitude=0.1:color=white:seed=1:sample_rate=16000", -24.8, 0, 0),  # even over +-0.1: 0.1 / sqrt(3)
    ],
)
def test_levels_and_kinds_of_made_sound(tmp_path, source, loudness, music, silence):
    (tags,) = sound_tags(with_sound(tmp_path / "made.mp4", source))
    assert tags["content_loudness"] == pytest.approx(loudness, abs=1.0)
    assert (tags["content_music_share"], tags["content_silence_share"]) == pytest.approx((music, silence), abs=0.03)
    assert tags["content_speech_share"] == 0
    assert tags["content_sound_share"] == pytest.approx(1, abs=0.05)


def test_a_video_without_sound_has_no_values(corpus):
    for name in ("torchcodec_av1_video.mkv", "imageio_newtonscradle.gif"):
        assert all(value is None for tags in sound_tags(corpus / name) for value in tags.values())


@pytest.mark.parametrize("name", ["shift.mkv", "shift.ts"])
def test_sound_is_placed_on_the_clock_of_the_pictures(tmp_path, name):
    """A second of silence, then a tone, in a file whose pictures start half a second after the sound."""
    source = "sine=frequency=440:sample_rate=48000,volume=0:enable='lt(t,1.5)'"
    with_sound(tmp_path / "even.mkv", source)
    ffmpeg(
        "-itsoffset",
        "0.5",
        "-i",
        tmp_path / "even.mkv",
        "-i",
        tmp_path / "even.mkv",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c",
        "copy",
        tmp_path / name,
    )
    with scan_video(str(tmp_path / name), ScanConfig()) as scan:
        slots = scan.sound.slots
    first = slots.time_s[slots.level_db > -50][0]
    assert first == pytest.approx(1.0, abs=0.06)


def test_a_gap_in_the_sound_is_left_out(tmp_path):
    source = "sine=frequency=440:sample_rate=48000,aselect='lt(t,1)+gt(t,3)'"
    (tags,) = sound_tags(with_sound(tmp_path / "gap.mkv", source, codec=("-c:a", "libopus")))
    assert tags["content_sound_share"] == pytest.approx(0.5, abs=0.1)


def _no_sound(found):
    """Rows less what the sound says."""
    return [
        replace(row, values={name: value for name, value in row.values.items() if name not in SOUND}) if isinstance(row, TagRecord) else row
        for row in found
    ]


@pytest.mark.parametrize("name", ["decord_flipping_a_pancake.mkv", "moviepy_video_with_failing_audio.mp4", "mmaction2_test.avi"])
def test_damaged_sound_leaves_the_pictures_as_they_are(corpus, tmp_path, monkeypatch, name):
    """Every audio packet but the first few is noise; and with no sound measured at all, all else is the same."""
    source, whole = corpus / name, scanned(corpus / name)
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(3)
    with open_media(str(source)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(container.streams.audio[0]) if packet.pos and packet.size > 20]
    for place, size in places[5:]:
        data[place + 8 : place + size - 4] = rng.bytes(size - 12)
    (tmp_path / name).write_bytes(data)
    damaged = scanned(tmp_path / name)
    np.testing.assert_array_equal(damaged[1].features.thumbnails, whole[1].features.thumbnails)
    assert damaged[1].log.flaws == whole[1].log.flaws
    if not name.endswith(".mkv"):  # noise is good Opus
        assert damaged[1].sound.errors > 10
        assert len(damaged[1].sound.slots.time_s) < 0.9 * len(whole[1].sound.slots.time_s), "what cannot be decoded is left out"
    monkeypatch.setattr(SoundMeter, "of", classmethod(lambda cls, container: None))
    without = scanned(source)
    assert _no_sound(without[0]) == _no_sound(whole[0])


def test_threads_do_not_change_the_sound(corpus):
    one, two = (scanned(corpus / "dj_video1.mp4", threads)[0] for threads in (1, 2))
    assert one == two


def test_pictures_alone_need_no_sound(corpus):
    with open_media(str(corpus / "dj_video1.mp4")) as container:
        assert sum(1 for _ in decode(container, video_stream(container))) == 282


def test_slots_of_known_samples():
    time = np.arange(SLOT * 4) / RATE
    sine = (32767 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16).reshape(4, SLOT)
    noise = np.random.default_rng(0).integers(-32768, 32767, (4, SLOT)).astype(np.int16)
    silence = np.zeros((4, SLOT), np.int16)
    level, crossings, flatness = measure(np.concatenate([sine, noise, silence]))
    assert level[:4] == pytest.approx(-3.01, abs=0.02)
    assert level[8:] == pytest.approx(FLOOR_DB)
    assert crossings[:4] == pytest.approx(2 * 1000 / RATE, abs=0.01)
    assert crossings[4:8] == pytest.approx(0.5, abs=0.1)
    assert flatness[:4].max() < 0.01 < 0.3 < flatness[4:8].min()


def test_syllables_and_pauses():
    steady = np.full(200, -20.0)
    syllables = np.where(np.arange(200) % 8 < 4, -20.0, -40.0)  # about 4 a second
    assert syllabic(steady) == pytest.approx(0, abs=1e-6)
    assert low_energy(steady).max() == 0
    assert syllabic(syllables).min() > 0.25
    assert low_energy(syllables) == pytest.approx(0.5, abs=0.1)


def test_too_little_sound_says_nothing():
    def slots(count):
        zeros = np.zeros(count, np.float32)
        return Slots(np.arange(count) * SLOT_S, zeros - 20, zeros, zeros, zeros.astype(bool))

    assert shares(slots(9), 0.27) is None
    assert shares(slots(40), 3.0) is None
    assert shares(slots(60), 3.0) is not None
