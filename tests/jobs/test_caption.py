"""`reelmill caption` as a user runs it: against a real server, killed at any moment, with and without a model."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from curation.storage import Dataset
from labeling.captions.camera import camera_agrees
from schemas.tables import CLIPS, FAILURES, caption_table, tag_table
from tests.benchmarks.kill_and_rerun import ROOT, run, table_digests
from tests.labeling.captions.scripted_server import ScriptedServer, always
from tests.labeling.captions.test_words import GOOD
from tests.labeling.captions.tiny_vlm import serving, tiny_vlm
from tests.labeling.clip_model import NAME, write_clip
from tests.labeling.sample import build

KEY = "sk-very-secret-0123456789"


def start(*arguments, **environment):
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})


def cli(*arguments, code=0, **environment):
    process = start(*arguments, **environment)
    out, err = process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


@pytest.fixture
def dataset(tmp_path):
    return build(tmp_path / "dataset")


def caption_server(dataset, server, *options, **more):
    return cli("caption", dataset.root, "--captioner", "openai", "--base-url", server.base_url, *options, **more)


def rows_of(dataset, name="openai"):
    return dataset.read(caption_table(name)).to_pylist()


def test_a_template_needs_no_model_and_says_so(dataset):
    _, err = cli("caption", dataset.root, "--captioner", "template")
    assert "captions/template: 24 clips" in err
    rows = rows_of(dataset, "template")
    assert len(rows) == 24 and {row["model"] for row in rows} == {"template: measured tags, no model"}
    assert all(
        row["caption_short"] and row["caption_medium"] and row["caption_dense"] and row["camera_agrees"] is not False for row in rows
    )
    before = table_digests(Path(dataset.root))
    _, err = cli("caption", dataset.root, "--captioner", "template")
    assert "nothing to do" in err and table_digests(Path(dataset.root)) == before


def test_a_run_is_told_recorded_and_shown_by_status(dataset):
    prices = ("--price-in", "1", "--price-out", "4")
    with ScriptedServer(always("good")) as server:
        out, err = caption_server(dataset, server, "--name", "qwen", *prices, "--json", "--where", "NOT is_short", OPENAI_API_KEY=KEY)
        assert {headers["authorization"] for headers in (asked.headers for asked in server.asked)} == {f"Bearer {KEY}"}
    record = json.loads(out)
    assert record["captioner"] == "qwen" and record["captioned_clips"] == 18 == record["requests"]
    assert record["inputs"]["model"] == "tiny"  # the only one it has
    assert record["cost"] == pytest.approx((record["tokens_in"] + 4 * record["tokens_out"]) / 1e6)
    assert "18 clips" in err and "cost" in err
    shown = json.loads(cli("status", dataset.root, "--json")[0])["captions"][0]
    assert (shown["captioner"], shown["captioned"], shown["missing"]) == ("qwen", 18, 6)
    assert shown["tokens_in"] == record["tokens_in"] and shown["cost"] == pytest.approx(record["cost"])
    lines = cli("status", dataset.root)[0]
    assert "qwen: 18 of 24 clips captioned" in lines and "clips/s" in lines and "lack" in lines
    everything = b"".join(path.read_bytes() for path in Path(dataset.root).rglob("*") if path.is_file())
    assert KEY.encode() not in everything and KEY not in out + err


def test_errors_are_one_line_and_the_key_is_in_none(dataset):
    for behavior, said in (("401", "OPENAI_API_KEY is set"), ("404", "offers tiny"), ("400", "maximum context length")):
        with ScriptedServer(always(behavior)) as server:
            _, err = caption_server(dataset, server, "--model", "tiny", code=1, OPENAI_API_KEY=KEY)
        assert said in err and KEY not in err and err.strip().splitlines()[-1].startswith("reelmill: ")
    assert "no answer" in cli("caption", dataset.root, "--captioner", "openai", "--base-url", "http://127.0.0.1:9/v1", code=1)[1]
    assert "no dataset" in cli("caption", f"{dataset.root}-none", "--captioner", "template", code=1)[1]
    for options, said in [
        (("--captioner", "openai"), "--base-url"),
        (("--captioner", "transformers"), "--model"),
        (("--captioner", "template", "--language", "zh"), "English only"),
        (("--captioner", "template", "--name", "../x"), "--name"),
        (("--captioner", "openai", "--base-url", "http://h/v1", "--price-in", "1"), "both prices"),
    ]:
        assert said in cli("caption", dataset.root, *options, code=2)[1]
    assert "there is no column speed" in cli("caption", dataset.root, "--captioner", "template", "--where", "speed > 1", code=1)[1]
    assert not dataset.captioners()


def test_failures_are_counted_and_leave_exit_status_3(dataset):
    with ScriptedServer(always("wrong-schema")) as server:
        _, err = caption_server(dataset, server, code=3)
    assert "24 clips are in failures/: invalid_answer 24" in err
    with ScriptedServer(always("good")) as server:
        assert "--retry-failed" in caption_server(dataset, server)[1] and not server.lines
        caption_server(dataset, server, "--retry-failed")
    assert len(rows_of(dataset)) == 24


def test_another_model_needs_a_name_of_its_own_or_leave_to_replace(dataset):
    with ScriptedServer(always("good")) as server:
        caption_server(dataset, server, "--model", "a")
        _, err = caption_server(dataset, server, "--model", "b", code=1)
        assert "model 'a', not 'b'" in err and "--replace" in err
        caption_server(dataset, server, "--model", "b", "--name", "b")
        caption_server(dataset, server, "--model", "c", "--replace", "--language", "zh")
    assert {row["model"] for row in rows_of(dataset)} == {"c"} and {row["language"] for row in rows_of(dataset)} == {"zh"}
    assert {row["model"] for row in rows_of(dataset, "b")} == {"b"}
    out, _ = cli("query", dataset.root, "caption_model = 'b'", "--captions", "b", "--columns", "clip_id", "--format", "json")
    assert len(json.loads(out)) == 24
    _, err = cli("query", dataset.root, "caption_model = 'b'", code=1)
    assert "--captions" in err


def test_a_limit_stops_and_the_next_run_goes_on(dataset):
    with ScriptedServer(always("good")) as server:
        _, err = caption_server(dataset, server, "--max-tokens-total", "12000", "--concurrency", "2")
        assert "stopped at the limit" in err and 0 < len(rows_of(dataset)) < 24
        caption_server(dataset, server)
        assert len(rows_of(dataset)) == 24 == len(server.lines)


@pytest.fixture(scope="module")
def curated(corpus, tmp_path_factory):
    """Clips of real videos, with all weight-free tags."""
    root = tmp_path_factory.mktemp("caption") / "dataset"
    done = run([str(corpus / name) for name in ("psd_fades.mp4", "kphotoalbum_movie.avi")], root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def real(curated, tmp_path):
    shutil.copytree(curated, tmp_path / "real")
    return Dataset(str(tmp_path / "real"))


def check_said(dataset, name):
    """Every clip has the caption that the model says, checked against what was measured."""
    rows, measured = rows_of(dataset, name), dataset.read(tag_table("motion")).to_pylist()
    assert [row["clip_id"] for row in rows] == dataset.read(CLIPS)["clip_id"].to_pylist() and rows
    cameras = {row["clip_id"]: row["motion_camera"] for row in measured}
    for row in rows:
        assert {name: row[name] for name in GOOD} == GOOD
        assert row["camera_agrees"] == camera_agrees(GOOD["camera"], "en", cameras[row["clip_id"]])
        assert row["tokens_in"] > 100 and row["tokens_out"] >= 2 and row["seconds"] > 0 and row["requests"] == 1


@pytest.mark.slow
def test_a_real_server_captions_real_clips(real, tmp_path):
    """`transformers serve`, which has no JSON-schema mode, with a model that answers well and one that answers nonsense."""
    with serving(tiny_vlm(tmp_path / "tiny", says=json.dumps(GOOD)), tmp_path / "serve.log") as address:
        options = ("caption", real.root, "--captioner", "openai", "--base-url", address, "--model", tmp_path / "tiny")
        cli(*options, "--concurrency", 2)
        check_said(real, "openai")
        assert "nothing to do" in cli(*options)[1]
    with serving(tiny_vlm(tmp_path / "random"), tmp_path / "serve.log") as address:
        options = ("--base-url", address, "--model", tmp_path / "random", "--max-tokens", "48", "--name", "random")
        _, err = cli("caption", real.root, "--captioner", "openai", *options, code=3)
    clips = real.read(CLIPS).num_rows
    assert f"{clips} clips are in failures/: invalid_answer {clips}" in err
    failures = [row for row in real.read(FAILURES).to_pylist() if row["stage"] == "caption:random"]
    assert len(failures) == clips and all(dict(row["extra"])["requests"] == "2" for row in failures)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smolvlm", "qwen2.5-vl"])
def test_a_model_in_a_folder_captions_real_clips(real, tmp_path, family):
    tiny_vlm(tmp_path / "tiny", family, says=json.dumps(GOOD))
    cli("caption", real.root, "--captioner", "transformers", "--model", tmp_path / "tiny", "--device", "cpu", "--batch-size", 4)
    check_said(real, "transformers")
    assert rows_of(real, "transformers")[0]["model"].startswith("tiny@")
    _, err = cli("caption", real.root, "--captioner", "transformers", "--model", tmp_path, "--name", "none", code=1)
    assert "config.json" in err


@pytest.mark.slow
def test_captions_are_compared_with_the_pictures_where_these_are_embedded(real, tmp_path):
    write_clip(tmp_path)
    clip = ("--models", tmp_path, "--clip-model", NAME)
    cli("tag", real.root, "--group", "clip", *clip)
    assert "was not measured" in cli("caption", real.root, "--captioner", "template", "--clip-model", NAME)[1]
    assert "was measured on" in cli("caption", real.root, "--captioner", "template", *clip)[1]
    out, _ = cli("query", real.root, "content_caption_similarity BETWEEN -1 AND 1", "--columns", "clip_id", "--format", "json")
    assert len(json.loads(out)) == real.read(CLIPS).num_rows
    assert "similarity" not in cli("caption", real.root, "--captioner", "template", *clip)[1]


@pytest.mark.slow
def test_killed_jobs_lose_no_answer_and_ask_nothing_twice(tmp_path):
    """A job of 200 clips, killed at random moments: every clip once, and only what was under way at a kill is asked for again."""
    kill_and_check(build(tmp_path / "dataset", shards=25), kills=5, seed=7)


def kill_and_check(dataset: Dataset, kills: int, seed: int, concurrency: int = 8) -> int:
    """Run a job of all clips, killing it so many times; returns how many requests were asked again."""
    chance, clips = random.Random(seed), dataset.read(CLIPS, ["clip_id"]).num_rows

    # Some clips need a second question, and some never get a fitting answer.
    def script(asked):
        return "wrong-schema" if asked.fingerprint[0] in "01" or (asked.fingerprint[0] in "234" and not asked.times) else "good"

    arguments = ("caption", dataset.root, "--captioner", "openai", "--model", "tiny", "--concurrency", concurrency, "--base-url")
    killed_s = []
    with ScriptedServer(script, latency_s=0.1) as server:
        for _ in range(kills):
            process = start(*arguments, server.base_url)
            enough = len(server.asked) + chance.randint(0, max(1, clips // kills))
            while len(server.asked) < enough and process.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            killed_s.append(time.time())
            process.communicate()
            seen = json.loads(cli("status", dataset.root, "--json")[0])["captions"][0]
            assert seen["clips"] + seen["failures"] + seen["missing"] == clips and seen["journaled"] <= seen["missing"]
        cli(*arguments, server.base_url, code=3)
        time.sleep(0.3)  # the server notices that those it answered are gone
    rows = rows_of(dataset)
    failed = [row["clip_id"] for row in dataset.read(FAILURES).to_pylist() if row["stage"] == "caption:openai"]
    assert Counter([row["clip_id"] for row in rows] + failed) == Counter(dataset.read(CLIPS)["clip_id"].to_pylist())
    assert not dataset.journaled(caption_table("openai"))
    asked = defaultdict(list)
    for line in server.lines:
        asked[line.fingerprint].append(line)
    again = [line for lines in asked.values() for line in sorted(lines, key=lambda line: line.arrived_s)[:-1]]
    for line in again:  # it was under way when a kill came: not yet answered, or answered but not yet on the disk
        assert any(line.arrived_s <= moment and line.answered_s >= moment - 0.2 for moment in killed_s), (line, killed_s)
    assert len(again) <= kills * concurrency
    return len(again)
