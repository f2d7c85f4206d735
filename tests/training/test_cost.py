"""The dry run of a plan against real steps: operations and saved bytes are equal, memory is near what torch's allocator hands out."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from schemas.manifest import read_manifest, write_manifest
from tests.training.tiny_encoders import tiny_encoder
from training.attention import Kernels
from training.config import TextConfig, TrainConfig
from training.dit import DiT
from training.forecast.cost import RunCost, _loss, count_flops, encode, make_batch, make_pixels, run_cost, train_flops, train_memory
from training.forecast.devices import device_of
from training.forecast.timing import estimate_time, measure_time
from training.plan import PlannedRun, PlannedStage, plan_run
from training.runs import make_models
from training.settings import TrainError

PACKED = {"name": "packed", "model": "dit", "steps": 9, "batching": "packed", "max_tokens": 300, "micro_batches": 4}
CONFIG = TrainConfig(
    data={"shapes": {"areas": [[64, 40]], "max_frames": 9}, "condition_tags": ["motion_mean"]},
    vae={"latent_channels": 4, "widths": [16, 16, 16]},
    dit={"width": 32, "depth": 1, "heads": 2},
    stages=[{"name": "vae", "model": "vae", "steps": 4, "max_tokens": 240}, {**PACKED, "name": "bucketed", "batching": "bucketed"}, PACKED],
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> PlannedRun:
    """A plan of 60 clips in several shapes and lengths, with texts of several lengths."""
    path = tmp_path_factory.mktemp("cost") / "m.parquet"
    sizes = [(640, 360), (360, 640), (480, 480)]
    rows = [
        {"clip_id": str(i), "video_id": str(i), "uri": "none", "start_frame": 0, "num_frames": 8 + 4 * (i % 7), "start_s": 0.0}
        | {"end_s": (8 + 4 * (i % 7)) / 24, "fps": 24.0, "crop_w": sizes[i % 3][0], "crop_h": sizes[i % 3][1]}
        | {"width": sizes[i % 3][0], "height": sizes[i % 3][1], "crop_x": 0, "crop_y": 0}
        | {"motion_mean": float(i), "caption_dense": "a dog runs " * (i % 5)}
        for i in range(60)
    ]
    write_manifest(path, pa.Table.from_pylist(rows), "true", {}, {})
    return plan_run({None: read_manifest(path)}, CONFIG)


@pytest.fixture(scope="module")
def cost(run) -> RunCost:
    return run_cost(run, CONFIG)


def _only_packed(run: PlannedRun, **changes: object) -> tuple[PlannedRun, TrainConfig]:
    return replace(run, stages=run.stages[2:]), CONFIG.model_copy(update={"stages": CONFIG.stages[2:], **changes})


def _dry(run: PlannedRun, stage: PlannedStage, what):
    with FakeTensorMode():
        models = make_models(CONFIG)
        return what(models[stage.plan.model], make_batch(stage, CONFIG, stage.largest))


def _real(run: PlannedRun, stage: PlannedStage, what):
    return what(make_models(CONFIG)[stage.plan.model], make_batch(stage, CONFIG, stage.largest))


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["vae", "bucketed", "packed"])
def stage(request, run) -> PlannedStage:
    return run.stages[request.param]


def test_operations_of_the_dry_run_are_those_of_a_real_step(run, stage):
    found = _dry(run, stage, train_flops)
    assert found == _real(run, stage, train_flops) > 1e6

    def plain(model, batch):  # torch's own counter; attention as the matrix products of which it has formulas
        if isinstance(model, DiT):
            model.use(Kernels((SDPBackend.MATH,), (SDPBackend.MATH,)))
        with FlopCounterMode(display=False) as flops:
            _loss(model, batch).backward()
        return flops.get_total_flops()

    assert found == _real(run, stage, plain)


def test_bytes_saved_for_backward_are_those_of_a_real_step(run, stage):
    dry, real = _dry(run, stage, train_memory), _real(run, stage, train_memory)

    def by_address(model, batch):
        kept, weights = {}, {weight.data_ptr() for weight in model.parameters()}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = _loss(model, batch)
        assert loss.isfinite() and kept.keys() & weights
        return sum(size for address, size in kept.items() if address not in weights)

    assert dry.saved == real.saved == _real(run, stage, by_address) > 1e5
    assert dry.peak == pytest.approx(real.peak, rel=1e-3)


def test_peak_memory_is_near_what_the_allocator_hands_out(run, stage):
    def allocated(model, batch):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            _loss(model, batch).backward()
        events = sorted((event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"), key=_start)
        now = peak = 0
        for event in events:
            now += event.nbytes()
            peak = max(peak, now)
        return peak

    # In convolutions the allocator also sees what kernels make for themselves.
    assert _dry(run, stage, train_memory).peak == pytest.approx(
        _real(run, stage, allocated), rel=0.15 if stage.plan.model == "vae" else 0.01
    )


def _start(event) -> int:
    return event.start_ns()


def test_attention_costs_the_square_of_each_clip_and_not_of_the_row(run):
    """Two clips of L tokens end to end cost as two, not as one of 2 L."""
    stage = run.stages[2]
    clip = max(stage.largest, key=lambda k: stage.shapes.tokens[stage.prepared.sampler.rows(k, 1)[0]])
    other = min(stage.largest, key=lambda k: stage.shapes.tokens[stage.prepared.sampler.rows(k, 1)[0]])
    with FakeTensorMode():
        dit = make_models(CONFIG)["dit"]
        one, two, mixed, more = (
            train_flops(dit, replace(batch, conditions=replace(batch.conditions, texts=("",) * len(draws))))
            for draws in ([clip], [clip] * 2, [clip, other], [clip] * 2 + [other] * 2)
            for batch in [make_batch(stage, CONFIG, draws)]
        )
    assert two == 2 * one and more == 2 * mixed < 4 * one


def test_costs_of_a_run(run, cost):
    models = make_models(CONFIG)
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
    assert cost.weights == sizes and cost.bytes_per_number == 4
    for of_stage, stage in zip(cost.stages, run.stages, strict=True):
        memory, own = of_stage.memory, 4 * sizes[stage.plan.model]
        assert memory.peak == memory.weights + memory.average + memory.optimizer + memory.gradients + memory.activations
        assert memory.weights >= 4 * sum(sizes.values()) and memory.optimizer == 2 * own
        assert own <= memory.average < 1.01 * own  # and the statistics of latents
        assert memory.gradients == (own if stage.plan.model == "dit" else 0)  # of the batch before, where there are several
        assert memory.activations >= memory.saved > 0
        flops = [_real_flops(run, stage, draws, models) for draws in stage.probes]
        assert of_stage.step_flops == pytest.approx(stage.plan.micro_batches * sum(flops) / len(flops))
    assert cost.stages[0].encode_flops == 0
    with count_flops() as flops:
        for draws in run.stages[2].probes:
            for pixels in make_pixels(run.stages[2], draws):
                encode(models["vae"], pixels)
    assert cost.stages[2].encode_flops == pytest.approx(4 * flops.get_total_flops() / len(run.stages[2].probes))


def _real_flops(run, stage, draws, models) -> int:
    return train_flops(models[stage.plan.model], make_batch(stage, CONFIG, draws))


def test_ranks_share_the_batches_of_a_step(run):
    part, config = _only_packed(run)
    alone, shared = run_cost(part, config, 1).stages[0], run_cost(part, config, 4).stages[0]
    assert shared.step_flops == alone.step_flops and alone.memory.gradients > 0
    assert shared.memory.gradients < alone.memory.gradients and shared.memory.peak < alone.memory.peak  # one batch each: none before it
    with pytest.raises(TrainError, match="3 ranks cannot share the 4 micro_batches of packed equally"):
        run_cost(part, config, 3)


def test_a_model_that_no_machine_here_could_hold_is_planned(run, cost):
    part, huge = _only_packed(run, dit=CONFIG.dit.model_copy(update={"width": 16384, "mlp_width": 65536, "depth": 4, "heads": 128}))
    needed = run_cost(part, huge)
    assert needed.weights["dit"] > 15e9 and needed.stages[0].memory.peak > 5 * 4 * 15e9
    stages = (*cost.stages[:2], needed.stages[0])
    assert [stage.fits for stage in estimate_time(run, replace(cost, stages=stages), device_of("h100"), 0.4).stages] == [True, True, False]


def test_time_is_operations_by_speed(run, cost):
    device = device_of("H100")
    time = estimate_time(run, cost, device, 0.5)
    for stage, of_stage, plan in zip(time.stages, cost.stages, run.plan.stages, strict=True):
        assert stage.step_seconds == pytest.approx((of_stage.step_flops + of_stage.encode_flops) / (989e12 / 2))
        assert stage.hours == pytest.approx(stage.step_seconds * plan.steps / 3600) and stage.fits
    assert time.hours == pytest.approx(math.fsum(stage.hours for stage in time.stages)) and "50% (MFU) of its 989" in time.basis
    eight = estimate_time(run, replace(cost, num_ranks=8), device, 0.5)
    assert eight.hours == pytest.approx(time.hours / 8) and "8 ranks of h100" in eight.basis
    with pytest.raises(TrainError, match="did you mean 'b200'"):
        device_of("b2000")


def test_measured_time_is_of_real_steps(run, cost, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "training.forecast.timing.update_average", lambda training, decay, step: taken.append(type(training.model).__name__)
    )
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    time = measure_time(run, cost, CONFIG)
    assert taken == ["VAE"] * 3 + ["DiT"] * 6
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert [stage.encode_seconds > 0 for stage in time.stages] == [False, True, True]
    assert all(0 <= stage.encode_seconds < stage.step_seconds for stage in time.stages) and time.memory_bytes is None
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(TrainError, match="a step of vae needs .* GB, and this machine has 0.0"):
        measure_time(run, cost, CONFIG)


def test_with_a_cache_nothing_is_encoded(run, cost):
    part, cached = _only_packed(run, data=CONFIG.data.model_copy(update={"cache": "kept"}))
    stage = run_cost(part, cached).stages[0]
    assert stage.encode_flops == 0 < cost.stages[2].encode_flops and stage.step_flops == cost.stages[2].step_flops


def test_texts_of_a_frozen_encoder_cost_by_their_most_tokens(run, tmp_path):
    folder, costs = tiny_encoder(tmp_path / "t5"), []
    for max_tokens in (16, 32):
        costs.append(run_cost(*_only_packed(run, text=TextConfig(encoder=str(folder), max_tokens=max_tokens))))
    short, long = (cost.stages[0] for cost in costs)
    assert 0 < short.step_flops < long.step_flops and 0 < short.memory.saved < long.memory.saved
    assert costs[0].weights == costs[1].weights
