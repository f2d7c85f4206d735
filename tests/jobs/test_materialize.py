"""`reelmill materialize` as a user runs it: on a curated dataset, killed, with bad sources, and trained from."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from schemas.manifest import read_manifest, write_manifest
from tests.benchmarks.kill_and_rerun import ROOT
from tests.command import process_arguments
from tests.command import reelmill as cli
from training.config import DataConfig, ShapesConfig
from training.data import ClipSource, Pixels, Wanted
from training.shapes import Token, plan_shapes

VIDEOS = (
    "psd_fades.mp4",
    "decord_video_90.mov",
    "torchcodec_nasa_13013.mp4",
    "gem_anim-1.mov",
    "torchcodec_h264_10bits.mp4",
    "intel_book.mkv",
)
FAST = ("--preset", "ultrafast", "--crf", "30")


def files(out):
    """What is in the folder that matters: every file of a clip and the manifest, byte for byte."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted([*(out / "clips").rglob("*.*"), out / "manifest.parquet"])}


@pytest.fixture(scope="module")
def manifest(corpus, tmp_path_factory):
    """A manifest of real clips, as the commands make it."""
    folder = tmp_path_factory.mktemp("given")
    curated = cli("curate", *(corpus / name for name in VIDEOS), "--out", folder / "dataset", "--max-clip-s", "2.5")
    assert curated.returncode == 0, curated.stderr
    assert cli("manifest", folder / "dataset", "--where", "num_frames > 1", "--out", folder / "m.parquet").returncode == 0
    return folder / "m.parquet"


@pytest.fixture(scope="module")
def lossless(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("lossless") / "out"
    done = cli("materialize", manifest, "--out", out, "--lossless", "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_manifest_keeps_rows_and_facts_and_says_what_it_was_made_from(manifest, lossless):
    out, record = lossless
    source, made = read_manifest(manifest), read_manifest(out / "manifest.parquet")
    moved = {"uri", "start_frame", "start_s", "end_s", "width", "height", "crop_x", "crop_y", "crop_w", "crop_h"}
    kept = [name for name in source.rows.column_names if name not in moved]
    assert made.rows.select(kept).equals(source.rows.select(kept))
    assert made.rows["source_uri"].equals(source.rows["uri"]) and made.rows["source_start_frame"].equals(source.rows["start_frame"])
    assert (made.facts.predicate, made.facts.shards) == (source.facts.predicate, source.facts.shards)
    assert made.facts.tag_statistics == source.facts.tag_statistics
    assert made.facts.made_from["manifest"] == source.digest and json.loads(made.facts.made_from["settings"])["codec"] == "ffv1"
    assert (record["clips"], record["failures"], record["manifest_digest"]) == (source.rows.num_rows, {}, made.digest)
    for row, before in zip(made.rows.to_pylist(), source.rows.to_pylist(), strict=True):
        assert Path(row["uri"]).is_absolute() and Path(row["uri"]).exists() and row["clip_id"] in row["uri"]
        assert (row["start_frame"], row["start_s"]) == (0, 0.0) and row["end_s"] == before["end_s"] - before["start_s"]
        assert [row[name] for name in ("width", "height", "crop_x", "crop_w")] == [
            before[name] for name in ("width", "height", "crop_x", "crop_w")
        ]
    assert not (out / "failures.parquet").exists()


def test_training_reads_the_same_windows_from_lossless_clips(manifest, lossless):
    config, token = DataConfig(windows_per_clip=3), Token(side=16, frames=1)
    source, made = (read_manifest(path).rows for path in (manifest, lossless[0] / "manifest.parquet"))
    originals, clips = (ClipSource(rows, config, Pixels(), 64) for rows in (source, made))
    shapes, shapes_made = (plan_shapes(rows, ShapesConfig(areas=[[48, 32]], max_frames=3), token) for rows in (source, made))
    read = 0
    for number, row in enumerate(source.to_pylist()):
        for window in range(3) if row["num_frames"] >= 3 else ():
            one = originals.load(Wanted(number, window, shapes.of(number), 0.0))
            other = clips.load(Wanted(number, window, shapes_made.of(number), 0.0))
            assert one.content.equal(other.content)
            assert abs(one.fps - other.fps) < 1e-9
            read += 1
    assert read > 30


def test_a_run_trains_from_it(lossless, tmp_path):
    from tests.training.test_training_run import CONFIG

    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": None, "audit": {}}))
    done = cli("train", tmp_path / "c.yaml", "--manifest", lossless[0] / "manifest.parquet", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr + done.stdout
    assert read_manifest(lossless[0] / "manifest.parquet").digest in (tmp_path / "run" / "run.json").read_text()


def test_a_second_run_does_nothing_and_other_settings_do_not_mix(manifest, lossless):
    out, _ = lossless
    before = files(out)
    again = cli("materialize", manifest, "--out", out, "--lossless")
    assert (again.returncode, ", 0 to cut from 0 sources" in again.stderr) == (0, True), again.stderr
    assert files(out) == before and len(list((out / "runs").iterdir())) == 1
    refused = cli("materialize", manifest, "--out", out, *FAST)
    assert (refused.returncode, "with other settings" in refused.stderr) == (1, True)
    assert files(out) == before


def test_killed_anywhere_and_run_again_gives_the_same_bytes(manifest, tmp_path):
    assert cli("materialize", manifest, "--out", tmp_path / "whole", "--short-side", "160").returncode == 0
    wanted = {name: data for name, data in files(tmp_path / "whole").items() if name != "manifest.parquet"}
    out, seen = tmp_path / "killed", set()
    for least in (0, 3, 9):
        process = subprocess.Popen(
            process_arguments("materialize", manifest, "--out", out, "--short-side", "160"), cwd=ROOT, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not (list(out.rglob(".*.mp4")) and len(list(out.glob("clips/*/[!.]*"))) >= least):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = {path.relative_to(out).as_posix() for path in out.glob("clips/*/[!.]*")}
        assert all((out / name).read_bytes() == wanted[name] for name in there), "what has its name is whole"
        assert there >= seen
        seen = there
    assert len(seen) >= 9
    done = cli("materialize", manifest, "--out", out, "--short-side", "160", "--json")
    assert json.loads(done.stdout)["already_there"] >= len(seen)
    assert {name: data for name, data in files(out).items() if name != "manifest.parquet"} == wanted
    assert not list(out.rglob("clips/*/.*"))


@pytest.mark.slow
def test_dask_and_the_number_of_workers_change_no_byte(manifest, tmp_path):
    found = []
    for number, options in enumerate((["--workers", "1"], ["--engine", "dask", "--workers", "2"])):
        assert cli("materialize", manifest, "--out", tmp_path / str(number), *FAST, *options).returncode == 0
        found.append({name: data for name, data in files(tmp_path / str(number)).items() if name != "manifest.parquet"})
    assert found[0] == found[1]


def test_bad_sources_are_named_counted_and_tried_again(manifest, corpus, tmp_path):
    """Of four sources one is gone, one is another file now and one has fewer frames than it had."""
    table = read_manifest(manifest).rows
    rows = [row for row in table.to_pylist() if Path(row["uri"]).name in VIDEOS[:4]]
    other = {name: tmp_path / name for name in VIDEOS[:3]}
    other["decord_video_90.mov"].write_bytes((corpus / "pygame_blue.mpg").read_bytes())
    for row in rows:
        name = Path(row["uri"]).name
        row["uri"] = str(other.get(name, row["uri"]))
        if name == "gem_anim-1.mov":
            row["num_frames"] += 1000
    write_manifest(tmp_path / "m.parquet", table.from_pylist(rows, table.schema), "true", {}, {"motion_mean": {}})
    other["psd_fades.mp4"].symlink_to(corpus / "psd_fades.mp4")
    done = cli("materialize", tmp_path / "m.parquet", "--out", tmp_path / "out", "--json", *FAST)
    assert done.returncode == 3, done.stderr
    failures = pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()
    codes = {Path(row["uri"]).name: row["code"] for row in failures}
    assert codes == {"decord_video_90.mov": "not_found", "torchcodec_nasa_13013.mp4": "not_found", "gem_anim-1.mov": "truncated"}
    made = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert {row["clip_id"] for row in failures} | set(made.rows["clip_id"].to_pylist()) == {row["clip_id"] for row in rows}
    assert len(failures) + made.rows.num_rows == len(rows) and made.facts.tag_statistics["motion_mean"]["count"] <= made.rows.num_rows
    assert sum(json.loads(done.stdout)["failures"].values()) == len(failures)
    for name, text in (("decord_video_90.mov", "is another one now"), ("gem_anim-1.mov", "the source has 91 frames")):
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert text in line

    for name in VIDEOS[1:3]:
        other[name].unlink(missing_ok=True)
        other[name].symlink_to(corpus / name)
    again = cli("materialize", tmp_path / "m.parquet", "--out", tmp_path / "out", *FAST)
    assert again.returncode == 3, again.stderr
    assert {row["code"] for row in pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()} == {"truncated"}
    assert read_manifest(tmp_path / "out" / "manifest.parquet").rows.num_rows > made.rows.num_rows


@pytest.mark.slow
def test_clips_that_were_materialized_can_be_materialized_again(lossless, tmp_path):
    done = cli("materialize", lossless[0] / "manifest.parquet", "--out", tmp_path / "small", "--short-side", "64", "--crop", *FAST)
    assert done.returncode == 0, done.stderr
    first, second = (read_manifest(out / "manifest.parquet").rows for out in (lossless[0], tmp_path / "small"))
    assert second["source_uri"].to_pylist() == first["uri"].to_pylist()
    assert max(min(row["width"], row["height"]) for row in second.to_pylist()) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["{m}", "--out", "{tmp}/o", "--lossless", "--crf", "3"], 2, "--crf"),
        (["{m}", "--out", "{tmp}/o", "--lossless", "--codec", "h264"], 2, "--codec"),
        (["{m}", "--out", "{tmp}/o", "--codec", "ffv1", "--short-side", "256"], 2, "--short-side"),
        (["{tmp}/none.parquet", "--out", "{tmp}/o"], 1, "none.parquet"),
        (["{m}", "--out", "/proc/nowhere"], 1, "/proc/nowhere"),
    ],
)
def test_errors_are_one_line_with_the_right_exit_status(manifest, tmp_path, arguments, code, text):
    done = cli("materialize", *(argument.format(m=manifest, tmp=tmp_path) for argument in arguments))
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
