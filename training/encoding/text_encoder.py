"""A frozen text encoder out of a folder: texts in, features of their tokens out.

Any that transformers knows, in its files as published: T5 and UMT5, of which the encoder alone is kept, BERT and its kin, or a
language model. Each text is encoded alone, in float32, so that its features depend on nothing else.
"""

from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from training.encoding.folders import folder_digest, one_line
from training.settings import TrainError

# Of the folder's files those that make features: its config, what its tokenizer is made of, and weights.
_KINDS = (".json", ".txt", ".model", ".bpe", ".vocab", ".tiktoken", ".safetensors")
_WHOLE = "take all files of the model as it is published for transformers"
_PIECES = "spiece.model"  # in which T5 keeps its tokenizer, some without a tokenizer.json
_UNUSED = "pooler."  # comes after the last hidden states; many checkpoints are without


class FrozenTextEncoder:
    """An encoder of texts of at most `max_tokens` tokens, of which more are cut. Weights are loaded when first needed.

    May be used by several threads at once.
    """

    def __init__(self, folder: Path, max_tokens: int):
        """Raises TrainError where a package or a file is missing, or the encoder cannot take so many tokens."""
        self.folder, self.max_tokens = folder, max_tokens
        self._lock = Lock()
        _check_files(folder)
        self._config = _load_config(folder)
        check_length(folder, max_tokens, self._most_positions)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that makes features: config, tokenizer and weights, by the names of their files."""
        return folder_digest(self.folder, "text.encoder", _KINDS)

    @cached_property
    def width(self) -> int:
        """How many numbers the features of one token are, as the config says."""
        return int(self._config.get_text_config(encoder=True).hidden_size)

    def encode(self, texts: Iterable[str]) -> tuple[Tensor, ...]:
        """The last hidden states [L, width], float32, of the tokens of each text, L from 1 to `max_tokens`. Raises TrainError."""
        return tuple(map(self._encode, texts))

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        with self._lock:  # a tokenizer is for one thread at a time, and from Python 3.12 on cached_property holds no lock of its own
            tokenizer, network = self._tokenizer, self._network
            tokens = tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        tokens = tokens or [tokenizer.eos_token_id]  # some mark neither begin nor end
        ids = torch.tensor([tokens])
        return network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]

    @property
    def _most_positions(self) -> int | None:
        """How many tokens it has positions for; None where positions are relative and there is no limit."""
        return getattr(self._config.get_text_config(encoder=True), "max_position_embeddings", None)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        if (self.folder / _PIECES).is_file() and not (self.folder / "tokenizer.json").is_file() and not find_spec("sentencepiece"):
            alone = f"has its tokenizer in {_PIECES} alone"
            raise TrainError(f"text.encoder: {self.folder} {alone}; take its tokenizer.json too, or pip install sentencepiece")
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
            nothing = tokenizer("")["input_ids"] or [tokenizer.eos_token_id]
        except Exception as error:
            raise TrainError(f"text.encoder: the tokenizer of {self.folder} cannot be loaded ({one_line(error)}); {_WHOLE}") from error
        files = tokenizer.vocab_files_names.values()
        if files and not any((self.folder / name).is_file() for name in files):  # transformers would go on without a vocabulary
            raise TrainError(f"text.encoder: {self.folder} has no {' or '.join(files)} for its tokenizer; {_WHOLE}")
        if nothing == [None]:
            raise TrainError(f"text.encoder: the tokenizer of {self.folder} has no token for an empty text; use another encoder")
        if self._most_positions is not None:
            check_length(self.folder, self.max_tokens, tokenizer.model_max_length)
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        import transformers

        known = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        model = transformers.AutoModelForTextEncoding if type(self._config) in known else transformers.AutoModel
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # a decoder that is left out is no news
        local = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
        try:
            network, loaded = model.from_pretrained(self.folder, dtype=torch.float32, output_loading_info=True, **local)
            if self._config.is_encoder_decoder and type(self._config) not in known:
                network = network.get_encoder()
            network = network.eval().requires_grad_(False)
            width = network(input_ids=torch.tensor([[0]])).last_hidden_state.shape[-1]
        except Exception as error:
            raise TrainError(f"text.encoder: {self.folder} cannot be used as one ({one_line(error)}); {_WHOLE}") from error
        if missing := sorted(name for name in loaded["missing_keys"] if _UNUSED not in name):  # they would be left random
            raise TrainError(f"text.encoder: {self.folder} lacks {len(missing)} weights, {missing[0]} first; {_WHOLE}")
        if width != self.width:
            raise TrainError(f"text.encoder: {self.folder} gives features of {width} numbers, not the {self.width} of its config.json")
        return network


def check_length(folder: Path, max_tokens: int, most: int | None) -> None:
    """Raises TrainError where an encoder that has positions for `most` tokens, if there is a limit, is asked for more."""
    if most is not None and max_tokens > most:
        raise TrainError(f"text.max_tokens: {max_tokens} are more than the {most} that {folder} can take")


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise TrainError(f"text.encoder: there is no folder {folder}; give that of a downloaded text encoder, such as UMT5")
    if not (folder / "config.json").is_file():
        raise TrainError(f"text.encoder: {folder} has no config.json; {_WHOLE}")
    if not any(folder.glob("*.safetensors")):
        raise TrainError(f"text.encoder: {folder} has no *.safetensors; take its safetensors weights (pickled ones are not loaded)")


def _load_config(folder: Path) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise TrainError(f"text.encoder needs transformers ({one_line(error)}); pip install 'reelmill[text]'") from error
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise TrainError(f"text.encoder: {folder}/config.json is not that of a model known to transformers ({one_line(error)})") from error
