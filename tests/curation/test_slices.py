"""Media in Parquet: addresses of real clips, of what is none, and of what an attacker would like to be read."""

import io
import os
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.frames import FrameReader, MediaError, decode, open_media, rgb, video_stream
from curation.parts import ParquetForm, write_part
from curation.slices import SliceError, parse_slice
from curation.sources import Found, SourceError, find, identify

NAMES = ("dj_video11.mp4", "torchcodec_av1_video.mkv", "gem_anim-1.mov", "mmaction2_test.avi", "pygame_blue.mpg", "mimetype_flv.flv")


@pytest.fixture(scope="module")
def part(corpus, tmp_path_factory):
    """A part of whole videos: its file, and the address of each by name."""
    folder = tmp_path_factory.mktemp("a folder, 100% #1")
    path = write_part(folder, [(f"c{number}", corpus / name) for number, name in enumerate(NAMES)])
    return path, {name: stored.uri for name, stored in ParquetForm(folder).stored().items()}


def refused(uri):
    with pytest.raises(MediaError) as caught, open_media(uri):
        pass
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_that_of_the_file(part, corpus, name):
    uri = part[1][name]
    assert parse_slice(uri).open().read() == (corpus / name).read_bytes()
    found = []
    for place in (uri, str(corpus / name)):
        with open_media(place) as container:
            pictures = [picture for picture, _ in zip(decode(container, video_stream(container)), range(60), strict=False)]
            found.append([(picture.time_s, rgb(picture.frame)) for picture in pictures])
    for (time_s, picture), (wanted_s, wanted) in zip(*found, strict=True):
        assert time_s == wanted_s
        np.testing.assert_array_equal(picture, wanted)
    numbers = [1, len(found[0]) // 2, len(found[0]) - 1]
    times_s = [found[0][number][0] for number in numbers]
    reader = pickle.loads(pickle.dumps(FrameReader(uri)))
    np.testing.assert_array_equal(reader.read(numbers, times_s), FrameReader(str(corpus / name)).read(numbers, times_s))


def test_readers_share_nothing_and_leave_nothing_open(part, corpus):
    before = os.listdir("/proc/self/fd")
    one, other = (parse_slice(part[1][name]).open() for name in NAMES[:2])
    first = one.read(100)
    assert other.read() == (corpus / NAMES[1]).read_bytes() and first + one.read() == (corpus / NAMES[0]).read_bytes()
    one.close()
    other.close()
    for place in (part[1][NAMES[0]], part[1][NAMES[0]] + "9", f"parquet://{corpus / NAMES[0]}#9+9"):
        try:
            with open_media(place):
                pass
        except MediaError:
            pass
    assert os.listdir("/proc/self/fd") == before


@given(st.lists(st.tuples(st.integers(-200, 200), st.sampled_from([0, 1, 2]), st.integers(-1, 200)), max_size=12))
def test_a_slice_is_a_file_like_any_other(part, steps):
    place = parse_slice(part[1][NAMES[0]])
    wanted = io.BytesIO(place.open().read())
    with place.open() as got:
        for offset, whence, count in steps:
            try:
                position = wanted.seek(offset, whence) if whence != 1 else wanted.seek(max(0, wanted.tell() + offset))
            except ValueError:
                continue
            if whence == 2 and offset < 0 and -offset > place.num_bytes:
                continue
            assert got.seek(position) == position == got.tell()
            assert got.read(count) == wanted.read(count)


@given(st.data())
def test_an_address_names_a_whole_value_or_nothing(part, data):
    path, uris = part
    known = {(place.offset, place.num_bytes) for place in map(parse_slice, uris.values())}
    offset, size = data.draw(st.sampled_from(sorted(known)))
    offset += data.draw(st.sampled_from([0, 0, -4, 4]) | st.integers(-9, 9) | st.integers(0, 10**17))
    size += data.draw(st.sampled_from([0, 0, -4, 4]) | st.integers(-9, 9) | st.integers(0, 10**17))
    uri = f"parquet://{path}#{max(offset, 0)}+{max(size, 0)}"
    if (offset, size) in known:
        parse_slice(uri).open().close()
    else:
        assert refused(uri).code in ("not_found", "empty")


def test_what_is_no_address_or_leads_to_no_media(part, corpus, tmp_path):
    path, uris = part
    good = uris[NAMES[0]]
    for bad in (
        "parquet://",
        "parquet:///x",
        "parquet://x#1+2",
        f"{good}0x",
        f"{good} ",
        good.replace("+", "-"),
        "parquet:///a\0b#8+8",
        f"{path}",
    ):
        error = refused(bad)
        assert error.code == ("not_media" if bad == str(path) else "not_found"), bad
    assert refused("parquet:///no/such.parquet#8+8").code == "not_found"
    assert refused(f"parquet://{tmp_path}#8+8").code == "unreadable"
    os.mkfifo(tmp_path / "fifo")
    assert refused(f"parquet://{tmp_path / 'fifo'}#8+8").code == "unreadable"
    assert refused(f"parquet://{corpus / NAMES[0]}#8+8").code == "not_media"
    assert "not a whole Parquet file" in refused(f"parquet://{corpus / NAMES[0]}#8+8").message
    (tmp_path / "cut off.parquet").write_bytes(path.read_bytes()[:-9])
    assert refused(good.replace(str(path), str(tmp_path / "cut off.parquet"))).code == "not_media"
    assert refused(good.rsplit("+", 1)[0] + "+0").code == "empty"
    table = pq.read_table(path)
    pq.write_table(table, tmp_path / "packed.parquet", compression="zstd")  # another file at the same place
    error = refused(good.replace(str(path), str(tmp_path / "packed.parquet")))
    assert (error.code, "is another file now" in error.message or "no media where" in error.message) == ("not_found", True)


def test_a_file_whose_name_looks_like_one_is_that_file(part, corpus, tmp_path):
    odd = tmp_path / "part.parquet#4+5"
    shutil.copy(corpus / NAMES[0], odd)
    with open_media(str(odd)) as container:
        assert next(decode(container, video_stream(container))).index == 0
    assert parse_slice(str(odd)) is None and parse_slice(part[1][NAMES[0]]).path == part[0], "the folder's own # does not confuse"


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp", "image2", "noise", "null"])
def test_hostile_bytes_open_nothing_else(corpus, tmp_path, kind):
    video = corpus / NAMES[0]
    data = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{video}\n#EXT-X-ENDLIST\n".encode(),
        "concat": f"ffconcat version 1.0\nfile '{video}'\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "image2": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "noise": np.random.default_rng(0).bytes(5000),
        "null": None,
    }[kind]
    table = pa.table({"media": pa.array([data, b"x"], pa.large_binary())})
    pq.write_table(table, tmp_path / "p.parquet", compression="none", use_dictionary=False, row_group_size=1)
    media = pq.read_metadata(tmp_path / "p.parquet").row_group(0).column(0)
    size = len(data or b"")
    offset = media.data_page_offset + media.total_compressed_size - size
    error = refused(f"parquet://{tmp_path / 'p.parquet'}#{offset}+{size}")
    assert error.code == ("empty" if data is None else "not_media")


def test_sources_may_be_addresses(part, corpus):
    uri = part[1][NAMES[0]]
    (found,) = find([uri]).videos
    source, plain = identify(found), identify(Found(str(corpus / NAMES[0])))
    assert (source.content_id, source.size_bytes) == (plain.content_id, plain.size_bytes) and source.fingerprint
    assert identify(found, {uri: (source.fingerprint, "known")}).content_id == "known"
    bad = uri + "0"
    assert identify(Found(bad)).problem[0] == "not_found"
    for name in (bad, "parquet:///none#1+1"):
        with pytest.raises(SourceError, match="cannot list parquet"):
            find([name])
    with pytest.raises(SliceError):
        parse_slice("parquet://relative#1+1")
