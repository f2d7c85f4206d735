"""The text half of a CLIP (Radford et al. 2021) out of a folder, frozen: texts in, features of their tokens out.

The folder is one as open_clip publishes models: open_clip_config.json and open_clip_model.safetensors, of which the part for
pictures is never read. The tokenizer comes with the package, so that nothing else is needed.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from training.encoding.folders import files_digest, one_line
from training.encoding.text_encoder import check_length
from training.settings import TrainError

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.")  # of the weights, those that make features
_SMALLEST_VISION = {"image_size": 8, "patch_size": 8, "layers": 1, "width": 8, "head_width": 8}  # CLIP has one, here never used
_OTHER_TOWERS = ("hf_model_name", "hf_tokenizer_name", "embed_cls", "no_causal_mask")  # such as of SigLIP, CoCa and multilingual ones


class ClipTextEncoder:
    """An encoder of texts of at most `max_tokens` tokens, of which more are cut. Weights are loaded when first needed.

    May be used by several threads at once.
    """

    def __init__(self, folder: Path, max_tokens: int):
        """Raises TrainError where a file is missing, the model has no text half of this kind, or it cannot take so many tokens."""
        self.folder, self.max_tokens = folder, max_tokens
        self._lock = Lock()
        self._config = _read_config(folder)
        if not (folder / WEIGHTS).is_file():
            raise TrainError(f"text.encoder: {folder} has no {WEIGHTS}; take its safetensors weights (pickled ones are not loaded)")
        check_length(folder, max_tokens, self._text_config.context_length)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over config and weights. The tokenizer is that of every CLIP."""
        return files_digest([self.folder / CONFIG, self.folder / WEIGHTS], "text.encoder")

    @property
    def width(self) -> int:
        """How many numbers the features of one token are, as the config says."""
        return int(self._text_config.width)

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, ...]:
        """The hidden states [L, width], float32, of the tokens of each text from begin to end mark, after the last norm.

        L is from 2 to `max_tokens`. Each token has seen those before it, so that padding would change nothing, and there is none.
        Raises TrainError.
        """
        return tuple(map(self._encode, texts))

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        with self._lock:  # from Python 3.12 on cached_property holds no lock of its own
            tokenizer, network = self._tokenizer, self._network
            tokens = tokenizer.encode(text)[: self.max_tokens - 2]
        ids = torch.tensor([[tokenizer.sot_token_id, *tokens, tokenizer.eot_token_id]])
        length = ids.shape[1]
        x = network.token_embedding(ids) + network.positional_embedding[:length]
        later = torch.full((length, length), -torch.inf).triu(1)
        return network.ln_final(network.transformer(x, attn_mask=later))[0]

    @cached_property
    def _text_config(self) -> Any:
        from open_clip import CLIPTextCfg

        try:
            return CLIPTextCfg(**self._config["text_cfg"])
        except TypeError as error:
            raise _unknown(self.folder, error) from error

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip import SimpleTokenizer

        try:
            return SimpleTokenizer(**(self._text_config.tokenizer_kwargs or {}))
        except (TypeError, AssertionError) as error:
            raise _unknown(self.folder, error) from error

    @cached_property
    def _network(self) -> Any:
        """A CLIP without weights but those that make features of texts."""
        from open_clip import CLIP
        from safetensors import safe_open

        try:
            with torch.device("meta"):
                network = CLIP(
                    self._config["embed_dim"], _SMALLEST_VISION, self._config["text_cfg"], quick_gelu=self._config.get("quick_gelu", False)
                )
            with safe_open(self.folder / WEIGHTS, "pt") as file:
                places = {name.removeprefix("text."): name for name in file.keys()}  # noqa: SIM118 - this file has keys and is no mapping
                wanted = [name for name in network.state_dict() if name.startswith(_PARTS)]
                if missing := [name for name in wanted if name not in places]:
                    raise TrainError(
                        f"text.encoder: {self.folder / WEIGHTS} lacks {len(missing)} weights, {missing[0]} first; take it anew"
                    )
                network.load_state_dict({name: file.get_tensor(places[name]).float() for name in wanted}, strict=False, assign=True)
        except TrainError:
            raise
        except Exception as error:  # safetensors, torch and open_clip each have their own for what is damaged or of another shape
            raise TrainError(f"text.encoder: {self.folder} cannot be used as one ({one_line(error)}); take both its files anew") from error
        return network.eval().requires_grad_(False)


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text())["model_cfg"]
        text, _ = config["text_cfg"], config["embed_dim"]
        other = [f"{key}: {text[key]}" for key in _OTHER_TOWERS if text.get(key)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unknown(folder, error) from error
    if other:
        other_way = f"{folder} reads texts in another way than CLIP ({', '.join(other)})"
        raise TrainError(f"text.encoder: {other_way}; take one as LAION's ViT-H-14, or an encoder published for transformers")
    return config


def _unknown(folder: Path, error: Exception) -> TrainError:
    return TrainError(f"text.encoder: {folder / CONFIG} is not that of a model known to open_clip ({one_line(error)})")
