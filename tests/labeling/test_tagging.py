"""Taggers over shards: incremental, contained, and never touching what they do not own. On a dataset of real video."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pytest

from curation.sources import find, identify
from curation.stage import ScanStage, Shard, ShardJob, run_shard
from curation.storage import Dataset
from labeling.scores import SCORES, ScoreTagger, explain, scores
from labeling.tagger import TaggerError
from labeling.taggers.keyframes import KeyframeTagger
from labeling.tagging import in_order, pending, run_tags
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, embedding_table, tag_table
from schemas.tags import TAGS, tag
from tests.labeling.odd_taggers import TAGS as ODD_TAGS
from tests.labeling.odd_taggers import ColorEmbedder, OddTagger

NAMES = ("psd_fades.mp4", "kphotoalbum_movie.avi", "torchcodec_nasa_13013.mp4")
ODD = tag_table("odd", ODD_TAGS)


@pytest.fixture(scope="module")
def scanned(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("tagging") / "dataset"
    Dataset(str(root)).create()
    for found in find([str(corpus / name) for name in NAMES]).videos:
        run_shard(ShardJob(str(root), ScanStage(), Shard((identify(found),))))
    return root


@pytest.fixture
def dataset(scanned, tmp_path):
    shutil.copytree(scanned, tmp_path / "dataset")
    return Dataset(str(tmp_path / "dataset"))


def run(dataset, *taggers, force=False, limit_s=60.0):
    return [run_tags(job) for job in pending(dataset, taggers, force, limit_s)]


def files(dataset):
    return dataset.digests([*(tag_table(name) for name in ("quality", "motion", "keyframes", "scores")), ODD, CLIPS, KEYFRAMES])


def test_every_clip_gets_its_values_and_a_second_run_does_nothing(dataset):
    reports = run(dataset, ScoreTagger(), KeyframeTagger(), OddTagger())
    assert {group for report in reports for group in report.groups} == {"scores", "keyframes", "odd"}
    clips = dataset.read(CLIPS)["clip_id"].to_pylist()
    counts = dataset.read(KEYFRAMES, ["clip_id"])["clip_id"].value_counts().to_pylist()
    counts = {row["values"]: row["counts"] for row in counts}
    assert {row["clip_id"]: row["content_odd"] for row in dataset.read(ODD).to_pylist()} == {clip: counts[clip] for clip in clips}
    for row in dataset.read(tag_table("scores")).to_pylist():
        assert all(0 <= row[score] <= 1 for score in SCORES)
    for name in tag_table("keyframes").schema.names:
        assert dataset.read(tag_table("keyframes"))[name].null_count < len(clips), name
    assert run(dataset, ScoreTagger(), KeyframeTagger(), OddTagger()) == []


def test_a_new_version_of_one_group_touches_no_other(dataset):
    run(dataset, KeyframeTagger(), OddTagger())
    before = files(dataset)
    newer = OddTagger(tags=(replace(ODD_TAGS[0], version=2),))
    reports = run(dataset, KeyframeTagger(), newer)
    assert {report.groups for report in reports} == {("odd",)}
    changed = {path for path, digest in files(dataset).items() if before[path] != digest}
    assert changed == {path for path in before if path.startswith("tags/odd/")}


def test_scores_are_renewed_when_what_they_are_made_from_is(dataset):
    run(dataset, ScoreTagger())
    shard = dataset.shards()[0]
    quality = tag_table("quality")
    older = replace(quality, schema=quality.schema.with_metadata({b"reelmill.version": b"1"}))
    dataset.write_part(older, shard, dataset.read_part(quality, shard))
    jobs = pending(dataset, [ScoreTagger()], False, 60)
    assert [job.shard for job in jobs] == [shard]
    run_tags(jobs[0])
    assert not pending(dataset, [ScoreTagger()], False, 60)


@pytest.mark.parametrize(
    ("deed", "code", "message"),
    [("raise", "internal", "ArithmeticError"), ("die", "crashed", "SIGABRT"), ("hang", "timeout", "still running")],
)
def test_a_clip_that_a_tagger_cannot_do_is_a_failure_and_the_rest_is_done(dataset, deed, code, message):
    clips = dataset.read(CLIPS)["clip_id"].to_pylist()
    victim = clips[1]
    reports = run(dataset, OddTagger(deed, victim), limit_s=8.0 if deed == "hang" else 60.0)
    assert sum((list(report.failures) for report in reports), []) == [code]
    values = {row["clip_id"]: row["content_odd"] for row in dataset.read(ODD).to_pylist()}
    assert set(values) == set(clips)
    assert [clip for clip, value in values.items() if value is None] == [victim]
    (failure,) = [row for row in dataset.read(FAILURES).to_pylist() if row["clip_id"]]
    assert (failure["clip_id"], failure["code"], failure["stage"]) == (victim, code, "tag:odd")
    assert message in failure["message"]
    run(dataset, OddTagger(), force=True)
    assert not [row for row in dataset.read(FAILURES).to_pylist() if row["clip_id"]], "a failure goes when the clip is done"
    assert dataset.read(ODD)["content_odd"].null_count == 0


def test_a_tagger_that_cannot_be_loaded_ends_the_job(dataset):
    with pytest.raises(TaggerError, match="odd could not be loaded"):
        run(dataset, OddTagger("die while loading"))


def test_embeddings_are_made_once_and_shared(dataset):
    embedder = ColorEmbedder()
    spec = embedding_table(embedder.name, embedder.size)
    run(dataset, OddTagger(embedder=embedder))
    first = dataset.digests([spec])
    assert len(first) == len(NAMES)
    keyframes = dataset.read(KEYFRAMES, ["clip_id", "index"])
    assert dataset.read(spec, ["clip_id", "index"]).equals(
        keyframes.cast(pa.schema(list(spec.schema)[:2])).replace_schema_metadata(spec.schema.metadata)
    )
    for path in dataset.files(spec).values():
        shutil.os.utime(path, (1, 1))
    run(dataset, OddTagger(embedder=embedder), force=True)
    assert {shutil.os.stat(path).st_mtime for path in dataset.files(spec).values()} == {1}, "they are not made again"
    run(dataset, OddTagger(embedder=replace(embedder, version="2")))
    assert {shutil.os.stat(path).st_mtime for path in dataset.files(spec).values()} != {1}, "another model makes them anew"
    assert dataset.digests([spec]).keys() == first.keys()


def test_groups_come_after_those_that_they_read():
    assert [one.group for one in in_order([ScoreTagger(), KeyframeTagger()])] == ["keyframes", "scores"]
    circle = [
        replace(OddTagger(), group="scores", reads=("motion_mean", "aesthetics_proxy")),
        replace(OddTagger(), group="keyframes", reads=("suitability",)),
    ]
    with pytest.raises(TaggerError, match="circle"):
        in_order(circle)


def test_scores_never_rise_when_an_input_gets_worse():
    best = {term.tag: term.good for terms in SCORES.values() for term in terms}
    assert scores({name: value for name, value in best.items() if name not in SCORES})["quality_score"] == 1
    for score, terms in SCORES.items():
        for term in terms:
            worse = [explain(score, {**best, term.tag: term.good + step * (term.bad - term.good)}) for step in (0, 0.25, 0.5, 1, 2)]
            factors = [next(part.factor for part in parts if part.tag == term.tag) for parts in worse]
            assert factors == sorted(factors, reverse=True)
            assert factors[0] == 1
            assert factors[-1] == pytest.approx(1 - term.weight)


def test_scores_go_the_way_their_tags_say():
    for terms in SCORES.values():
        for term in terms:
            assert 0 < term.weight < 1
            spec = tag(term.tag)
            assert spec.better == "none" or (spec.better == "high") == (term.good > term.bad), term.tag


def test_a_score_is_the_product_of_its_factors_and_missing_inputs_take_nothing():
    values = {"quality_sharpness": 0.2, "quality_noise": 5.0}
    product = 1.0
    for part in explain("quality_score", values):
        product *= part.factor
        assert part.value is not None or part.factor == 1
    assert scores(values)["quality_score"] == pytest.approx(product)
    assert scores({})["quality_score"] is None


def test_scores_are_made_from_weight_free_tags_only():
    for name in ScoreTagger().reads:
        assert next(spec for spec in TAGS if spec.name == name).needs in ("scan", "keyframes")


def test_what_a_group_was_made_from_is_stored(dataset):
    run(dataset, ScoreTagger())
    metadata = dataset.part_schema(tag_table("scores"), dataset.shards()[0]).metadata
    assert json.loads(metadata[b"reelmill.made_from"])["quality"] == tag_table("quality").version
