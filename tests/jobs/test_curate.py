"""`reelmill curate` as a user runs it: real files, real processes, bad inputs, kills, two runs at once, both engines."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from curation.storage import Dataset
from schemas.tables import CLIPS, FAILURES, KEYFRAMES, VIDEOS
from tests.bad_inputs import make_bad_inputs
from tests.benchmarks.kill_and_rerun import ROOT, run, run_killed, table_digests

SMALL = [
    "pygame_blue.mpg",
    "decord_video_90.mov",
    "nemo_curator_test_video.mp4",
    "torchcodec_av1_video.mkv",
    "imageio_newtonscradle.gif",
    "psd_fades.mp4",
    "torchcodec_h265_10bits.mp4",
    "kphotoalbum_movie.avi",
    "mimetype_flv.flv",
    "gem_anim-1.mov",
    "torchcodec_nasa_13013.mp4",
    "decord_corrupted.mp4",
]


@pytest.fixture(scope="module")
def reels(corpus, tmp_path_factory):
    """A folder of small real files."""
    folder = tmp_path_factory.mktemp("reels")
    for name in SMALL:
        (folder / name).symlink_to(corpus / name)
    return folder


@pytest.fixture(scope="module")
def undisturbed(reels, tmp_path_factory):
    """A dataset made in one go, and what its tables hold byte for byte."""
    dataset = tmp_path_factory.mktemp("undisturbed") / "dataset"
    done = run([str(reels)], dataset, "--shard-size", "2")
    assert done.returncode == 0, done.stderr
    return dataset, table_digests(dataset)


def cli(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, check=False, **kwargs
    )


def test_every_table_fits_together(undisturbed):
    dataset = Dataset(str(undisturbed[0]))
    videos, clips = dataset.read(VIDEOS).to_pylist(), dataset.read(CLIPS).to_pylist()
    assert {Path(row["uri"]).name for row in videos} == set(SMALL)
    assert {row["video_id"] for row in clips} == {row["video_id"] for row in videos}
    keyframes = dataset.read(KEYFRAMES, ["clip_id"])["clip_id"].to_pylist()
    assert set(keyframes) == {row["clip_id"] for row in clips}
    assert dataset.read(FAILURES).num_rows == 0


def test_a_second_run_does_nothing(undisturbed, reels):
    dataset, digests = undisturbed
    times = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.parquet")}
    runs = len(list((dataset / "runs").glob("*.json")))
    done = run([str(reels)], dataset, "--shard-size", "2")
    assert f"{len(SMALL)} already done, 0 to do" in done.stderr
    assert table_digests(dataset) == digests
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*.parquet")} == times
    assert len(list((dataset / "runs").glob("*.json"))) == runs


def test_a_killed_run_ends_as_if_it_had_not_been(undisturbed, reels, tmp_path):
    for number, seconds in enumerate((1.2, 2.0, 3.2)):
        dataset = tmp_path / str(number)
        run_killed([str(reels)], dataset, seconds, "--shard-size", "2")
        run([str(reels)], dataset, "--shard-size", "2")
        assert table_digests(dataset) == undisturbed[1]


def test_dask_and_the_number_of_workers_change_no_byte(undisturbed, reels, tmp_path):
    for number, options in enumerate((["--engine", "dask", "--workers", "2"], ["--workers", "1"])):
        done = run([str(reels)], tmp_path / str(number), "--shard-size", "2", *options)
        assert done.returncode == 0, done.stderr
        assert table_digests(tmp_path / str(number)) == undisturbed[1]


def test_two_runs_at_once_do_not_disturb_each_other(undisturbed, reels, tmp_path):
    dataset = tmp_path / "dataset"
    arguments = [sys.executable, "-m", "jobs.cli", "curate", str(reels), "--out", str(dataset), "--shard-size", "2"]
    pair = [subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode) for process in pair]
    assert sorted(code for _, code in ends) in ([0, 0], [0, 1])
    for text, code in ends:
        assert code == 0 or "is being written by process" in text
    assert table_digests(dataset) == undisturbed[1]


def test_bad_inputs_become_rows_with_their_reason(corpus, tmp_path):
    expected = make_bad_inputs(tmp_path / "bad", corpus)
    (tmp_path / "bad" / "good.mp4").write_bytes((corpus / "decord_video_90.mov").read_bytes())
    (tmp_path / "bad" / "twin.mp4").write_bytes((corpus / "decord_video_90.mov").read_bytes())
    expected["twin.mp4"] = "duplicate"
    done = cli("curate", tmp_path / "bad", "--out", tmp_path / "dataset", "--json")
    assert done.returncode == 3, done.stderr
    dataset = Dataset(str(tmp_path / "dataset"))
    failures = dataset.read(FAILURES).to_pylist()
    assert {Path(row["uri"]).name: row["code"] for row in failures} == expected
    assert [Path(row["uri"]).name for row in dataset.read(VIDEOS).to_pylist()] == ["good.mp4"]
    by_name = {Path(row["uri"]).name: row for row in failures}
    assert by_name["truncated.mkv"]["decoded_frames"] > 100
    assert by_name["truncated.mkv"]["decoded_s"] > 3
    assert f"{len(expected)} of these inputs are in failures/" in done.stderr
    assert json.loads(done.stdout)["videos"] == 1
    assert "root:" not in json.dumps(failures), "a playlist must not open other files"

    again = cli("curate", tmp_path / "bad", "--out", tmp_path / "dataset")
    assert again.returncode == 3
    assert ", 0 to do" in again.stderr


def test_retry_failed_retries_what_may_work_now(corpus, tmp_path):
    reel = tmp_path / "reel.mp4"
    (tmp_path / "list.csv").write_text(f"uri,license\n{reel},CC0\n{tmp_path}/none.mp4,CC0\n")
    first = cli("curate", tmp_path / "list.csv", "--out", tmp_path / "dataset")
    assert (first.returncode, "not_found 2" in first.stderr) == (3, True), first.stderr
    assert ", 0 to do" in cli("curate", tmp_path / "list.csv", "--out", tmp_path / "dataset").stderr
    reel.write_bytes((corpus / "decord_video_90.mov").read_bytes())
    assert cli("curate", tmp_path / "list.csv", "--out", tmp_path / "dataset", "--retry-failed").returncode == 3
    dataset = Dataset(str(tmp_path / "dataset"))
    (video,) = dataset.read(VIDEOS).to_pylist()
    (failure,) = dataset.read(FAILURES).to_pylist()
    assert (video["uri"], dict(video["extra"])) == (str(reel), {"license": "CC0"})
    assert failure["uri"].endswith("none.mp4")


def test_endless_decoding_is_cut_off_and_says_how_far_it_got(corpus, tmp_path):
    done = cli(
        "curate",
        corpus / "v2d_test_video.mp4",
        corpus / "pygame_blue.mpg",
        "--out",
        tmp_path / "dataset",
        "--timeout-s",
        "1.5",
        "--workers",
        "1",
    )
    assert done.returncode == 3, done.stderr
    (failure,) = Dataset(str(tmp_path / "dataset")).read(FAILURES).to_pylist()
    assert (failure["code"], failure["retryable"]) == ("timeout", True)
    assert 0 < failure["decoded_frames"] < 3678
    assert Dataset(str(tmp_path / "dataset")).read(VIDEOS).num_rows == 1


def test_workers_die_with_a_killed_driver(corpus, tmp_path):
    import psutil

    arguments = [sys.executable, "-m", "jobs.cli", "curate", str(corpus / "v2d_test_video.mp4"), "--out", str(tmp_path / "dataset")]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    for _ in range(200):
        time.sleep(0.05)
        children = psutil.Process(process.pid).children(recursive=True)
        if any("spawn_main" in " ".join(child.cmdline()) for child in children):
            break
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert gone
    assert not alive


def test_an_interrupt_ends_at_once_and_says_how_to_go_on(corpus, tmp_path):
    arguments = [sys.executable, "-m", "jobs.cli", "curate", str(corpus / "v2d_test_video.mp4"), "--out", str(tmp_path / "dataset")]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "to do" in line:
            break
    process.send_signal(signal.SIGINT)
    assert "run the same command again" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert Dataset(str(tmp_path / "dataset")).shards() == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["curate", "nowhere.mp4", "--out", "{tmp}/d"], 1, "no such file or folder: nowhere.mp4"),
        (["curate", "{reels}", "--out", "/proc/nowhere"], 1, "cannot write to /proc/nowhere"),
        (["curate", "{reels}", "--out", "{tmp}/d", "--profile", "full"], 1, "--models DIR"),
        (["curate", "{reels}", "--out", "{tmp}/d", "--engine", "dask", "--address", "tcp://127.0.0.1:9"], 1, "no Dask scheduler answers"),
        (["curate", "s3nope://bucket", "--out", "{tmp}/d"], 1, "cannot list s3nope://bucket"),
        (["curate", "{reels}", "--out", "{tmp}/d", "--engine", "abacus"], 2, "abacus"),
        (["curate", "{reels}"], 2, "--out"),
        (["nothing"], 2, "nothing"),
        (["query", "{tmp}/none", "true"], 1, "reelmill curate"),
    ],
)
def test_errors_are_one_line_with_the_right_exit_status(reels, tmp_path, arguments, code, text):
    done = cli(*(argument.format(tmp=tmp_path, reels=reels) for argument in arguments))
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert code == 2 or [line for line in done.stderr.splitlines() if line.startswith("reelmill:")] == done.stderr.splitlines()[-1:]


def test_a_missing_library_is_one_line(undisturbed):
    code = "import sys; sys.modules['duckdb'] = None; from jobs.cli import main; main()"
    arguments = [sys.executable, "-c", code, "query", str(undisturbed[0]), "true"]
    done = subprocess.run(arguments, cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "duckdb is missing: run `make install`" in done.stderr


def test_help_names_every_command_without_loading_their_libraries():
    done = cli("--help")
    assert done.returncode == 0
    for command in ("curate", "status", "query", "manifest", "report", "train"):
        assert command in done.stdout
    heavy = "('torch', 'cv2', 'av', 'pyarrow', 'pandas', 'duckdb', 'dask', 'scenedetect')"
    code = f"import sys, jobs.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip() == "[]"
