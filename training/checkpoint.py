"""Checkpoints: a folder per step that is there whole or not at all, and that loads without running any pickled code.

The noise of a step is a pure function of (seed, stage, step) and its clips are one of the plan's state, so no random
state needs keeping: weights, averaged weights, optimizer state and `Progress` are everything a run needs to go on as if never stopped.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.config import TrainError
from training.packing import PlanState

_NAME = re.compile(r"step_(\d{8})")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: in stage number `stage`, `step` steps done there and `total_steps` in all, and where its plan does.

    `audit` are the sums of what the stage was trained on, and `skipped` the clips that could not be read (clip_id -> why). Both
    are kept for checkpoints alone.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    plan: PlanState = PlanState()
    audit: tuple[float, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """What a stage changes: the model, its moving average, and the optimizer."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer


def save_checkpoint(folder: Path, progress: Progress, models: nn.ModuleDict, training: Training | None, keep: int) -> None:
    """Write `folder`/step_N and remove all but the newest `keep`. `training` is None between stages."""
    target = folder / f"step_{progress.total_steps:08d}"
    scratch = folder / f".{target.name}.{os.getpid()}"
    scratch.mkdir(parents=True)
    save_file(_tensors(models), scratch / "models.safetensors")
    if training is not None:
        save_file(_tensors(training.average), scratch / "average.safetensors")
        torch.save(training.optimizer.state_dict(), scratch / "optimizer.pt")
    (scratch / "progress.json").write_text(json.dumps(asdict(progress)))
    for file in scratch.iterdir():
        _to_disk(file)
    os.replace(scratch, target)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    for leftover in folder.glob(".step_*"):  # of a process that was killed while writing
        shutil.rmtree(leftover)


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)) if folder.is_dir() else []


def load_progress(checkpoint: Path) -> Progress:
    """Where the run stood. Raises TrainError."""
    try:
        content = json.loads((checkpoint / "progress.json").read_text())
        plan = PlanState(content["plan"]["next_k"], tuple(content["plan"]["carried"]))
        return Progress(**{**content, "plan": plan, "audit": tuple(content["audit"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TrainError(f"{checkpoint} is not a checkpoint: {error}; remove it to use the one before it") from error


def load_models(checkpoint: Path, models: nn.ModuleDict) -> None:
    """Load all weights. Raises TrainError."""
    _load(models, checkpoint / "models.safetensors")


def load_part(checkpoint: Path, name: str, model: nn.Module) -> None:
    """Load one model alone. Raises TrainError."""
    _load(model, checkpoint / "models.safetensors", f"{name}.")


def load_average(checkpoint: Path, model: nn.Module) -> None:
    """Load a stage's moving average, where the checkpoint is of the middle of the stage. Raises TrainError."""
    if (checkpoint / "average.safetensors").exists():
        _load(model, checkpoint / "average.safetensors")


def load_training(checkpoint: Path, training: Training) -> None:
    """Load average and optimizer state. Raises TrainError."""
    load_average(checkpoint, training.average)
    state: dict[str, Any] = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    training.optimizer.load_state_dict(state)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in module.state_dict().items()}


def _load(module: nn.Module, path: Path, prefix: str = "") -> None:
    try:
        module.load_state_dict({name[len(prefix) :]: value for name, value in load_file(path).items() if name.startswith(prefix)})
    except Exception as error:  # safetensors raises an error type of its own beside OSError, torch a RuntimeError
        raise TrainError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def _to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
