"""The commands query, manifest and status, as a shell would call them."""

import csv
import io
import json

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
    assert seen["failures"] == {"corrupt": 2, "timeout": 1} and seen["captions"] == {}
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
    assert "captions  8 alpha" in shown and "20260101T000000Z-curate: curate, local, 12.5 s" in shown


def test_commands_load_nothing_heavy_before_they_run():
    import subprocess
    import sys

    imports = "import sys, jobs.query, jobs.manifest, jobs.status, jobs.report"
    listed = "print([name for name in ('pyarrow', 'duckdb', 'altair', 'rich', 'numpy') if name in sys.modules])"
    run_it = subprocess.run([sys.executable, "-c", f"{imports}; {listed}"], capture_output=True, text=True, check=True)
    assert run_it.stdout.strip() == "[]"
