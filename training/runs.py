"""The folder of a run: what it was started from, and whether it may be started or continued.

config.yaml  run.json  metrics.jsonl  tensorboard/  checkpoints/step_*/  samples/step_*.mp4  sample.mp4
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from schemas.manifest import Manifest, ManifestError, read_manifest
from training.checkpoint import list_checkpoints
from training.config import TrainConfig, TrainError, changed_keys, dump_config, load_config
from training.dit import DiT
from training.vae import VAE


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def facts(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def sample(self) -> Path:
        return self.path / "sample.mp4"

    def sample_at(self, total_steps: int, kind: str = "") -> Path:
        return self.path / "samples" / f"step_{total_steps:08d}{kind}.mp4"

    def newest_checkpoint(self) -> Path | None:
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None


def load_manifest(path: str | Path) -> Manifest:
    """Read a manifest. Raises TrainError where it is missing, is none, or was changed."""
    try:
        return read_manifest(path)
    except FileNotFoundError as error:
        raise TrainError(f"there is no manifest {path}; `reelmill manifest` writes one") from error
    except (ManifestError, OSError) as error:
        raise TrainError(f"{path} cannot be used: {error}" if isinstance(error, OSError) else str(error)) from error


def open_run(out: Path, config: TrainConfig, facts: dict[str, Any], resume: bool) -> RunFolder:
    """Start a run's folder, or enter the one to resume. `facts` must hold manifest_digest and order_key. Raises TrainError."""
    run = RunFolder(out)
    if run.facts.exists():
        _check_same(run, config, facts, resume)
        return run
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainError(f"{out} exists and is not a run; choose another --out")
    try:
        run.checkpoints.mkdir(parents=True)
        run.config.write_text(dump_config(config))
        run.facts.write_text(json.dumps(facts, indent=2) + "\n")  # last: with it the folder is a run
    except OSError as error:
        raise TrainError(f"{out} cannot be written: {error.strerror}") from error
    return run


def _check_same(run: RunFolder, config: TrainConfig, facts: dict[str, Any], resume: bool) -> None:
    if not resume:
        raise TrainError(f"{run.path} holds a run already; continue it with --resume, or choose another --out")
    began, manifest_digest = json.loads(run.facts.read_text()), facts["manifest_digest"]
    if (digest := began["manifest_digest"]) != manifest_digest:
        digests = f"digest {digest[:12]}, this one is {manifest_digest[:12]}"
        raise TrainError(f"{run.path} was started from another manifest ({digests}); give that one, or another --out")
    if changed := changed_keys(load_config(run.config), config):
        raise TrainError(f"{run.path} was started with another config ({'; '.join(changed)}); use {run.config}, or another --out")
    if began["order_key"] != facts["order_key"]:
        raise TrainError(f"{run.path} draws its clips in another order than this machine or version would; resume it where it was started")


def make_models(config: TrainConfig) -> nn.ModuleDict:
    """The models `vae` and `dit` of a configuration, with weights drawn from its seed."""
    torch.manual_seed(config.seed)
    vae, num_tags = VAE(config.vae), len(config.data.condition_tags)
    return nn.ModuleDict({"vae": vae, "dit": DiT(config.dit, config.vae.latent_channels, num_tags)})
