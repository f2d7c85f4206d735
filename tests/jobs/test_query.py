"""The commands query, manifest and status, as a shell would call them."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from curation.storage import DatasetError
from jobs.manifest import manifest
from jobs.query import query
from jobs.status import status
from labeling.query import QueryError
from schemas.manifest import ManifestError, read_manifest
from schemas.records import Failure, FailureCode
from schemas.tables import caption_table
from schemas.tags import groups
from tests.labeling.sample import HOSTILE, add_captions, build

app = typer.Typer()
for command in (query, manifest, status):
    app.command()(command)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return build(tmp_path_factory.mktemp("jobs") / "dataset").root


def run(*arguments, code=0):
    result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_table_shows_the_columns_of_the_predicate(root):
    result = run("query", root, "motion_mean > 0.9")
    assert result.stdout.split()[:4] == ["uri", "start_s", "duration_s", "motion_mean"]
    assert 'it\'s "quoted" & plain.mov' in result.stdout
    assert result.stderr == "4 clips\n"


def test_names_are_neither_markup_nor_terminal_codes(root):
    shown = run("query", root, "uri LIKE '%rich%'").stdout
    assert "[red]rich\N{REPLACEMENT CHARACTER}[31m.webm" in shown and "\x1b[31m" not in shown


def test_table_says_how_many_more_there_are(root):
    result = run("query", root, "--limit", 5)
    assert len(result.stdout.strip().splitlines()) == 2 + 5
    assert "… and 19 more" in result.stderr


def test_csv_is_exact(root):
    rows = list(csv.DictReader(io.StringIO(run("query", root, "motion_mean IS NULL OR motion_mean < 0.3", "--format", "csv").stdout)))
    assert len(rows) == 12
    assert {row["motion_mean"] for row in rows} == {"", "0.25"}
    assert rows[0]["uri"].startswith("/reels/") and {row["extra"] for row in rows} == {"{}", '{"license": "CC0"}'}
    assert any(row["uri"] == f"/reels/{HOSTILE}" for row in rows)


def test_json_is_one_array(root):
    rows = json.loads(run("query", root, "is_short", "--format", "json", "--columns", "uri, motion_mean,extra,is_short").stdout)
    assert len(rows) == 6 and sum(row["extra"] == {} for row in rows) == 5
    assert next(row for row in rows if "script" in row["uri"]) == {
        "uri": f"/reels/{HOSTILE}",
        "motion_mean": 0.25,
        "extra": {"license": "CC0"},
        "is_short": True,
    }


def test_parquet_goes_to_a_file(root, tmp_path):
    result = run("query", root, "NOT is_short", "--out", tmp_path / "clips.parquet", "--limit", 7)
    assert result.stdout == "" and pq.read_table(tmp_path / "clips.parquet").num_rows == 7
    assert [path.name for path in tmp_path.iterdir()] == ["clips.parquet"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    dataset = build(tmp_path_factory.mktemp("captioned") / "dataset")
    add_captions(dataset, "alpha")
    add_captions(dataset, "beta")
    add_captions(dataset, "beta", shard=1, cost=0.001)
    return dataset.root


def test_lists_are_shown_and_written_in_every_format(captioned, tmp_path):
    asked = ("query", captioned, "caption_model = 'beta'", "--captions", "beta", "--columns", "caption_frames,extra,caption_cost")
    assert "[0, 12, 24]" in run(*asked).stdout
    rows = json.loads(run(*asked, "--format", "json").stdout)
    assert (
        rows[0] == {"caption_frames": [0, 12, 24], "extra": {"license": "CC0"}, "caption_cost": None} and rows[-1]["caption_cost"] == 0.001
    )
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--format", "csv").stdout)))
    assert json.loads(rows[0]["caption_frames"]) == [0, 12, 24] and json.loads(rows[0]["extra"]) == {"license": "CC0"}
    run(*asked, "--out", tmp_path / "q.parquet")
    assert pq.read_table(tmp_path / "q.parquet")["caption_frames"].to_pylist() == [[0, 12, 24]] * 16
    rows = json.loads(run("query", captioned, "caption_model IS NULL", "--captions", "beta", "--format", "json").stdout)
    assert len(rows) == 8 and all(row["caption_frames"] is None and row["subject"] is None for row in rows)


def test_wrong_use_and_wrong_input(root, tmp_path):
    run("query", root, "--format", "xml", code=2)
    run("query", root, "--limit", "0", code=2)
    with pytest.raises(QueryError, match="did you mean motion_mean"):
        run("query", root, "motion_men > 0")
    with pytest.raises(QueryError, match="no column motion_men;"):
        run("query", root, "--columns", "uri,motion_men")
    with pytest.raises(DatasetError, match=r"no dataset at .*: run `reelmill curate SOURCE --out"):
        run("query", tmp_path / "none")
    with pytest.raises(OSError, match=r"cannot write .*x\.csv: No such file"):
        run("query", root, "--out", tmp_path / "none" / "x.csv")
    with pytest.raises(OSError, match=r"cannot write .*x\.parquet: No such file"):
        run("manifest", root, "--where", "true", "--out", tmp_path / "none" / "x.parquet")


def test_manifest_is_the_same_each_time_and_never_overwritten(root, tmp_path):
    where = "motion_mean > 0.3 AND NOT is_short"
    first = run("manifest", root, "--where", where, "--out", tmp_path / "a.parquet")
    run("manifest", root, "--where", where, "--out", tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    frozen = read_manifest(tmp_path / "a.parquet")
    assert frozen.digest in first.stdout and "12 clips, 0.01 hours" in first.stdout
    assert frozen.rows.num_rows == 12 and frozen.facts.predicate == where
    assert frozen.facts.tag_statistics["motion_mean"]["p50"] == 0.75
    assert sorted(path.split("/")[0] for path in frozen.facts.shards) == ["clips"] * 3 + ["tags"] * (3 * len(groups()) - 1) + ["videos"] * 3

    again = run("manifest", root, "--where", where, "--out", tmp_path / "a.parquet", "--json")
    assert json.loads(again.stdout)["unchanged"] is True
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(ManifestError, match="a frozen manifest never changes"):
        run("manifest", root, "--where", "NOT is_short", "--out", tmp_path / "a.parquet")
    (tmp_path / "c.parquet").write_text("mine")
    with pytest.raises(ManifestError, match="choose another"):
        run("manifest", root, "--where", "NOT is_short", "--out", tmp_path / "c.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == before and (tmp_path / "c.parquet").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_manifest_of_one_captioner_holds_its_captions(captioned, tmp_path):
    run("manifest", captioned, "--where", "camera_agrees IS NULL", "--out", tmp_path / "a.parquet", "--captions", "alpha=3")
    frozen = read_manifest(tmp_path / "a.parquet")
    assert frozen.facts.captions == {} and frozen.facts.schema_version == 1 and "captions" not in frozen.rows.column_names
    assert sum(row["caption_short"] == "a dog, by alpha" for row in frozen.rows.to_pylist()) == 7
    assert {path.split("/")[1] for path in frozen.facts.shards if path.startswith("captions/")} == {"alpha"}
    unchosen = run("manifest", captioned, "--where", "true", "--out", tmp_path / "b.parquet")
    assert "without captions, which are by alpha, beta: choose with --captions" in unchosen.stderr
    assert "caption_short" not in read_manifest(tmp_path / "b.parquet").rows.column_names


def test_a_manifest_of_a_mix_holds_the_captions_of_all(captioned, tmp_path):
    where = "caption_model = 'beta'"
    asked = ("manifest", captioned, "--where", where, "--captions", "beta=0.7", "--captions")
    for name in ("a", "b"):
        run(*asked, "alpha", "--out", tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    run(*asked, "alpha=2", "--out", tmp_path / "c.parquet")
    frozen, heavier = (read_manifest(tmp_path / name) for name in ("a.parquet", "c.parquet"))
    assert list(frozen.facts.captions.items()) == [("beta", 0.7), ("alpha", 1.0)] and frozen.digest != heavier.digest
    mixes = [[(one["captioner"], one["weight"]) for one in row["captions"]] for row in frozen.rows.to_pylist()]
    both, one = [("beta", 0.7), ("alpha", 1.0)], [("beta", 0.7)]
    assert (len(mixes), mixes.count(both), mixes.count(one), mixes.count([])) == (16, 7, 7, 2)
    assert {path.split("/")[1] for path in frozen.facts.shards if path.startswith("captions/")} == {"alpha", "beta"}


@pytest.mark.parametrize("given", [("alpha=0",), ("alpha=x",), ("alpha=",), ("=1",), ("alpha=inf",), ("alpha", "alpha=2")])
def test_a_mix_that_is_none_is_wrong_use(captioned, tmp_path, given):
    options = [part for one in given for part in ("--captions", one)]
    shown = run("manifest", captioned, "--where", "true", "--out", tmp_path / "m.parquet", *options, code=2).stderr
    assert "--captions" in shown and ("twice" in shown or "NAME=WEIGHT" in shown)
    with pytest.raises(DatasetError, match="no captions by 'gamma'; it has captions by alpha, beta"):
        run("manifest", captioned, "--where", "true", "--out", tmp_path / "m.parquet", "--captions", "alpha", "--captions", "gamma=2")
    assert not list(tmp_path.iterdir())


def test_an_empty_manifest_is_an_error_with_its_funnel(root, tmp_path, capsys):
    with pytest.raises(QueryError, match="keeps none of 24 clips"):
        manifest(root, "motion_mean > 0.3 AND duration_s > 99 AND is_short", tmp_path / "m.parquet")
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    kept = [(line[0], line[2], line[4]) for line in lines]
    assert kept == [("24", "24", "all"), ("12", "12", "motion_mean"), ("0", "0", "duration_s"), ("0", "6", "is_short")]
    assert not list(tmp_path.iterdir())


def test_status_counts_everything(root):
    seen = json.loads(run("status", root, "--json").stdout)
    assert (seen["videos"], seen["clips"], seen["keyframes"], seen["short_clips"]) == (6, 24, 72, 6)
    assert seen["clip_hours"] == pytest.approx(1 / 60) and seen["boundaries"] == {"start": 6, "cut": 6, "fade": 6, "split": 6}
    assert seen["failures"] == {"corrupt": 2, "timeout": 1} and seen["captions"] == []
    motion = next(group for group in seen["groups"] if group["name"] == "motion")
    assert motion["missing_shards"] == 1 and motion["coverage"]["motion_mean"] == pytest.approx(2 / 3)
    nothing = {"leftovers": [], "outdated_groups": [], "unknown_groups": []}
    assert seen["pending"] == {**nothing, "incomplete_groups": ["motion"], "retryable_failures": 1}


def test_status_says_what_is_pending(tmp_path, monkeypatch):
    import labeling.catalog
    from schemas.tables import TableSpec, tag_table

    dataset = build(tmp_path / "dataset")
    add_captions(dataset, "alpha")
    dataset._storage[0].rm_file(dataset.path("videos", f"part-{2:032x}.parquet"))
    (tmp_path / "dataset" / "tags" / "smell").mkdir()
    newer = lambda name: TableSpec(f"tags/{name}", tag_table(name).version + (name == "quality"), tag_table(name).schema)  # noqa: E731
    monkeypatch.setattr(labeling.catalog, "tag_table", newer)
    shown = run("status", dataset.root).stdout
    assert "1 shards were begun" in shown and "older version: quality:" in shown and "does not know: smell" in shown
    assert "20260101T000000Z-curate: curate, local, 12.5 s" in shown


def test_status_shows_what_captions_took_and_lack(tmp_path):
    dataset = build(tmp_path / "dataset")
    first = add_captions(dataset, "qwen", tokens_in=1_200_000, cost=0.5, camera_agrees=True)
    second = add_captions(dataset, "qwen", shard=1, camera_agrees=False)
    add_captions(dataset, "template", shard=2, tokens_in=None, tokens_out=None, seconds=0.0)
    spec, shard = caption_table("qwen"), dataset.shards()[1]
    dataset.write_part(spec, shard, dataset.read_part(spec, shard).filter(~pc.is_in(pc.field("clip_id"), pa.array(second[:3]))))
    spent = ({"tokens_in": "3000", "tokens_out": "70", "cost": "0.25", "requests": "2"}, {"tokens_in": "30"})
    failed = [
        Failure("v", clip, "/reels/x.mp4", "caption:qwen", code, "no JSON", retryable=code == FailureCode.UNAVAILABLE, extra=extra)
        for clip, extra, code in zip(second, spent, (FailureCode.UNAVAILABLE, FailureCode.REJECTED), strict=False)
    ]
    dataset.replace_failures(shard, "caption:qwen", failed)
    for started, clips, tokens in ((2, 100, 90_000), (3, 7, 9_000), (4, 0, None)):
        record = {"command": "caption", "captioner": "qwen", "captioned_clips": clips, "seconds": 2.0}
        record |= {"run_id": f"2026010{started}", "tokens_in": tokens, "tokens_out": tokens and 1000, "cost": 0.75}
        dataset.write_run(record["run_id"], record)

    qwen, template = json.loads(run("status", dataset.root, "--json").stdout)["captions"]
    assert (qwen["captioner"], qwen["models"], qwen["prompt_versions"]) == ("qwen", {"qwen": 13}, {"1": 13})
    assert (qwen["clips"], qwen["captioned"], qwen["null_reasons"], qwen["missing"]) == (13, 11, {"refusal": 2}, 9)
    assert (qwen["failures"], qwen["retryable_failures"], qwen["requests"]) == (2, 1, 15)
    assert (qwen["camera_agrees"], qwen["camera_disagrees"]) == (len(first), 5)
    assert (qwen["tokens_in"], qwen["tokens_out"]) == (8 * 1_200_000 + 5 * 1000 + 3030, 13 * 50 + 70)
    assert (qwen["cost"], qwen["seconds"]) == (4.25, 6.5)
    rates = {"clips_per_s": 3.5, "tokens_per_s": 5000.0}
    spent = {"captioned_clips": 7, "seconds": 2.0, "tokens_in": 9000, "tokens_out": 1000, "cost": 0.75}
    assert qwen["last_run"] == {"run_id": "20260103", **spent, **rates}
    assert (template["cost"], template["tokens_in"], template["last_run"], template["missing"]) == (None, 0, None, 16)

    shown = " ".join(run("status", dataset.root).stdout.split())
    assert "captions qwen: 11 of 24 clips captioned, 2 null (2 refusal), 2 failed, camera words agree in 8 of 13" in shown
    assert "qwen, prompt 1, 15 requests, 9,608,030 tokens in, 720 out, cost 4.25" in shown
    assert "last run: 7 clips in 2 s, 3.5 clips/s, 5,000.0 tokens/s, cost 0.75" in shown
    assert "captions by qwen lack 9 clips: run `reelmill caption" in shown and "1 failures of qwen may work another time" in shown
    assert "captions by template lack 16 clips" in shown


def test_commands_load_nothing_heavy_before_they_run():
    import subprocess
    import sys

    imports = "import sys, jobs.query, jobs.manifest, jobs.status, jobs.report"
    listed = "print([name for name in ('pyarrow', 'duckdb', 'altair', 'rich', 'numpy') if name in sys.modules])"
    run_it = subprocess.run([sys.executable, "-c", f"{imports}; {listed}"], capture_output=True, text=True, check=True)
    assert run_it.stdout.strip() == "[]"
