"""Files that cannot be curated, made from real ones: what goes wrong in a bucket of raw video, one of each kind."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


def make_bad_inputs(folder: Path, corpus: Path) -> dict[str, str]:
    """Fill `folder` and return the failure code that each file must end with."""
    folder.mkdir(parents=True, exist_ok=True)
    return {path.name: code for path, code in _make(folder, corpus)}


def _make(folder: Path, corpus: Path) -> Iterator[tuple[Path, str]]:
    def put(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    whole = (corpus / "dj_video11.mp4").read_bytes()
    matroska = (corpus / "decord_flipping_a_pancake.mkv").read_bytes()
    yield put("empty.mp4", b""), "empty"
    yield put("text.mp4", b"This is not a video.\n" * 50), "not_media"
    yield put("playlist.mp4", PLAYLIST.encode()), "not_media"
    yield put("concat.mp4", f"ffconcat version 1.0\nfile {corpus / 'dj_video11.mp4'}\n".encode()), "not_media"
    yield put("noise.mkv", np.random.default_rng(1).bytes(100_000)), "not_media"
    yield put("header_only.mkv", matroska[:300]), "corrupt"
    yield put("no_index.mp4", whole[:40] + whole[40:400] * 20), "unsupported"
    yield put("truncated.mkv", matroska[: len(matroska) // 2]), "truncated"
    yield put("truncated.mp4", _front_index(corpus / "dj_video11.mp4", folder)[: len(whole) // 2]), "truncated"
    yield put("scrambled.avi", _scramble((corpus / "mmaction2_test.avi").read_bytes())), "truncated"
    yield put("picture.mp4", cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()), "not_media"
    yield _sound(folder / "sound.mp4"), "no_video"
    yield _no_frames(folder / "no_frames.mkv"), "no_frames"
    os.mkfifo(folder / "pipe.mp4")
    yield folder / "pipe.mp4", "unreadable"
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")
    yield folder / "dangling.mp4", "not_found"


def _front_index(path: Path, folder: Path) -> bytes:
    """The same stream with its index in front, so that the first half of the file can be opened."""
    target = folder / ".front.mp4"
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                sink.mux(packet)
    data = target.read_bytes()
    target.unlink()
    return data


def _scramble(data: bytes) -> bytes:
    """Noise over everything behind the header."""
    head = len(data) // 8
    return data[:head] + np.random.default_rng(2).bytes(len(data) - head)


def _sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        samples = np.sin(np.arange(48_000) / 20, dtype=np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _no_frames(path: Path) -> Path:
    """A stream whose packets are all noise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.open()
        for index in range(20):
            packet = av.Packet(np.random.default_rng(index).bytes(400))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index * 40, index * 40, Fraction(1, 1000)
            container.mux(packet)
    return path
