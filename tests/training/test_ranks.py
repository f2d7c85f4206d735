"""Two processes over gloo take the steps of one: the same shapes at once, the same draws in all, the same gradients."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from training.balance import plan_balance
from training.conditions import Conditions
from training.config import DiTConfig, ShapesConfig, TrainConfig
from training.data import Batch
from training.dit import DiT
from training.losses import make_noisy, noise_generator, velocity_loss
from training.packing import BucketPlanner, Loads, PackPlanner, PlannedStep, PlanState
from training.sampler import Sampler, make_sampler
from training.shapes import Shapes, Token, plan_shapes

CONFIG = TrainConfig(stages=[{"name": "v", "model": "vae", "steps": 1}], dit=DiTConfig(width=32, depth=1, heads=2, text_width=16))
SHAPES = ShapesConfig(areas=[[32, 24]], max_frames=9, fps="native")
STEPS = 4


@dataclass(frozen=True)
class Taken:
    """By step: [[draw, bucket], ...] of each batch of a rank, and the gradients of all ranks together."""

    draws: list
    gradients: np.ndarray


def _steps(packed: bool, rank: int, num_ranks: int) -> Taken:
    rows = pa.table({"crop_w": [40, 30, 30, 64], "crop_h": [30, 30, 40, 30], "num_frames": [3, 9, 5, 40]})
    for name, value in (("start_s", 0.0), ("end_s", 1.0), ("fps", 25.0)):
        rows = rows.append_column(name, pa.array([value] * 4))
    shapes, sampler = plan_shapes(rows, SHAPES, Token(8, 4)), make_sampler(plan_balance(rows, None), "m", 0)
    loads = Loads(shapes.tokens, shapes.buckets, 80, 4)
    planner = (PackPlanner if packed else BucketPlanner)(loads, sampler.rows, PlanState())
    torch.manual_seed(0)
    dit = DiT(CONFIG.dit, 4, num_tags=0)
    torch.nn.init.normal_(dit.out.weight)
    draws, gradients = [], []
    for number in range(STEPS):
        draws.append(_take(dit, planner.step(), rank, num_ranks, number, shapes, sampler))
        gradient = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in dit.parameters()])
        if num_ranks > 1:
            dist.all_reduce(gradient)
        gradients.append(gradient.numpy())
        dit.zero_grad()
    return Taken(draws, np.stack(gradients))


def _run(rank: int, num_ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    (folder / str(rank)).write_bytes(pickle.dumps({packed: _steps(packed, rank, num_ranks) for packed in (False, True)}))
    dist.destroy_process_group()


def _take(dit: DiT, step: PlannedStep, rank: int, num_ranks: int, number: int, shapes: Shapes, sampler: Sampler) -> list:
    """Add up the gradients of a rank's share of a step; [[draw, bucket], ...] of each of its batches."""

    def latents(k: int) -> torch.Tensor:
        row = sampler.draw(k).row
        return torch.randn(4, 1 + int(shapes.frames[row]) // 4, 2, 2 + row, generator=torch.Generator().manual_seed(k))

    whole = sum(latents(k).numel() for batch in step.batches for k in batch)
    first, took = rank * len(step.batches) // num_ranks, []
    for index, draws in enumerate(step.of_rank(rank, num_ranks), first):
        x = tuple(map(latents, draws))
        told = Conditions(("a",) * len(x), torch.full((len(x),), 6.0), torch.empty(len(x), 0, dtype=torch.int64))
        batch = Batch(x, told, torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x)))
        loss = velocity_loss(dit, make_noisy(batch, CONFIG.flow, 1, noise_generator(0, 0, number, index))).total
        (loss * sum(clip.numel() for clip in x) / whole).backward()
        took.append([[k, int(shapes.buckets[sampler.draw(k).row])] for k in draws])
    return took


def test_two_ranks_take_the_steps_of_one(tmp_path: Path) -> None:
    mp.start_processes(_run, args=(2, tmp_path), nprocs=2, start_method="spawn")
    ranks = [pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in range(2)]
    for packed in (False, True):
        alone, first, second = _steps(packed, 0, 1), ranks[0][packed], ranks[1][packed]
        assert [ours + theirs for ours, theirs in zip(first.draws, second.draws, strict=True)] == alone.draws
        if not packed:
            shapes = [[[[bucket for _, bucket in batch] for batch in step] for step in rank.draws] for rank in (first, second)]
            assert shapes[0] == shapes[1]
        assert np.array_equal(first.gradients, second.gradients) and np.abs(alone.gradients).max() > 1e-3
        assert np.allclose(first.gradients, alone.gradients, atol=1e-6, rtol=1e-4)
