"""What the steps of a plan cost: planned batches come in, floating point operations and bytes of memory go out.

Both come from a dry run of the models' own code on fake tensors, which have shapes and no numbers behind them, so that a
model of billions of weights takes seconds and no memory. What is counted are the operations of matrix products, convolutions and
attention, forward and backward, 2 to a multiply-add; of attention those of the model and not what a fused kernel repeats in its
backward pass, as for the MFU of PaLM (Chowdhery et al. 2022). Memory is what tensors hold at the highest moment, in the precision of the
trainer. Not in it are workspaces inside kernels and of the optimizer's update, fragments, and what the framework itself takes.
"""

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from training.autoencoding.pretrained import PretrainedVAE
from training.conditions import Conditions, TextFeatures
from training.config import FlowConfig, TrainConfig
from training.data import Batch
from training.encoding.text_features import open_text_encoder
from training.losses import make_noisy, velocity_loss
from training.plan import PlannedRun, PlannedStage, ShapePlan
from training.ranks import check_ranks
from training.runs import make_models
from training.shapes import Shape, latent_shape
from training.texts import choose_text
from training.vae import VAE, vae_loss


@dataclass(frozen=True)
class Memory:
    """Bytes that tensors of one rank hold at the highest moment of a step; every rank holds whole models.

    `moment` is "training" or, where clips take more to encode, "encoding". `activations` are what there is beside the other
    parts: mostly what the backward pass needs, which alone is `saved` at the end of the largest batch's forward pass.
    """

    moment: str
    weights: int  # of all models
    average: int
    optimizer: int
    gradients: int
    activations: int
    saved: int
    peak: int  # all but `saved`, which is a part of the activations


@dataclass(frozen=True)
class StageCost:
    """One stage. `step_flops` are of the trained model in one step over all ranks, in the mean over `probes` planned batches.

    `encode_flops` come beside them for a dit, whose clips the frozen vae encodes; none with data.cache, which holds their latents.
    """

    name: str
    probes: int
    step_flops: float
    encode_flops: float
    memory: Memory


@dataclass(frozen=True)
class RunCost:
    """All stages, the number of weights of each model, and of how many bytes one number is."""

    weights: dict[str, int]
    bytes_per_number: int
    num_ranks: int
    stages: tuple[StageCost, ...]


@dataclass(frozen=True)
class PassMemory:
    """Bytes of one pass: saved for backward, alive at most beside what was there before, and how many of these were gradients."""

    saved: int
    peak: int
    gradients: int


def run_cost(run: PlannedRun, config: TrainConfig, num_ranks: int = 1) -> RunCost:
    """The cost of each stage of a run. Raises TrainError where ranks cannot share the batches of a step equally."""
    check_ranks(config, num_ranks)
    with FakeTensorMode():
        models = make_models(config)
        stages = tuple(_stage_cost(stage, config, models, num_ranks) for stage in run.stages)
        sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
        return RunCost(sizes, next(models.parameters()).element_size(), num_ranks, stages)


def make_batch(stage: PlannedStage, config: TrainConfig, draws: Sequence[int]) -> Batch:
    """A batch as the trainer would make it of planned draws, with their shapes and texts, but of random pixels or latents."""
    sampler, rows = stage.prepared.sampler, stage.prepared.rows
    chosen = [int(sampler.rows(k, 1)[0]) for k in draws]
    shapes = [stage.shapes.of(row) for row in chosen]
    lengths = config.data.caption_lengths
    texts = [
        choose_text(rows.slice(row, 1).to_pylist()[0], lengths, sampler.draw(k).text_choice) for k, row in zip(draws, chosen, strict=True)
    ]
    x = tuple(
        torch.randn(_pixels(shape) if stage.plan.model == "vae" else latent_shape(shape.width, shape.height, shape.frames, config.vae))
        for shape in shapes
    )
    latent_fps = torch.tensor([shape.fps / config.vae.time_factor for shape in shapes], dtype=torch.float32)
    tags = torch.zeros(len(x), len(config.data.condition_tags), dtype=torch.int64)
    features = _features(config, len(x)) if stage.plan.model == "dit" else None
    return Batch(x, Conditions(tuple(texts), latent_fps, tags, features), torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x)))


def make_pixels(stage: PlannedStage, draws: Sequence[int]) -> tuple[Tensor, ...]:
    """Random pixels [3, T, H, W] in the shapes of draws."""
    return tuple(torch.randn(_pixels(stage.shapes.of(int(stage.prepared.sampler.rows(k, 1)[0])))) for k in draws)


def train_flops(model: nn.Module, batch: Batch) -> int:
    """Operations of a forward and backward pass on a batch, real or fake."""
    with count_flops() as flops:
        _loss(model, batch).backward()
    return flops.get_total_flops()


def train_memory(model: nn.Module, batch: Batch) -> PassMemory:
    """What the tensors of a forward and backward pass take, real or fake. Gradients are added to those that are there."""
    saved: dict[int, int] = {}
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with _Alive() as alive, _counted_gradients(model, alive):
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = _loss(model, batch)
        loss.backward()
    return PassMemory(sum(saved.values()), alive.peak, alive.gradients_at_peak)


def count_flops() -> FlopCounterMode:
    """Counts operations, those of attention on a CPU as well, for which torch has no formula of its own."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={attention: _attention_flops, backward: _attention_backward_flops})


# ---- a stage ----


def _stage_cost(stage: PlannedStage, config: TrainConfig, models: nn.ModuleDict, num_ranks: int) -> StageCost:
    plan, count = stage.plan, len(stage.probes)
    trained = _probe_flops(stage, config, models[plan.model].train())
    encoded = _probe_encode_flops(stage, models["vae"]) if encodes(stage, config) else 0
    memory = _memory(stage, config, models, plan.micro_batches // num_ranks)
    return StageCost(plan.name, count, trained * plan.micro_batches / count, encoded * plan.micro_batches / count, memory)


def _probe_flops(stage: PlannedStage, config: TrainConfig, model: nn.Module) -> int:
    """Operations of all probes together; those of equal shapes are looked at once."""
    known: dict[Any, int] = {}
    total = 0
    for draws in stage.probes:
        batch = make_batch(stage, config, draws)
        likeness = (tuple(x.shape for x in batch.x), max(len(text.encode()) for text in batch.conditions.texts))
        if likeness not in known:
            known[likeness] = train_flops(model, batch)
        total += known[likeness]
    return total


def _probe_encode_flops(stage: PlannedStage, vae: VAE) -> int:
    """Operations of encoding the clips of all probes."""
    sizes = Counter(_pixels(stage.shapes.of(int(stage.prepared.sampler.rows(k, 1)[0]))) for draws in stage.probes for k in draws)
    total = 0
    for pixels, clips in sizes.items():
        with count_flops() as flops:
            encode(vae, torch.empty(pixels))
        total += clips * flops.get_total_flops()
    return total


def _memory(stage: PlannedStage, config: TrainConfig, models: nn.ModuleDict, batches_of_rank: int) -> Memory:
    """Whole batches of a step lie ready before the first is trained on; from the second on there are gradients from before."""
    model, plan = models[stage.plan.model], stage.plan
    for weight in model.parameters():
        weight.grad = torch.empty_like(weight) if batches_of_rank > 1 else None
    with _Alive() as inputs:
        batch = make_batch(stage, config, stage.largest)
    waiting = inputs.now * batches_of_rank
    passed = train_memory(model, batch)
    peaks = [("training", passed.gradients, passed.peak - passed.gradients + waiting)]
    parameters = sum(map(_bytes, model.parameters()))
    if encodes(stage, config):
        with _Alive() as encoding:
            encode(models["vae"], torch.empty(max((_pixels(shape) for shape in plan.shapes), key=math.prod)))
        peaks.append(("encoding", parameters, encoding.peak + waiting))  # the gradients of the step before are still there
    moment, gradients, activations = max(peaks, key=lambda peak: peak[1] + peak[2])
    weights, average = (sum(map(_bytes, part.state_dict().values())) for part in (models, model))
    weights += models["vae"].num_bytes if isinstance(models["vae"], PretrainedVAE) else 0  # kept out of state dicts
    parts = (weights, average, 2 * parameters, gradients, activations)
    return Memory(moment, *parts, saved=passed.saved, peak=sum(parts))


def encodes(stage: PlannedStage, config: TrainConfig) -> bool:
    """Whether clips are encoded in a stage: for a dit that has no cache of latents."""
    return stage.plan.model == "dit" and config.data.cache is None


@torch.no_grad()
def encode(vae: VAE, pixels: Tensor) -> Tensor:
    """The latents of one clip [3, T, H, W], encoded as the trainer does it: alone."""
    return vae.to_latents(pixels[None])[0]


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """The trainer's loss; nothing is left out of the conditions, since a dropped text would be shorter."""
    if isinstance(model, VAE):
        return vae_loss(model, torch.stack(batch.x), torch.Generator()).total
    return velocity_loss(model, make_noisy(batch, FlowConfig(), 1, torch.Generator())).total


def _features(config: TrainConfig, count: int) -> TextFeatures | None:
    """Random features of as many tokens as texts may have, where a frozen encoder reads them: it alone knows how many there are."""
    encoder = open_text_encoder(config)
    if encoder is None:
        return None
    features = torch.randn(config.text.max_tokens, encoder.width)
    return TextFeatures((features,) * count, features)


def _pixels(shape: Shape | ShapePlan) -> tuple[int, ...]:
    return 3, shape.frames, shape.height, shape.width


# ---- what is counted ----


class _Alive(TorchDispatchMode):
    """Bytes of the storages made within it that are alive: `now`, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.gradients = self.gradients_at_peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        before = {value.untyped_storage()._cdata for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)}
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in before:
                self._see(value.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = weakref.ref(storage, partial(self._gone, key, size))
        self.now += size
        if self.now > self.peak:
            self.peak, self.gradients_at_peak = self.now, self.gradients

    def _gone(self, key: int, size: int, _: object) -> None:
        del self._storages[key]
        self.now -= size


@contextmanager
def _counted_gradients(model: nn.Module, alive: _Alive) -> Iterator[None]:
    """Tell `alive` of the gradients that there are and of those that come."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    alive.gradients = sum(_bytes(weight.grad) for weight in weights if weight.grad is not None)
    alive.now = alive.peak = alive.gradients_at_peak = alive.gradients

    def came(weight: Tensor) -> None:
        alive.gradients += _bytes(weight)

    hooks = [weight.register_post_accumulate_grad_hook(came) for weight in weights if weight.grad is None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 2 * sdpa_flop_count(query, key, value)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
