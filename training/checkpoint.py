"""Checkpoints: a folder per step that is there whole or not at all, written while the run goes on, and that loads without pickled code.

They are distributed checkpoints of torch (DCP) in the safetensors format: each rank writes what it has of the weights, and any
number of ranks, or a process alone, reads them. The noise of a step is a pure function of (seed, stage, step) and its clips are one
of the plan's state, so no random state needs keeping: weights, averaged weights, optimizer state and `Progress` are everything a run
needs to go on as if never stopped.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.checkpoint.storage import WriteResult

from training.guards import Spikes
from training.packing import PlanState
from training.ranks import Ranks
from training.settings import TrainError

_NAME = re.compile(r"step_(\d{8})")
_PROGRESS, _AVERAGE, _OPTIMIZER = "progress.json", "average.", "optimizer."
# A process alone reads and writes without a group, on purpose.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: in stage number `stage`, `step` steps done there and `total_steps` in all, and where its plan does.

    `spikes` is how large gradients of the stage usually are. `audit` are the sums of what the stage was trained on, and `skipped` the
    clips that could not be read (clip_id -> why). Both are kept for checkpoints alone.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    plan: PlanState = PlanState()
    spikes: Spikes = Spikes()
    audit: tuple[float, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What a stage changes: the model, its moving average, and the optimizer."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """Writes the checkpoints of a run into `folder`, of which it keeps the newest `keep`. All ranks make one, and save together.

    On leaving, the last one is waited for.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks, device: torch.device):
        self._folder, self._keep, self._ranks = folder, keep, ranks
        self._stager: AsyncStager | None = None  # pinned memory takes long to get, so it is kept
        if device.type == "cuda":
            self._stager = DefaultStager(StagingOptions(True, False, False, False))
        self._writing: Future | None = None
        if ranks.leads:
            for leftover in folder.glob(".step_*"):  # of a process that was killed while writing
                shutil.rmtree(leftover)

    def save(self, progress: Progress, models: nn.ModuleDict, training: Training | None) -> None:
        """Copy everything to host memory, and begin to write it as `folder`/step_N. `training` is None between stages.

        Waits for the one before. Raises TrainError where that could not be written. What a run was resumed from is there already:
        the end of a stage, of which it takes what is carried over.
        """
        self.wait()
        target = self._folder / f"step_{progress.total_steps:08d}"
        if target.exists():
            return
        tensors = dict(models.state_dict())
        if training is not None:
            tensors |= {_AVERAGE + name: value for name, value in training.average.state_dict().items()}
            for name, weight in training.model.named_parameters():
                state = training.optimizer.state.get(weight, {})
                tensors |= {f"{_OPTIMIZER}{name}.{kind}": value for kind, value in state.items()}
        writer = _Writer(target, json.dumps(asdict(progress)), self._keep)
        group = {"process_group": self._ranks.saving} if self._ranks.saving else {"no_dist": True}
        told = dcp.async_save(tensors, storage_writer=writer, async_stager=self._stager, **group)
        self._writing = told if isinstance(told, Future) else told.upload_completion

    def wait(self) -> None:
        """Until what was saved is on disk. Raises TrainError where it could not be written."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (CheckpointException, OSError) as error:
            raise TrainError(f"{self._folder} cannot be written: {' '.join(str(error).split())[-200:]}") from error

    def __exit__(self, *error: object) -> None:
        self.wait()


class _Writer(dcp.HuggingFaceStorageWriter):
    """Writes under a scratch name; one rank gives the folder its own when all ranks have written."""

    def __init__(self, target: Path, progress: str, keep: int):
        self._target, self._progress, self._keep = target, progress, keep
        self._scratch = target.with_name(f".{target.name}")
        super().__init__(str(self._scratch), save_distributed=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        (self._scratch / _PROGRESS).write_text(self._progress)
        _to_disk(self._scratch / _PROGRESS)
        os.replace(self._scratch, self._target)
        _to_disk(self._target.parent)
        for old in list_checkpoints(self._target.parent)[: -self._keep]:
            shutil.rmtree(old)


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def load_progress(checkpoint: Path) -> Progress:
    """Where the run stood. Raises TrainError."""
    try:
        content = json.loads((checkpoint / _PROGRESS).read_text())
        plan = PlanState(content["plan"]["next_k"], tuple(content["plan"]["carried"]))
        spikes = Spikes(**content["spikes"])
        return Progress(**{**content, "plan": plan, "spikes": spikes, "audit": tuple(content["audit"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainError(f"{checkpoint} is not a checkpoint: {error}; remove it to use the one before it") from error


def load_models(checkpoint: Path, models: nn.ModuleDict) -> None:
    """Load all weights. Raises TrainError."""
    for name, model in models.items():
        load_part(checkpoint, name, model)


def load_part(checkpoint: Path, name: str, model: nn.Module) -> None:
    """Load one model alone. Raises TrainError."""
    _load(model, checkpoint, f"{name}.")


def load_average(checkpoint: Path, model: nn.Module) -> None:
    """Load a stage's moving average, where the checkpoint is of the middle of the stage. Raises TrainError."""
    if any(name.startswith(_AVERAGE) for name in _sizes(checkpoint)):
        _load(model, checkpoint, _AVERAGE)


def load_training(checkpoint: Path, training: Training) -> None:
    """Load average and optimizer state. Raises TrainError."""
    load_average(checkpoint, training.average)
    sizes, tensors = _sizes(checkpoint), dict[str, Tensor]()
    for name, weight in training.model.named_parameters():
        prefix = f"{_OPTIMIZER}{name}."
        for key in (key for key in sizes if key.startswith(prefix)):
            value = torch.zeros_like(weight) if sizes[key] else torch.zeros((), device=weight.device)
            training.optimizer.state[weight][key.removeprefix(prefix)] = tensors[key] = value
    _read(checkpoint, tensors)


def _load(module: nn.Module, checkpoint: Path, prefix: str) -> None:
    tensors = {prefix + name: value for name, value in module.state_dict().items()}
    known = {name for name in _sizes(checkpoint) if name.startswith(prefix)}
    critic = f"{prefix}critic."  # of a vae, which is the same with one and without
    if wrong := sorted(name for name in known ^ tensors.keys() if not name.startswith(critic)):
        raise TrainError(f"{checkpoint} cannot be loaded: {len(wrong)} tensors, such as {wrong[0]}, are only in one of it and the model")
    _read(checkpoint, {name: value for name, value in tensors.items() if name in known})


def _sizes(checkpoint: Path) -> dict[str, torch.Size]:
    """The shape of each tensor in a checkpoint. Raises TrainError."""
    try:
        metadata = dcp.HuggingFaceStorageReader(str(checkpoint)).read_metadata()
    except Exception as error:  # safetensors raises an error type of its own beside OSError
        raise _not_loaded(checkpoint, error) from error
    return {name: tensor.size for name, tensor in metadata.state_dict_metadata.items()}


def _read(checkpoint: Path, tensors: dict[str, Any]) -> None:
    """Fill tensors by their names, each rank for itself. Raises TrainError."""
    try:
        dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(checkpoint)), no_dist=True)
    except (Exception, CheckpointException) as error:
        raise _not_loaded(checkpoint, error) from error


def _not_loaded(checkpoint: Path, error: BaseException) -> TrainError:
    return TrainError(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())[:200]}")


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
