"""Runs of a captioner against a real HTTP server: what is asked, what is kept, where it stops, and how it goes on."""

from collections import Counter

import pytest

from curation.storage import Dataset
from labeling.captions.backends.protocol import CaptionError
from labeling.captions.backends.server import ServerBackend
from labeling.captions.camera import camera_agrees
from labeling.captions.ledger import find_pending, fold_all
from labeling.captions.pictures import Budget
from labeling.captions.prompt import shipped_prompt
from labeling.captions.run import CaptionRun, Job
from labeling.captions.spending import Limits, Prices
from schemas.records import NullReason
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, caption_table, tag_table
from tests.labeling.captions.scripted_server import ScriptedServer, always, first, mixed
from tests.labeling.sample import build


@pytest.fixture
def dataset(tmp_path):
    return build(tmp_path / "dataset")


CONCURRENCY = 4


def job(server, limits=None, prices=None, **changes):
    options = {"concurrency": CONCURRENCY, "tries": 2, "backoff_s": 0.01, "timeout_s": 5.0} | changes
    backend = ServerBackend(server.base_url, options.pop("model", "tiny"), **options)
    return Job("vlm", backend, shipped_prompt("en"), Budget(), (0.2, 0.7), prices, limits or Limits(), 1024)


def caption(dataset, job, wanted=None, retry_failed=False):
    """One run, as the command does it."""
    fold_all(dataset, job.captioner)
    pending = find_pending(dataset, job.captioner, wanted, retry_failed)
    run = CaptionRun(dataset, job, pending)
    ids = list(run)
    assert len(ids) == len(set(ids))
    return run


def rows_of(dataset):
    return {row["clip_id"]: row for row in dataset.read(caption_table("vlm")).to_pylist()}


def failures_of(dataset):
    return {row["clip_id"]: row for row in dataset.read(FAILURES).to_pylist() if row["stage"] == "caption:vlm"}


def clips_of(dataset):
    return dataset.read(CLIPS, ["clip_id"])["clip_id"].to_pylist()


def check_one_place_each(dataset):
    """Every clip has one caption or one failure, and the journal is empty."""
    rows = dataset.read(caption_table("vlm"), ["clip_id"])["clip_id"].to_pylist()
    failed = [row["clip_id"] for row in dataset.read(FAILURES).to_pylist() if row["stage"] == "caption:vlm"]
    assert Counter(rows + failed) == Counter(clips_of(dataset))
    assert not dataset.journaled(caption_table("vlm"))


def test_every_clip_is_captioned_once(dataset):
    with ScriptedServer(always("good"), latency_s=0.05) as server:
        run = caption(dataset, job(server, prices=Prices(1.0, 4.0)))
    check_one_place_each(dataset)
    assert len(server.lines) == run.captioned == 24 and max(line.in_flight for line in server.lines) == 4
    assert {line.response_format for line in server.lines} == {"json_schema"}
    measured = {row["clip_id"]: row["motion_camera"] for row in dataset.read(tag_table("motion")).to_pylist()}
    agreed = set()
    for clip, row in rows_of(dataset).items():
        assert row["caption_short"] and row["caption_medium"] and row["caption_dense"] and row["reason"] is None
        assert (row["model"], row["prompt_version"], row["language"], row["requests"]) == ("tiny", "en-1", "en", 1)
        assert len(row["frames"]) == 3 and row["frame_side"] == 384 and row["seconds"] > 0
        assert row["cost"] == pytest.approx((row["tokens_in"] + 4 * row["tokens_out"]) / 1e6)
        assert row["camera_agrees"] == camera_agrees(row["camera"], "en", measured.get(clip))
        agreed.add(row["camera_agrees"])
    assert None in agreed  # one shard has no group motion
    spent = run.spending
    assert (spent.tokens_in, spent.tokens_out) == tuple(
        sum(row[name] for row in rows_of(dataset).values()) for name in ("tokens_in", "tokens_out")
    )
    order = [clip for shard in dataset.shards() for clip in dataset.read_part(CLIPS, shard)["clip_id"].to_pylist()]
    assert dataset.read(caption_table("vlm"))["clip_id"].to_pylist() == order
    with ScriptedServer(always("good")) as server:
        assert not caption(dataset, job(server)).captioned and not server.lines


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_misbehaving_server_leaves_every_clip_in_one_place(dataset, seed):
    with ScriptedServer(mixed(seed)) as server:
        caption(dataset, job(server))
    check_one_place_each(dataset)
    rows, failures = rows_of(dataset), failures_of(dataset)
    assert len({line.did for line in server.lines}) > 4  # it did misbehave
    for row in rows.values():
        assert (row["caption_dense"] is None) == (row["reason"] is not None)
        assert row["reason"] is None or row["reason"] in set(NullReason)
        assert row["caption_dense"] is None or row["subject"]
    assert {row["code"] for row in failures.values()} <= {"invalid_answer", "rejected", "unavailable"}
    dense = [row["caption_dense"] for row in rows.values() if row["caption_dense"]]
    assert len(set(dense)) == len(dense)  # no clip has another's answer


def test_an_answer_is_paid_for_once_though_the_server_dies_between_answers(dataset):
    with (
        ScriptedServer(lambda asked: "wrong-schema" if "cannot be used" not in asked.text else "500") as server,
        pytest.raises(CaptionError, match="16 clips"),
    ):
        caption(dataset, job(server))
    asked = {line.fingerprint for line in server.lines if line.did == "wrong-schema"}
    assert len(asked) >= 16 and not rows_of(dataset) and not failures_of(dataset)
    with ScriptedServer(always("good")) as server:
        caption(dataset, job(server))
    check_one_place_each(dataset)
    lost = asked & {line.fingerprint for line in server.lines}  # on the wire when the run gave up; of the others only the second question
    assert len(lost) < CONCURRENCY
    assert Counter(row["requests"] for row in rows_of(dataset).values())[2] == len(asked - lost)


def test_a_dead_server_fails_the_run_and_no_clip(dataset):
    for behavior, message in (
        ("500", "16 clips in a row"),
        ("401", "does not let us in"),
        ("404", "offers tiny"),
        ("400", "maximum context length"),
    ):
        with ScriptedServer(always(behavior)) as server, pytest.raises(CaptionError, match=message):
            caption(dataset, job(server))
        assert not failures_of(dataset) and not rows_of(dataset)
    few = clips_of(dataset)[:3]
    with ScriptedServer(always("reset")) as server, pytest.raises(CaptionError, match="no clip got an answer"):
        caption(dataset, job(server), few)
    assert not failures_of(dataset)


def test_a_clip_that_gets_no_answer_fails_alone_and_can_be_tried_again(dataset):
    with ScriptedServer(always("good")) as server:
        caption(dataset, job(server), clips_of(dataset)[:2])
        bad = server.lines[0].fingerprint
    dataset.drop_journal(caption_table("vlm"), dataset.shards()[0])
    other = build_again(dataset)
    with ScriptedServer(lambda asked: "503" if asked.fingerprint == bad else "good") as server:
        run = caption(other, job(server))
    check_one_place_each(other)
    (failure,) = failures_of(other).values()
    assert failure["code"] == "unavailable" and "503" in failure["message"] and failure["retryable"] and run.failures == {"unavailable": 1}
    with ScriptedServer(always("good")) as server:
        assert find_pending(other, job(server).captioner).failed == 1
        assert not caption(other, job(server)).captioned and not server.lines
        assert caption(other, job(server), retry_failed=True).captioned == 1 and len(server.lines) == 1
    check_one_place_each(other)
    assert not failures_of(other)


def build_again(dataset):
    """The same dataset without captions."""
    from pathlib import Path

    return build(Path(dataset.root).with_name("again"))


def test_limits_stop_before_they_are_passed_and_the_next_run_goes_on(dataset):
    with ScriptedServer(always("good")) as server:
        used = [caption(dataset, job(server, Limits(tokens=12_000))) for _ in range(6)]
    assert used[0].stopped_at_limit and 0 < used[0].captioned < 24
    assert all(run.spending.tokens_in + run.spending.tokens_out <= 12_000 for run in used)
    assert sum(run.captioned for run in used) == 24 == len(server.lines)
    check_one_place_each(dataset)
    again = build_again(dataset)
    with ScriptedServer(always("good")) as server:
        run = caption(again, job(server, Limits(cost=0.01), Prices(1.0, 4.0)))
        assert run.stopped_at_limit and 0 < run.spending.cost <= 0.01 and run.captioned
        run = caption(again, job(server, Limits(tokens=10)))
        assert run.stopped_at_limit and not run.captioned and not run.spending.requests
    with pytest.raises(CaptionError, match="needs prices"), ScriptedServer(always("good")) as server:
        caption(again, job(server, Limits(cost=1.0)))
    with pytest.raises(CaptionError, match="does not say how many tokens"), ScriptedServer(always("no-usage")) as server:
        caption(again, job(server, Limits(tokens=100_000)))


def test_tokens_that_the_server_does_not_say_are_null(dataset):
    with ScriptedServer(always("no-usage")) as server:
        caption(dataset, job(server, prices=Prices(1.0, 1.0)))
    assert {(row["tokens_in"], row["tokens_out"], row["cost"]) for row in rows_of(dataset).values()} == {(None, None, None)}


def test_degenerate_answers_are_null_after_a_second_try_at_another_temperature(dataset):
    with ScriptedServer(always("degenerate")) as server:
        run = caption(dataset, job(server))
    assert run.null_reasons == {"repetition": 24} and len(server.lines) == 48
    assert Counter(line.temperature for line in server.lines) == {0.2: 24, 0.7: 24}
    assert {(row["caption_short"], row["camera"], row["requests"], row["reason"]) for row in rows_of(dataset).values()} == {
        (None, None, 2, "repetition")
    }
    again = build_again(dataset)
    with ScriptedServer(first("refusal")) as server:
        assert caption(again, job(server)).null_reasons == {}
    assert all(row["caption_dense"] and row["requests"] == 2 for row in rows_of(again).values())


def test_wrong_answers_fail_after_they_were_put_back_once(dataset):
    with ScriptedServer(always("wrong-schema")) as server:
        run = caption(dataset, job(server))
    assert run.failures == {"invalid_answer": 24} and len(server.lines) == 48
    check_one_place_each(dataset)
    extra = dict(next(iter(failures_of(dataset).values()))["extra"])
    assert extra["requests"] == "2" and int(extra["tokens_in"]) > 0 and extra["model"] == "tiny"


def test_other_models_and_other_frames_are_other_captions(dataset):
    with ScriptedServer(always("good")) as server:
        caption(dataset, job(server))
        other = job(server, model="large")
        pending = find_pending(dataset, other.captioner)
        assert len(pending.outdated) == pending.num_clips == 24 and pending.outdated[0].model == "tiny"
        caption(dataset, other)
        assert {row["model"] for row in rows_of(dataset).values()} == {"large"}
        check_one_place_each(dataset)
    with ScriptedServer(always("wrong-schema")) as server:
        caption(dataset, job(server, model="huge"))
        assert not rows_of(dataset) and len(failures_of(dataset)) == 24  # what failed is not left with an older caption
        check_one_place_each(dataset)
    with ScriptedServer(always("good")) as server:
        caption(dataset, other := job(server, model="large"))
        fewer = Job("vlm", other.backend, other.prompt, Budget(100), (0.2, 0.7), None, Limits(), 1024)
        assert len(find_pending(dataset, fewer.captioner).outdated) == 24


def test_a_wider_selection_adds_to_a_narrower_one(dataset):
    clips = clips_of(dataset)
    with ScriptedServer(always("good")) as server:
        assert caption(dataset, job(server), clips[1:9:3]).captioned == 3
        before = rows_of(dataset)
        assert set(before) == set(clips[1:9:3])
        assert caption(dataset, job(server), clips[:12]).captioned == 9 and len(server.lines) == 12
    after = rows_of(dataset)
    assert {clip: after[clip] for clip in before} == before


def test_clips_without_keyframes_fail_and_are_not_asked_about(dataset):
    shard = dataset.shards()[0]
    table = dataset.read_part(KEYFRAMES, shard)
    clip = table["clip_id"][0].as_py()
    dataset.write_part(KEYFRAMES, shard, table.slice(3))
    with ScriptedServer(always("good")) as server:
        caption(dataset, job(server))
    check_one_place_each(dataset)
    assert len(server.lines) == 23 and failures_of(dataset)[clip]["code"] == "no_frames"


def test_folding_twice_comes_to_the_same(dataset, monkeypatch):
    """Killed between writing a shard's file and dropping its journal."""
    with ScriptedServer(always("good")) as server:
        making = job(server)
        with monkeypatch.context() as patched:
            patched.setattr(Dataset, "drop_journal", lambda *_: None)
            caption(dataset, making)
        before = rows_of(dataset)
        assert dataset.journaled(caption_table("vlm"))
        assert not caption(dataset, making).captioned and rows_of(dataset) == before and len(server.lines) == 24
    check_one_place_each(dataset)
