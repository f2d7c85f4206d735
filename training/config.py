"""The configuration of a run: one YAML file in, one frozen, fully resolved object out.

Unknown keys are errors that name the nearest known key. No torch here, so that a bad file is reported at once.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from training.autoencoding.published import published_vae
from training.balancing.targets import BalanceConfig
from training.settings import NotNegative, Positive, PositiveInt, Share, Strict, TrainError

# On resuming. A text encoder or vae may have moved: it is known by its digest.
_MAY_CHANGE = (
    *("data.workers", "data.memory_mb", "text.encoder", "checkpoint_every_steps", "keep_checkpoints", "log_every_s", "wandb_project"),
    *("held_out.every_steps", "held_out.clips"),
    *("system.device", "system.sharding", "system.compile", "system.recompute", "system.attention"),
    *("vae.pretrained", "vae.tile_pixels", "vae.chunk_frames", "sample.preview_decoder"),
)
CONTROLS = ("last_frame", "camera", "tracks", "edges", "depth", "keypoints")  # maps on the grid of the latents
PRESETS = Path(__file__).parent / "presets"
Solver = Literal["euler", "heun", "adams_bashforth"]


class ShapesConfig(Strict):
    """In what shape clips are trained: each keeps its aspect ratio and, up to a maximum, its length."""

    areas: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(((96, 56),), min_length=1)  # as width x height in pixels
    max_frames: PositiveInt = 17
    frame_step: PositiveInt = 1  # latent frames from one length to the next; more make fewer buckets and cut more frames
    fps: Literal["native"] | Positive = 8.0  # a slower clip stays at its own rate; the dit is told the rate of each


class DataConfig(Strict):
    """Which frames of a clip are seen, and in what shape."""

    shapes: ShapesConfig = ShapesConfig()
    windows_per_clip: PositiveInt = 2  # positions of the frames trained on within a clip's span
    # Weight of each column as the text of a draw, among those not null; with a mix of captions, after a captioner was drawn.
    caption_lengths: dict[str, Positive] = {"caption_short": 1.0, "caption_medium": 1.0, "caption_dense": 2.0}
    condition_tags: tuple[str, ...] = ()  # numeric tags told to the dit, each as one of dit.tag_bins bins of equal frequency
    cache: str | None = None  # a folder that `reelmill encode` filled: nothing is decoded, and no clip or text encoded, in training
    memory_mb: NotNegative = 512.0  # decoded windows kept in memory
    workers: Annotated[int, Field(ge=0)] = 0  # processes that read ahead, on each rank; 0 reads in the trainer itself


class PerceptualConfig(Strict):
    """LPIPS beside the mean absolute error, on a few frames of each clip."""

    weights: str  # a file of LPIPS weights, or a folder that holds one
    weight: Positive = 0.1


class AdversarialConfig(Strict):
    """A critic of reconstructions, trained beside the vae."""

    weight: Positive = 0.05
    widths: tuple[PositiveInt, ...] = Field((32, 64, 128), min_length=1)  # each halves the picture, and each but the first time


class VAEConfig(Strict):
    """The causal 3D autoencoder. Pixels are folded into channels; then each further width halves time or space."""

    latent_channels: PositiveInt = 16
    time_factor: PositiveInt = 4  # frames to one latent frame, after the first
    space_factor: PositiveInt = 8  # pixels a side to one latent cell
    input_patch: PositiveInt = 4  # pixels a side folded into channels before the first convolution
    widths: tuple[PositiveInt, ...] = Field((32, 64, 96), min_length=1)  # at full and at each halved size
    blocks_per_width: PositiveInt = 1
    kl_weight: NotNegative = 1e-5
    weights: str | None = None  # a run whose vae, of this very shape, is where this one begins
    perceptual: PerceptualConfig | None = None
    adversarial: AdversarialConfig | None = None
    pretrained: str | None = None  # a folder in the layout of diffusers, of a vae that stays as it is; nothing above but factors is of it
    tile_pixels: PositiveInt | None = None  # a side, of what is encoded or decoded at once; none: the whole picture
    chunk_frames: PositiveInt | None = None  # encoded or decoded at once; none: all

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """(time, space) stride before each width but the first: space is halved early, time late."""
        halvings = len(self.widths) - 1
        times, spaces = self.time_factor.bit_length() - 1, (self.space_factor // self.input_patch).bit_length() - 1
        return tuple((1 + (i >= halvings - times), 1 + (i < spaces)) for i in range(halvings))

    @property
    def is_given(self) -> bool:
        """Whether it was trained elsewhere, so that no stage need train it."""
        return self.weights is not None or self.pretrained is not None

    @model_validator(mode="before")
    @classmethod
    def _factors_of_the_folder(cls, given: Any) -> Any:
        """Those not given are the pretrained one's, and written out, so that a run's config can be read where the folder has gone."""
        if not isinstance(given, dict) or not given.get("pretrained"):
            return given
        factors = ("time_factor", "space_factor", "latent_channels")
        published = {} if all(name in given for name in factors) else asdict(published_vae(Path(given["pretrained"])))
        return {**{name: published[name] for name in factors if name in published}, **given}

    @model_validator(mode="after")
    def _parts_fit(self) -> "VAEConfig":
        if self.tile_pixels and self.tile_pixels % self.space_factor:
            raise ValueError(f"tile_pixels must be a multiple of {self.space_factor}, space_factor")
        if self.chunk_frames and self.chunk_frames % self.time_factor:
            raise ValueError(f"chunk_frames must be a multiple of {self.time_factor}, time_factor")
        if self.pretrained is not None and self.weights is not None:
            raise ValueError("pretrained and weights both name a vae; leave one out")
        if self.pretrained is not None and (self.perceptual or self.adversarial):
            raise ValueError("perceptual and adversarial are for a vae that is trained; one that is pretrained stays as it is")
        return self if self.pretrained is not None else self._strides_fit()

    def _strides_fit(self) -> "VAEConfig":
        time, space = (math.prod(stride[axis] for stride in self.strides) for axis in range(2))
        if (time, space * self.input_patch) != (self.time_factor, self.space_factor) or (1, 1) in self.strides:
            raise ValueError("each width after the first must halve time or space, up to factors that are powers of 2")
        return self


class TextConfig(Strict):
    """What reads the texts for the dit."""

    encoder: str | None = None  # a folder of one for transformers or open_clip, which stays as it is; none: one over bytes, trained along
    max_tokens: Annotated[int, Field(ge=8)] = 128  # of a text, for the encoder of a folder; more are cut


# Those from 1.3B on are as wide and deep as Wan 2.1 and 2.2 of these sizes (Wan et al. 2025).
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 128, "depth": 4, "heads": 4, "text_width": 64},
    "150M": {"width": 768, "depth": 14, "heads": 12, "patch": 2, "text_width": 768, "text_depth": 2, "rope_theta": 1000.0},
    "1.3B": {"width": 1536, "depth": 30, "heads": 12, "mlp_width": 8960, "patch": 2, "text_width": 1536, "rope_theta": 10_000.0},
    "5B": {"width": 3072, "depth": 30, "heads": 24, "mlp_width": 14336, "patch": 2, "text_width": 3072, "rope_theta": 10_000.0},
    "14B": {"width": 5120, "depth": 40, "heads": 40, "mlp_width": 13824, "patch": 2, "text_width": 5120, "rope_theta": 10_000.0},
}


class DiTConfig(Strict):
    """The diffusion transformer. A `size` sets the keys that are not given themselves."""

    size: Literal["tiny", "150M", "1.3B", "5B", "14B"] | None = None
    width: PositiveInt = 128
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    mlp_width: PositiveInt  # by default four times the width
    patch: PositiveInt = 1  # latent cells a side in one token
    rope_theta: Positive = 100.0  # small, because tiny grids have few positions
    text_width: PositiveInt = 64
    text_depth: PositiveInt = 1  # this and the next are of the encoder over bytes
    max_text_bytes: PositiveInt = 128
    tag_bins: PositiveInt = 10

    @model_validator(mode="before")
    @classmethod
    def _size_sets_the_rest(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        whole = {**_SIZES.get(given.get("size") or "", {}), **given}
        width = whole.get("width", cls.model_fields["width"].default)
        return {"mlp_width": 4 * width if isinstance(width, int) else width, **whole}

    @model_validator(mode="after")
    def _heads_fit(self) -> "DiTConfig":
        if self.width % self.heads or (self.width // self.heads) % 2 or self.width // self.heads < 16:
            raise ValueError("width must be heads times an even head size of at least 16")
        if self.text_width % 16:
            raise ValueError("text_width must be a multiple of 16")
        return self


class ConditionsConfig(Strict):
    """Of how many clips, drawn anew each time the dit is told each condition: a share. 0 is never: what no stage tells, it cannot take."""

    text: Share = 0.9
    tags: Share = 0.9  # each of data.condition_tags on its own
    fps: Share = 0.9
    first_frame: Share = 0.0  # image to video
    continuation: Share = 0.0  # the first latent frames, from one to all but one, with noise up to `context_noise`
    context_noise: Share = 0.3
    last_frame: Share = 0.0
    camera: Share = 0.0  # how it moves, estimated from the pixels; the next two likewise
    tracks: Share = 0.0  # paths of a few points, as of a brush
    edges: Share = 0.0
    depth: Share = 0.0  # this and the next by the model of controls
    keypoints: Share = 0.0

    @model_validator(mode="after")
    def _one_of_two(self) -> "ConditionsConfig":
        if self.first_frame + self.continuation > 1:
            raise ValueError("first_frame and continuation are of different clips: they must not sum to more than 1")
        return self


class ControlsConfig(Strict):
    """What control maps are made with."""

    depth: str | None = None  # the folder of a transformers model for depth, and of one for poses
    keypoints: str | None = None


class CarryConfig(Strict):
    """What a stage takes over from the stage before, where that trained the same model."""

    weights: Literal["average", "last"] = "average"  # to begin with: the averaged (EMA) ones, or those of the last step
    average: Literal["restart", "keep"] = "restart"  # from those weights, or going on from the average there is
    optimizer: Literal["restart", "keep"] = "restart"  # its moments


class FlowConfig(Strict):
    """Distribution of the noise level t in training, and its shift."""

    logit_mean: float = 0.0
    logit_std: Positive = 1.0
    shift: Positive = 1.0  # above 1: more time at high noise, as larger pictures need
    shift_base_tokens: PositiveInt | None = None  # clips of n tokens: shift * sqrt(n / shift_base_tokens); none: all of them shift


class StageConfig(Strict):
    """One stage trains one model on data of its own or of the run; what it takes over is in `carry`."""

    name: str
    model: Literal["vae", "dit"]
    steps: PositiveInt
    manifest: str | None = None  # none: that of the command line
    balance: BalanceConfig | None = None  # this and the next two: none is that of the run
    conditions: ConditionsConfig | None = None
    carry: CarryConfig = CarryConfig()
    batching: Literal["bucketed", "packed"] = "bucketed"  # clips of one shape, or any clips end to end
    max_tokens: PositiveInt = 4096  # of one batch, as the memory of one device allows
    micro_batches: PositiveInt = 1  # batches of one step, shared by all ranks
    shapes: ShapesConfig | None = None  # none: those of data.shapes
    learning_rate: Positive = 1e-3
    final_learning_rate: NotNegative = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    weight_decay: NotNegative = 0.01
    max_grad_norm: Positive = 1.0
    max_spike: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = (
        None  # an update of more times the usual gradient norm is skipped
    )
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.98


class SampleConfig(Strict):
    """The sample videos a run makes of itself. Zero `every_steps`: only the one at the end."""

    prompt: str = ""
    every_steps: Annotated[int, Field(ge=0)] = 0
    fps: Positive = 24.0  # where data.shapes.fps is native; otherwise the samples have that rate
    num_steps: PositiveInt = 20
    solver: Solver = "euler"  # heun takes twice the time of the others
    guidance: NotNegative = 2.0
    two_pass: bool = False  # first the first frame, then the video from it, in a second pass (needs conditions.first_frame)
    preview_decoder: str | None = None  # a TAEHV file for the samples of every_steps; it goes with vae.pretrained
    guidance_rescale: Share = 0.0  # how far back to the contrast that there is without guidance
    context_noise: Share = 0.1  # of the frames with which the next stretch of a long sample begins
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)  # noise levels, above the first up to the second, at which there is guidance

    @model_validator(mode="after")
    def _interval_ascends(self) -> "SampleConfig":
        low, high = self.guidance_interval
        if low >= high:
            raise ValueError(f"guidance_interval must ascend, not {low:g} to {high:g}; guidance: 1 is none at all")
        return self


class AuditConfig(Strict):
    """How often a run compares the tags of what it was really trained on with the plan. Zero `every_steps`: never."""

    every_steps: Annotated[int, Field(ge=0)] = 50  # of a stage, and at its end
    tags: tuple[str, ...] = ()  # columns of the manifest beside those of the balance and data.condition_tags


class HeldOutConfig(Strict):
    """Videos that are never trained on, to measure the loss on with averaged weights. Zero `share`: none."""

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of all videos, with all of their clips
    every_steps: PositiveInt = 100  # of a stage, and at its end
    clips: PositiveInt = 32  # that are measured each time, always the same


class SystemConfig(Strict):
    """What computes, and how. None of it changes what is learned but for rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    precision: Literal["float32", "bfloat16"] = "float32"  # of products in the models; weights, averages and optimizer stay float32
    sharding: Literal["ddp", "fsdp"] = "ddp"  # fsdp: each rank keeps its part of the dit alone
    compile: bool = False  # the blocks of the dit, each by itself
    recompute: Literal["none", "selective", "full"] = "none"  # activations that backward makes again to save memory
    attention: Literal["auto", "flash", "cudnn", "efficient", "math"] = "auto"


class TrainConfig(Strict):
    """A whole run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: PositiveInt = 2  # of this process; the exact sums, and so exact resume, depend on it
    data: DataConfig = DataConfig()
    balance: BalanceConfig | None = None
    vae: VAEConfig = VAEConfig()
    text: TextConfig = TextConfig()
    dit: DiTConfig = DiTConfig()
    conditions: ConditionsConfig = ConditionsConfig()
    controls: ControlsConfig = ControlsConfig()
    flow: FlowConfig = FlowConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    sample: SampleConfig = SampleConfig()
    audit: AuditConfig = AuditConfig()
    held_out: HeldOutConfig = HeldOutConfig()
    system: SystemConfig = SystemConfig()
    checkpoint_every_steps: PositiveInt = 100
    keep_checkpoints: PositiveInt = 2
    log_every_s: NotNegative = 5.0  # between plain progress lines
    wandb_project: str | None = None  # where Weights & Biases is to be told all that is logged; WANDB_MODE=offline keeps it here

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainConfig":
        for stage in self.stages:
            self._shapes_fit(stage)
        models = [stage.model for stage in self.stages]
        if models[0] != "vae" and not self.vae.is_given:
            raise ValueError(
                "stages must begin with one that trains the vae, since the dit learns on its latents, or vae.weights name a run"
            )
        if "vae" in models and self.vae.pretrained is not None:
            raise ValueError("vae.pretrained stays as it is; leave out the stage that trains the vae")
        if self.sample.preview_decoder is not None and self.vae.pretrained is None:
            raise ValueError("sample.preview_decoder is for latents of vae.pretrained alone")
        if "vae" in models and self.data.cache is not None:
            raise ValueError("data.cache are those of a vae that stays as it is, but stages train it")
        if self.held_out.share and self.data.cache is not None:
            raise ValueError("held_out reads clips that data.cache does not hold; leave one of them out")
        if len({stage.name for stage in self.stages}) < len(self.stages):
            raise ValueError("stages must have different names")
        for before, stage in zip([None, *self.stages], self.stages, strict=False):
            if stage.carry != CarryConfig() and (before is None or before.model != stage.model):
                raise ValueError(f"stages: {stage.name} has carry, but the stage before it does not train the {stage.model}")
        self._conditions_fit()
        if self.sample.prompt and self.mixes and not self.tells("text"):
            raise ValueError("sample.prompt is given, but no stage is told texts (conditions.text)")
        return self

    def _conditions_fit(self) -> None:
        told = self.told_controls
        for name in ("depth", "keypoints"):
            if name in told and getattr(self.controls, name) is None:
                raise ValueError(f"conditions.{name} needs a model: name its folder as controls.{name}")
        if self.data.cache is not None and told:
            raise ValueError(f"conditions: {', '.join(told)} are made from pixels, which data.cache does without; leave one of them out")

    @property
    def told_controls(self) -> tuple[str, ...]:
        """The control maps that some stage of the dit tells."""
        return tuple(name for name in CONTROLS if self.tells(name))

    def tells(self, *names: str) -> bool:
        """Whether some stage of the dit tells one of these conditions."""
        return any(getattr(mix, name) for mix in self.mixes for name in names)

    def conditions_of(self, stage: StageConfig) -> ConditionsConfig:
        """What a stage tells: its own mix, or else that of the run."""
        return stage.conditions or self.conditions

    def averaged_steps(self, stage: int) -> int:
        """Steps that are in the average of a stage, by its number, as it begins: those of the stages whose average it goes on from."""
        keeps = stage and self.stages[stage].carry.average == "keep"
        return self.averaged_steps(stage - 1) + self.stages[stage - 1].steps if keeps else 0

    @property
    def mixes(self) -> tuple[ConditionsConfig, ...]:
        """What each stage of the dit tells."""
        return tuple(self.conditions_of(stage) for stage in self.stages if stage.model == "dit")

    def balance_of(self, stage: StageConfig) -> BalanceConfig | None:
        """The balance of a stage: its own, or else that of the run."""
        return stage.balance or self.balance

    def shapes_of(self, stage: StageConfig) -> ShapesConfig:
        """The shapes of a stage: its own, or else those of the data."""
        return stage.shapes or self.data.shapes

    def _shapes_fit(self, stage: StageConfig) -> None:
        shapes, side = self.shapes_of(stage), self.vae.space_factor * self.dit.patch
        step = self.vae.time_factor * shapes.frame_step
        if (shapes.max_frames - 1) % step:
            raise ValueError(f"max_frames of the shapes must be 1 + a multiple of {step}, vae.time_factor * frame_step")
        if small := [size for size in shapes.areas if size[0] * size[1] < side**2]:
            raise ValueError(f"areas of the shapes must hold a token of {side}x{side} pixels; {small[0]} does not")
        if stage.model == "vae" and stage.batching == "packed":
            raise ValueError(f"stages: {stage.name} trains the vae, which takes clips of one shape; batching must be bucketed")
        cells = max(width * height // side**2 for width, height in shapes.areas)
        longest = cells * (1 + (shapes.max_frames - 1) // self.vae.time_factor)
        if longest > stage.max_tokens:
            raise ValueError(f"stages: {stage.name} has max_tokens {stage.max_tokens}, but the largest shape has {longest} tokens")


def load_config(path_or_preset: str | Path) -> TrainConfig:
    """Read a YAML file, or a preset by its bare name. Raises TrainError."""
    path = Path(path_or_preset)
    preset = PRESETS / f"{path_or_preset}.yaml"
    if not path.is_file() and len(path.parts) == 1 and preset.is_file():
        path = preset
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise TrainError(f"there is no config file or preset {str(path_or_preset)!r}; presets: {known}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise TrainError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise TrainError(f"{path} must be a mapping of settings")
    try:
        return TrainConfig(**content)
    except ValidationError as error:
        raise TrainError(f"{path}: {'; '.join(map(_problem, error.errors()))}") from error
    except TypeError as error:  # a key that is not a string
        raise TrainError(f"{path}: {error}") from error


def dump_config(config: TrainConfig) -> str:
    """The resolved configuration as YAML, with every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def changed_keys(old: TrainConfig, new: TrainConfig) -> list[str]:
    """What differs between two configurations and matters to what is learned, as `key: old -> new`."""
    before, after = _leaves(old.model_dump(mode="json")), _leaves(new.model_dump(mode="json"))
    keys = [key for key in dict.fromkeys([*before, *after]) if key not in _MAY_CHANGE]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _leaves(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        parts = [(f"{key}.{name}" if key else name, part) for name, part in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        parts = [(f"{key}[{i}]", part) for i, part in enumerate(value)]
    else:
        return {key: value}
    return {name: leaf for name_, part in parts for name, leaf in _leaves(part, name_).items()}


def _problem(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
