"""What names stand for, and what happens to inputs that cannot be read."""

import json
import os

import pandas as pd
import pytest

from curation.sources import SourceError, find, identify, mark_duplicates
from schemas.records import FailureCode


@pytest.fixture
def reels(tmp_path):
    for name in ("a.mp4", "b.MKV", "sub/c.webm", "notes.txt", "sub/cover.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(listing, root):
    return [video.uri.removeprefix(f"{root}/") for video in listing.videos]


def test_a_folder_means_its_media_files_and_counts_the_rest(reels):
    listing = find([str(reels)])
    assert names(listing, reels) == ["a.mp4", "b.MKV", "sub/c.webm"]
    assert listing.ignored == 2


def test_each_input_is_taken_once_however_often_it_is_named(reels):
    assert names(find([str(reels / "a.mp4"), str(reels), str(reels / "*.mp4")]), reels) == ["a.mp4", "b.MKV", "sub/c.webm"]


def test_globs_files_and_urls(reels):
    assert names(find([str(reels / "**/*.webm")]), reels) == ["sub/c.webm"]
    assert names(find([str(reels / "notes.txt")]), reels) == ["notes.txt"], "a file named outright is always taken"
    assert names(find([f"file://{reels}/a.mp4"]), reels) == ["a.mp4"]


def test_a_folder_on_another_file_system():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/x.mp4": b"x", "/bucket/deep/y.mov": b"y", "/bucket/z.txt": b"z"})
    listing = find(["memory://bucket"])
    assert [video.uri for video in listing.videos] == ["memory:///bucket/deep/y.mov", "memory:///bucket/x.mp4"]
    assert listing.ignored == 1
    source = identify(listing.videos[0])
    assert source.problem is None
    assert source.size_bytes == 1


def test_names_with_any_characters(tmp_path):
    odd = ["with space.mp4", "quote'\".mp4", "colon::memory:x.mp4", "pct%20.mp4", "[brackets].mp4", "-dash.mp4", "日本.mp4"]
    for name in odd:
        (tmp_path / name).write_bytes(b"x")
    assert names(find([str(tmp_path)]), tmp_path) == sorted(odd)
    assert names(find([str(tmp_path / "[brackets].mp4")]), tmp_path) == ["[brackets].mp4"]
    assert all(identify(video).problem is None for video in find([str(tmp_path)]).videos)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_lists_keep_their_other_columns(reels, suffix):
    table = pd.DataFrame({"uri": ["a.mp4", str(reels / "b.MKV")], "license": ["CC-BY", None], "take": [1, 2]})
    path = reels / f"list.{suffix}"
    {
        "csv": lambda: table.to_csv(path, index=False),
        "parquet": lambda: table.to_parquet(path),
        "jsonl": lambda: path.write_text("\n".join(json.dumps(row) for row in table.to_dict("records")).replace("NaN", "null")),
    }[suffix]()
    first, second = find([str(path)]).videos
    assert (first.uri, second.uri) == (str(reels / "a.mp4"), str(reels / "b.MKV"))
    assert first.extra["license"] == "CC-BY"
    assert first.extra["take"].startswith("1")


@pytest.mark.parametrize("name", ["missing.mp4", "nothing/*.mp4", "nowhere://x/y.mp4"])
def test_a_name_that_stands_for_nothing_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        find([name])


def test_a_list_without_uri_says_what_it_has(tmp_path):
    (tmp_path / "list.csv").write_text("path,size\nx,1\n")
    with pytest.raises(SourceError, match=r"no column `uri` \(it has path, size\)"):
        find([str(tmp_path / "list.csv")])


def test_unreadable_inputs_have_an_id_and_a_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    gone, pipe = (identify(video) for video in find([str(tmp_path)]).videos)
    assert gone.problem[0] is FailureCode.NOT_FOUND
    assert pipe.problem[0] is FailureCode.UNREADABLE
    assert gone.content_id != pipe.content_id


def test_a_known_file_is_not_read_again(reels):
    video = find([str(reels / "a.mp4")]).videos[0]
    source = identify(video)
    assert identify(video, {video.uri: (source.fingerprint, "known")}).content_id == "known"
    (reels / "a.mp4").write_bytes(b"other")
    assert identify(video, {video.uri: (source.fingerprint, "known")}).content_id not in ("known", source.content_id)


def test_copies_name_the_input_that_holds_their_row(tmp_path):
    for name in ("b.mp4", "a.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"same")
    sources = [identify(video) for video in find([str(tmp_path)]).videos]
    first, *copies = mark_duplicates(sources, {})
    assert first.duplicate_of is None
    assert [copy.duplicate_of for copy in copies] == [first.uri] * 2
    assert len({source.key for source in (first, *copies)}) == 3
    assert all(source.duplicate_of == "elsewhere" for source in mark_duplicates(sources, {first.content_id: "elsewhere"}))
