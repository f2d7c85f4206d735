"""`reelmill dedup` as a user runs it, on real files and copies that ffmpeg makes of them."""

import json
import subprocess

import imageio_ffmpeg
import pytest
import typer
from typer.testing import CliRunner

from curation.storage import Dataset, DatasetError
from jobs.dedup import dedup
from labeling.query import run_query
from schemas.tables import CLIPS, SIGNATURES, VIDEOS, tag_table
from tests.benchmarks.kill_and_rerun import run

ORIGINALS = ("kphotoalbum_movie.avi", "gem_anim-1.mov", "mimetype_flv.flv")
COPIES = {
    "mirrored.mp4": ("kphotoalbum_movie.avi", ["-vf", "hflip"]),
    "faster.mp4": ("gem_anim-1.mov", ["-vf", "setpts=PTS/1.2,scale=192:144"]),
    "remuxed.mkv": ("mimetype_flv.flv", ["-c", "copy"]),
}


def invoke(*arguments):
    app = typer.Typer()
    app.command()(dedup)
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def reels(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reels")
    for name in ORIGINALS:
        (folder / name).symlink_to(corpus / name)
    for name, (original, options) in COPIES.items():
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(corpus / original), "-an", *options, str(folder / name)]
        subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def dataset(reels, tmp_path_factory):
    root = tmp_path_factory.mktemp("one") / "dataset"
    run([str(reels)], root, "--shard-size", "2")
    return Dataset(str(root))


def tags_by_file(dataset):
    """The tags of each file's one clip, by the file's name."""
    uri_of = {row["video_id"]: row["uri"] for row in dataset.read(VIDEOS).to_pylist()}
    name_of = {row["clip_id"]: uri_of[row["video_id"]].rsplit("/", 1)[-1] for row in dataset.read(CLIPS).to_pylist()}
    return {name_of[row["clip_id"]]: row for row in dataset.read(tag_table("dedup")).to_pylist()}


def test_every_clip_has_a_signature(dataset):
    signatures = {row["clip_id"]: row for row in dataset.read(SIGNATURES).to_pylist()}
    for clip in dataset.read(CLIPS).to_pylist():
        signature = signatures[clip["clip_id"]]
        assert len(signature["hashes"]) == pytest.approx((clip["end_s"] - clip["start_s"]) / signature["step_s"], abs=0.51)
    hashes = dataset.read(tag_table("quality"), ["clip_id", "quality_perceptual_hash"]).to_pylist()
    assert all(int(row["quality_perceptual_hash"], 16) in signatures[row["clip_id"]]["hashes"] for row in hashes)


def test_a_dry_run_counts_and_writes_nothing(dataset):
    record = json.loads(invoke(dataset.root, "--dry-run", "--json").stdout)
    assert record["copies"] == {"exact": 1, "near": 1, "mirrored": 1, "semantic": 0}
    assert (record["clips"], record["clusters"]) == (6, 3)
    assert dataset.files(tag_table("dedup")) == {}
    assert {run["command"] for run in dataset.runs()} == {"curate"}


def test_copies_are_tagged_and_a_query_keeps_one_of_each(dataset):
    done = invoke(dataset.root)
    assert "3 clips to keep" in done.stderr
    assert [run["command"] for run in dataset.runs()] == ["curate", "dedup"]
    tags = tags_by_file(dataset)
    for name, kind in (("mirrored.mp4", "mirrored"), ("faster.mp4", "near"), ("remuxed.mkv", "exact")):
        pair = [tags[name], tags[COPIES[name][0]]]
        assert {row["content_duplicate_cluster"] for row in pair} == {min(row["clip_id"] for row in pair)}
        assert sorted(row["content_duplicate_representative"] for row in pair) == [False, True]
        assert [row["content_duplicate_kind"] for row in pair if not row["content_duplicate_representative"]] == [kind]
    assert tags["faster.mp4"]["content_duplicate_representative"] is False, "the larger picture is kept"
    from labeling.catalog import open_catalog

    kept = run_query(open_catalog(dataset.root), "content_duplicate_representative", ["uri"])
    assert kept.num_rows == 3


def test_the_order_of_shards_does_not_matter(dataset, reels, tmp_path):
    root = tmp_path / "dataset"
    run(sorted(map(str, reels.iterdir()))[::-1][:3], root, "--shard-size", "1")
    run([str(reels)], root, "--shard-size", "1")
    invoke(dataset.root)
    invoke(root)
    assert len(Dataset(str(root)).shards()) == 6
    assert tags_by_file(Dataset(str(root))) == tags_by_file(dataset)


def test_a_dataset_without_signatures_is_told_what_to_do(dataset, tmp_path):
    root = tmp_path / "dataset"
    subprocess.run(["cp", "-r", dataset.root, str(root)], check=True)
    subprocess.run(["rm", "-r", str(root / "signatures")], check=True)
    with pytest.raises(DatasetError, match="6 clips .* anew"):
        invoke(root)


def test_a_model_that_is_not_there_is_named(dataset):
    with pytest.raises(DatasetError, match="embeddings/nothing"):
        invoke(dataset.root, "--semantic", "nothing")
