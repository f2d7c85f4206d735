"""`reelmill materialize --to parquet` as a user runs it: the same clips as files, killed anywhere, trained from, curated again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from curation.slices import parse_slice
from schemas.manifest import read_manifest, write_manifest
from tests.benchmarks.kill_and_rerun import ROOT
from tests.jobs.test_materialize import FAST, cli
from training.config import DataConfig, ShapesConfig
from training.data import ClipSource, Pixels, Wanted
from training.shapes import Token, plan_shapes

VIDEOS = ("psd_fades.mp4", "decord_video_90.mov", "gem_anim-1.mov", "intel_book.mkv")
SMALL_PARTS = 30_000  # bytes
# Runs the command with small parts, and kills it at a chosen call of one of the functions that make them.
DEADLY = """
import os, signal, sys
import curation.parts as parts
parts.PART_BYTES, point, calls = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def deadly(*arguments):
    global calls
    calls -= 1
    if calls == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
if point:
    original = getattr(parts, point)
    setattr(parts, point, deadly)
del sys.argv[1:4]
from jobs.cli import main
main()
"""


def command(*arguments, point="", calls=0):
    given = [SMALL_PARTS, point, calls, "materialize", *arguments, "--to", "parquet", *FAST]
    return [sys.executable, "-c", DEADLY, *map(str, given)]


def run(*arguments, **deadly):
    return subprocess.run(command(*arguments, **deadly), cwd=ROOT, text=True, capture_output=True, check=False)


def content(out):
    """All that is in the folder, byte for byte, but for run records, the lock, and clips that wait to be packed."""
    there = {str(path.relative_to(out)): path for path in (*out.glob("*.*"), *out.glob("clips/*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(there.items()) if name != ".lock"}


@pytest.fixture(scope="module")
def manifest(corpus, tmp_path_factory):
    """A manifest of real clips, as the commands make it."""
    folder = tmp_path_factory.mktemp("given")
    curated = cli("curate", *(corpus / name for name in VIDEOS), "--out", folder / "dataset", "--max-clip-s", "1.5")
    assert curated.returncode == 0, curated.stderr
    assert cli("manifest", folder / "dataset", "--where", "num_frames > 1", "--out", folder / "m.parquet").returncode == 0
    return folder / "m.parquet"


@pytest.fixture(scope="module")
def packed(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    done = run(manifest, "--out", out, "--json", "--workers", "1")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


@pytest.mark.parametrize("options", [FAST, ("--lossless",)], ids=["h264", "ffv1"])
def test_the_bytes_are_those_of_the_files_and_so_are_the_frames(manifest, tmp_path, options):
    for form in ("files", "parquet"):
        assert cli("materialize", manifest, "--out", tmp_path / form, "--to", form, *options).returncode == 0
    files, packed = (read_manifest(tmp_path / form / "manifest.parquet") for form in ("files", "parquet"))
    assert packed.facts == files.facts
    assert packed.rows.drop_columns("uri").equals(files.rows.drop_columns("uri"))
    for row, file in zip(packed.rows.to_pylist(), files.rows.to_pylist(), strict=True):
        with parse_slice(row["uri"]).open() as stream:
            assert stream.read() == Path(file["uri"]).read_bytes()
    (part,) = (tmp_path / "parquet" / "clips").iterdir()
    assert set(pq.read_table(part)["name"].to_pylist()) == {Path(uri).name for uri in files.rows["uri"].to_pylist()}
    shapes = plan_shapes(files.rows, ShapesConfig(areas=[[48, 32]], max_frames=3), Token(side=16, frames=1))
    ours, theirs = (ClipSource(made.rows, DataConfig(windows_per_clip=3), Pixels(), 64) for made in (packed, files))
    for number, row in enumerate(files.rows.to_pylist()):
        for window in (1,) if row["num_frames"] >= 3 else ():
            one, other = (source.load(Wanted(number, window, shapes.of(number), 0.0)) for source in (ours, theirs))
            assert one.content.equal(other.content)


def test_a_run_trains_from_it(packed, tmp_path):
    from tests.training.test_training_run import CONFIG

    out, record = packed
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "balance": None, "audit": {}}))
    done = cli("train", tmp_path / "c.yaml", "--manifest", out / "manifest.parquet", "--out", tmp_path / "run")
    assert done.returncode == 0 and "skipped" not in done.stderr + done.stdout, done.stderr + done.stdout
    assert record["manifest_digest"] in (tmp_path / "run" / "run.json").read_text()


def test_it_can_be_curated_and_materialized_again(packed, tmp_path):
    out, record = packed
    done = cli("curate", out / "manifest.parquet", "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["videos"] == record["clips"]
    again = cli("materialize", out / "manifest.parquet", "--out", tmp_path / "small", "--short-side", "64", *FAST)
    assert again.returncode == 0, again.stderr
    rows = read_manifest(out / "manifest.parquet").rows
    assert read_manifest(tmp_path / "small" / "manifest.parquet").rows["source_uri"].equals(rows["uri"])


def test_killed_anywhere_and_run_again_gives_the_same_parts_and_manifest(manifest, packed, tmp_path):
    out = tmp_path / "out"
    assert run(manifest, "--out", out, "--workers", "3").returncode == 0
    wanted, by_one_worker = content(out), content(packed[0])
    assert {**wanted, "manifest.parquet": b""} == {**by_one_worker, "manifest.parquet": b""}, "its manifest has other addresses"
    parts = [name for name in wanted if name.startswith("clips/part-")]
    assert len(parts) >= 4 and set(wanted) == {*parts, "manifest.parquet"}
    shutil.rmtree(out)
    # In the middle of a part, before a part has its name, after it has it and before its files are gone, and between two files.
    for point, calls in (("_row", 3), ("_sync", 1), ("_sync", 4), ("write_part", 2)):
        killed = run(manifest, "--out", out, point=point, calls=calls)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
        there = content(out)
        assert all(there[name] == wanted[name] for name in there.keys() & wanted.keys()), "what has its name is whole"
        assert {name for name in there if not name.startswith("clips/.part.")} <= set(wanted)
    process = subprocess.Popen(command(manifest, "--out", out), cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not any(name.startswith(".") for _, _, names in os.walk(out / "clips" / ".cut") for name in names):
        time.sleep(0.01)  # until a clip is half cut
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run(manifest, "--out", out)
    assert done.returncode == 0, done.stderr
    assert content(out) == wanted and not (out / "clips" / ".cut").exists()


@pytest.mark.slow
def test_parts_do_not_depend_on_the_engine(manifest, packed, tmp_path):
    assert run(manifest, "--out", tmp_path / "out", "--engine", "dask", "--workers", "2").returncode == 0
    ours, theirs = content(tmp_path / "out"), content(packed[0])
    assert ours.keys() == theirs.keys() and all(ours[name] == theirs[name] for name in ours if name.startswith("clips/"))


def test_a_second_run_does_nothing_and_forms_do_not_mix(manifest, packed, tmp_path):
    out, _ = packed
    before, runs = content(out), len(list((out / "runs").iterdir()))
    again = run(manifest, "--out", out)
    assert (again.returncode, ", 0 to cut from 0 sources" in again.stderr) == (0, True), again.stderr
    assert content(out) == before and len(list((out / "runs").iterdir())) == runs
    refused = cli("materialize", manifest, "--out", out, *FAST)
    assert (refused.returncode, "go on with --to parquet, or choose another --out" in refused.stderr) == (1, True)
    assert content(out) == before


def test_clips_that_come_later_go_into_new_parts(manifest, corpus, tmp_path):
    table = read_manifest(manifest).rows
    rows = table.to_pylist()
    late = tmp_path / VIDEOS[1]
    for row in rows:
        if Path(row["uri"]).name == late.name:
            row["uri"] = str(late)
    write_manifest(tmp_path / "m.parquet", table.from_pylist(rows, table.schema), "true", {}, {})
    first = run(tmp_path / "m.parquet", "--out", tmp_path / "out")
    assert first.returncode == 3, first.stderr
    failures = pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()
    assert {row["code"] for row in failures} == {"not_found"} and len(failures) < len(rows)
    made, parts = read_manifest(tmp_path / "out" / "manifest.parquet"), content(tmp_path / "out")
    assert made.rows.num_rows == len(rows) - len(failures)
    late.symlink_to(corpus / late.name)
    assert run(tmp_path / "m.parquet", "--out", tmp_path / "out").returncode == 0
    whole, later = read_manifest(tmp_path / "out" / "manifest.parquet"), content(tmp_path / "out")
    assert whole.rows.num_rows == len(rows) and set(made.rows["uri"].to_pylist()) < set(whole.rows["uri"].to_pylist())
    assert all(later[name] == parts[name] for name in parts if name.startswith("clips/")), "no part that was there has changed"
    assert "failures.parquet" not in later


def test_a_clip_too_large_for_parquet_is_a_failure_and_is_not_cut_again(manifest, tmp_path):
    small = [one.replace("parts.PART_BYTES", "parts._MOST_BYTES") for one in command(manifest, "--out", tmp_path / "out")]
    for pending in (True, False):
        done = subprocess.run(small, cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 3 and "use --to files" in done.stderr, done.stderr
        assert (", 0 to cut from 0 sources" not in done.stderr) == pending
    failures = pq.read_table(tmp_path / "out" / "failures.parquet").to_pylist()
    assert {(row["code"], row["stage"], row["retryable"]) for row in failures} == {("too_large", "materialize", False)}
    made = read_manifest(tmp_path / "out" / "manifest.parquet").rows["clip_id"].to_pylist()
    assert len(made) + len(failures) == read_manifest(manifest).rows.num_rows and made
