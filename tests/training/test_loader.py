"""Reading ahead: whoever reads, the steps are those that were planned, and each says where the plan stands after it."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.video import write_video
from training.balance import plan_balance
from training.config import DataConfig, ShapesConfig
from training.data import ClipSource, Order, Pixels
from training.loader import LoadedStep, load_steps
from training.packing import BucketPlanner, Loads, PackPlanner, PlanState
from training.ranks import Ranks
from training.sampler import make_sampler
from training.settings import TrainError
from training.shapes import Token, plan_shapes

STEPS = 6
ALONE, START = Ranks(), PlanState()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Clips of several lengths and two aspect ratios; one of them is not there."""
    folder = tmp_path_factory.mktemp("video")
    frames = np.random.default_rng(0).integers(0, 255, (60, 32, 64, 3), np.uint8)
    wide = write_video(folder / "wide.mp4", frames, "libx264", options={"g": "12"})
    tall = write_video(folder / "tall.mp4", np.ascontiguousarray(frames.transpose(0, 2, 1, 3)), "libx264")
    clips = []
    for number in range(12):
        path, width, height = ((wide, 64, 32), (tall, 32, 64))[number % 2]
        path = path if number != 5 else folder / "none.mp4"
        row = {"clip_id": f"c{number}", "uri": str(path), "start_frame": number, "num_frames": 4 + 3 * number, "fps": 25.0}
        row |= {"start_s": number / 25, "end_s": (4 + 4 * number) / 25, "width": width, "height": height}
        clips.append(row | {"crop_x": 0, "crop_y": 0, "crop_w": width, "crop_h": height, "caption_short": f"clip {number}"})
    return pa.Table.from_pylist(clips)


def _steps(rows: pa.Table, packed: bool, workers: int, ranks: Ranks = ALONE, state: PlanState = START) -> Iterator[LoadedStep]:
    shapes = plan_shapes(rows, ShapesConfig(areas=[[32, 16]], max_frames=9, fps="native"), Token(8, 4))
    sampler = make_sampler(plan_balance(rows, None), "m", 0)
    planner = (PackPlanner if packed else BucketPlanner)(Loads(shapes.tokens, shapes.buckets, 48, 4), sampler.rows, state)
    source = ClipSource(rows, DataConfig(windows_per_clip=3), Pixels(), 8)
    return load_steps(source, planner, Order(sampler, shapes, 3), ranks, workers)


def _same(one: LoadedStep, other: LoadedStep) -> bool:
    clips = [[clip for read in step.batches for clip in read.clips] for step in (one, other)]
    facts = [[(clip.row, clip.window, clip.fps, clip.text) for clip in part] for part in clips]
    contents = all(ours.content.equal(theirs.content) for ours, theirs in zip(*clips, strict=False))
    skipped = [[read.skipped for read in step.batches] for step in (one, other)]
    return one.part == other.part and facts[0] == facts[1] and contents and skipped[0] == skipped[1]


@pytest.mark.parametrize("packed", [False, True])
def test_any_number_of_workers_gives_the_same_steps(rows: pa.Table, packed: bool) -> None:
    with closing(_steps(rows, packed, 0)) as alone, closing(_steps(rows, packed, 2)) as spread:
        pairs = list(islice(zip(alone, spread, strict=False), STEPS))
    assert len(pairs) == STEPS and all(_same(one, other) for one, other in pairs)
    assert any(read.skipped for one, _ in pairs for read in one.batches)


def test_a_plan_goes_on_from_any_step_whatever_was_read_ahead(rows: pa.Table) -> None:
    with closing(_steps(rows, True, 2)) as whole:
        steps = list(islice(whole, STEPS))
    for number in range(STEPS - 1):
        with closing(_steps(rows, True, 0, state=steps[number].part.plan)) as rest:
            assert _same(next(rest), steps[number + 1])


@pytest.mark.parametrize("packed", [False, True])
def test_ranks_read_what_one_would_and_in_buckets_the_same_shapes(rows: pa.Table, packed: bool) -> None:
    alone = list(islice(_steps(rows, packed, 0), STEPS))
    for count in (2, 4):
        ranks = [list(islice(_steps(rows, packed, 0, Ranks(rank, count)), STEPS)) for rank in range(count)]
        for number, whole in enumerate(alone):
            parts = [steps[number] for steps in ranks]
            assert [wanted for part in parts for wanted in part.part.wanted] == list(whole.part.wanted)
            assert [part.part.first_batch for part in parts] == [rank * 4 // count for rank in range(count)]
            assert {(part.part.draws_crc32, part.part.plan) for part in parts} == {(whole.part.draws_crc32, whole.part.plan)}
            if not packed:
                size = {(w.shape.width, w.shape.height, w.shape.frames) for part in parts for batch in part.part.wanted for w in batch}
                assert len(size) == 1


def test_workers_end_with_a_trainer_that_is_killed(rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet")
    program = (
        "import sys, time, pyarrow.parquet as pq\nfrom tests.training.test_loader import _steps\n"
        "if __name__ == '__main__':\n"
        "    steps = _steps(pq.read_table(sys.argv[1]), False, 2)\n    next(steps)\n    print('read', flush=True)\n    time.sleep(60)\n"
    )
    (tmp_path / "trainer.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "trainer.py"), str(tmp_path / "rows.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as trainer:
        assert trainer.stdout.readline() == "read\n"
        others = psutil.Process(trainer.pid).children(recursive=True)
        trainer.kill()
    assert len(others) >= 3 and not psutil.wait_procs(others, timeout=30)[1]


def test_a_worker_that_dies_is_told_and_workers_end_with_their_loader(rows: pa.Table) -> None:
    steps = _steps(rows, False, 2)
    next(steps)
    (server,) = [child for child in psutil.Process().children() if len(child.children()) == 2]
    workers = server.children()
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(TrainError, match="a process that reads ahead died .*continue with --resume"):
        list(islice(steps, 50))
    steps.close()
    gc.collect()
    assert not psutil.wait_procs(workers, timeout=30)[1]
