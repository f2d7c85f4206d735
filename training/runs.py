"""The folder of a run: what it was started from, and whether it may be started or continued.

config.yaml  run.json  metrics.jsonl  audit.jsonl  tensorboard/  checkpoints/step_*/  samples/step_*.mp4  sample.mp4
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from schemas.manifest import Manifest, ManifestError, read_manifest
from training.autoencoding.perceptual import Perceptual
from training.autoencoding.pretrained import PretrainedVAE, make_vae
from training.autoencoding.preview import open_preview
from training.checkpoint import list_checkpoints, load_part, load_progress
from training.config import TrainConfig, changed_keys, dump_config, load_config
from training.controls.source import told_channels
from training.dit import DiT
from training.encoding.text_features import AnyTextEncoder, open_text_encoder
from training.plan import Manifests, Prepared, distinct
from training.settings import TrainError

_FREE = ("vae.kl_weight", "vae.weights", "vae.perceptual", "vae.adversarial")  # do not change what a vae is


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
    """Read a manifest; a further column NAME of a source list is its column `extra.NAME`, of text.

    Raises TrainError where it is missing, is none, or was changed.
    """
    try:
        manifest = read_manifest(path)
    except FileNotFoundError as error:
        raise TrainError(f"there is no manifest {path}; `reelmill manifest` writes one") from error
    except (ManifestError, OSError) as error:
        raise TrainError(f"{path} cannot be used: {error}" if isinstance(error, OSError) else str(error)) from error
    return replace(manifest, rows=_with_extra_columns(manifest.rows))


def _with_extra_columns(rows: pa.Table) -> pa.Table:
    """Rows with each key of their column `extra`, a map from text to text, as a column of its own; null where a row has it not."""
    if "extra" not in rows.column_names:
        return rows
    extra = rows["extra"]
    for name in sorted({name for chunk in extra.chunks for name in chunk.keys.unique().to_pylist()}):
        rows = rows.append_column(f"extra.{name}", pc.map_lookup(extra, pa.scalar(name), "first"))
    return rows


def load_manifests(path: str | Path | None, config: TrainConfig) -> dict[str | None, Manifest]:
    """The manifests of all stages by the name they give them; that of `path`, if any, has none. Raises TrainError."""
    manifests: dict[str | None, Manifest] = {} if path is None else {None: load_manifest(path)}
    for stage in config.stages:
        if stage.manifest is None and path is None:
            raise TrainError(f"stages: {stage.name} names no manifest, and none is given; give one with --manifest")
        if stage.manifest not in manifests:
            manifests[stage.manifest] = load_manifest(str(stage.manifest))
    return manifests


def check_run(run: RunFolder, config: TrainConfig, facts: dict[str, Any], resume: bool) -> None:
    """Raises TrainError where a run may not be started or resumed there.

    `facts` must hold data, text_encoder and vae.
    """
    _check_weights(config)
    out = run.path
    if run.facts.exists():
        _check_same(run, config, facts, resume)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainError(f"{out} exists and is not a run; choose another --out")


def start_run(run: RunFolder, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Make a run's folder, where it is not there yet. Raises TrainError."""
    if run.facts.exists():
        return
    try:
        run.checkpoints.mkdir(parents=True)
        run.config.write_text(dump_config(config))
        run.facts.write_text(json.dumps(facts, indent=2) + "\n")  # last: with it the folder is a run
    except OSError as error:
        raise TrainError(f"{run.path} cannot be written: {error.strerror}") from error


def _check_weights(config: TrainConfig) -> None:
    """Weights that are first needed in the midst of a run are tried before it."""
    open_preview(config)
    if config.vae.perceptual and any(stage.model == "vae" for stage in config.stages):
        Perceptual(Path(config.vae.perceptual.weights))


def _check_same(run: RunFolder, config: TrainConfig, facts: dict[str, Any], resume: bool) -> None:
    if not resume:
        raise TrainError(f"{run.path} holds a run already; continue it with --resume, or choose another --out")
    began = json.loads(run.facts.read_text())
    for had, has in zip(began["data"], facts["data"], strict=False):
        if had["manifest_digest"] != has["manifest_digest"]:
            digests = f"digest {had['manifest_digest'][:12]}, {has['manifest']} is {has['manifest_digest'][:12]}"
            raise TrainError(f"{run.path} was started from another manifest ({digests}); give that one, or another --out")
    if changed := changed_keys(load_config(run.config), config):
        raise TrainError(f"{run.path} was started with another config ({'; '.join(changed)}); use {run.config}, or another --out")
    _check_same_encoder(run, began, facts["text_encoder"])
    _check_same_vae(run, began, facts["vae"])
    if any(had["order_key"] != has["order_key"] for had, has in zip(began["data"], facts["data"], strict=True)):
        raise TrainError(f"{run.path} draws its clips in another order than this machine or version would; resume it where it was started")


def data_facts(manifests: Manifests, path: str | Path | None, config: TrainConfig, of_stages: Sequence[Prepared]) -> list[dict[str, Any]]:
    """What a run records of its data: of each that stages draw from its manifest, how it is balanced, and the order of its draws."""
    facts = []
    for prepared in distinct(of_stages):
        stages = [stage for stage, theirs in zip(config.stages, of_stages, strict=True) if theirs is prepared]
        manifest = manifests[stages[0].manifest]
        facts.append(
            {
                "stages": [stage.name for stage in stages],
                "manifest": str(stages[0].manifest or path),
                "manifest_digest": manifest.digest,
                "clips": manifest.rows.num_rows,
                "clips_too_elongated": prepared.num_left_out,
                "clips_held_out": prepared.held_out_rows.num_rows,
                "balance": asdict(prepared.balance.report),
                "order_key": f"{prepared.sampler.key:032x}",
            }
        )
    return facts


def text_facts(encoder: AnyTextEncoder | None) -> dict[str, str] | None:
    """What a run records of its text encoder: by its digest it is known, wherever it lies."""
    return None if encoder is None else {"folder": str(encoder.folder), "digest": encoder.digest}


def reopen_text_encoder(run: RunFolder, config: TrainConfig) -> AnyTextEncoder | None:
    """The text encoder that a run was started with. Raises TrainError where it is not there any more, or is another."""
    encoder = open_text_encoder(config)
    _check_same_encoder(run, json.loads(run.facts.read_text()), text_facts(encoder))
    return encoder


def _check_same_encoder(run: RunFolder, began: dict[str, Any], now: dict[str, str] | None) -> None:
    had, have = ("none" if facts is None else facts["digest"][:12] for facts in (began.get("text_encoder"), now))
    if had != have:
        where = began["text_encoder"]["folder"] if began.get("text_encoder") else "none"
        raise TrainError(f"{run.path} was started with another text encoder ({where}, digest {had}; this one is {have}); put that one back")


def vae_facts(vae: nn.Module) -> dict[str, str] | None:
    """Likewise of a pretrained VAE."""
    return {"folder": str(vae.folder), "digest": vae.digest} if isinstance(vae, PretrainedVAE) else None


def check_vae(run: RunFolder, vae: nn.Module) -> None:
    """Raises TrainError where the pretrained VAE is not that with which a run was started."""
    _check_same_vae(run, json.loads(run.facts.read_text()), vae_facts(vae))


def _check_same_vae(run: RunFolder, began: dict[str, Any], now: dict[str, str] | None) -> None:
    had, have = ("none" if facts is None else facts["digest"][:12] for facts in (began.get("vae"), now))
    if had != have:
        where = began["vae"]["folder"] if began.get("vae") else "none"
        raise TrainError(
            f"{run.path} was started with another vae.pretrained ({where}, digest {had}; this one is {have}); put that one back"
        )


def take_vae(config: TrainConfig, models: nn.ModuleDict) -> None:
    """Load the vae of the run that vae.weights names, if any. Raises TrainError where it has none yet, or one of another shape."""
    if config.vae.weights is None:
        return
    run, problem = RunFolder(Path(config.vae.weights)), f"vae.weights: {config.vae.weights}"
    if not run.facts.exists():
        raise TrainError(f"{problem} is not a run; `reelmill train` makes one")
    theirs, checkpoint = load_config(run.config), run.newest_checkpoint()
    stages = load_progress(checkpoint).stage if checkpoint else 0
    if checkpoint is None or "vae" in [stage.model for stage in theirs.stages[stages:]]:
        raise TrainError(f"{problem} has not trained its vae to the end yet; continue it with `reelmill train ... --resume`")
    if changed := [key for key in changed_keys(theirs, config) if key.startswith("vae.") and not key.startswith(_FREE)]:
        raise TrainError(f"{problem} has a vae of another shape ({'; '.join(changed)}); give this config the same")
    load_part(checkpoint, "vae", models["vae"])


def make_models(config: TrainConfig) -> nn.ModuleDict:
    """The models `vae` and `dit` of a configuration, with weights drawn from its seed."""
    torch.manual_seed(config.seed)
    vae, encoder = make_vae(config.vae), open_text_encoder(config)
    num_tags, feature_width = len(config.data.condition_tags), None if encoder is None else encoder.width
    dit = DiT(config.dit, config.vae.latent_channels, num_tags, feature_width, told_channels(config))
    return nn.ModuleDict({"vae": vae, "dit": dit})
