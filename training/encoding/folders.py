"""Folders of models in the layout of transformers: what is in them, checked and named by content, and loaded without a network.

Weights are safetensors alone, since pickles run code, and no code of a folder's own is run.
"""

from collections.abc import Iterable
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch

from training.settings import TrainError

MODEL_KINDS = (".json", ".safetensors")  # suffixes of what makes a model of pictures: configs and weights
_WHOLE = "take all files of the model as it is published for transformers"
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def files_digest(paths: Iterable[Path], key: str) -> str:
    """SHA-256 over the names and the contents of files. Raises TrainError, naming the config's `key`, where one cannot be read."""
    digest = sha256()
    try:
        for path in sorted(paths):
            with path.open("rb") as stream:
                digest.update(f"{path.name}\0{file_digest(stream, 'sha256').hexdigest()}\n".encode())
    except OSError as error:
        raise TrainError(f"{key}: a file cannot be read: {error}") from error
    return digest.hexdigest()


def folder_digest(folder: Path, key: str, kinds: tuple[str, ...] = MODEL_KINDS) -> str:
    """SHA-256 over the files in a folder of the suffixes `kinds`, by name; others do not matter. Raises TrainError."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in kinds and path.is_file()]
    except OSError as error:
        raise TrainError(f"{key}: {folder} cannot be read: {error}") from error
    return files_digest(paths, key)


def check_folder(folder: Path, key: str, example: str) -> None:
    """That there is a model in a folder, such as `example`. Raises TrainError."""
    if not folder.is_dir():
        raise TrainError(f"{key}: there is no folder {folder}; give that of a downloaded model, such as {example}")
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise TrainError(f"{key}: {folder} has no {name}; {_WHOLE}")
    if not any(folder.glob("*.safetensors")):
        raise TrainError(f"{key}: {folder} has no *.safetensors; take its safetensors weights (pickled ones are not loaded)")


def load_config(folder: Path, key: str, kinds: tuple[str, ...], example: str) -> Any:
    """Its config, of one of the transformers model types `kinds`. Raises TrainError where it is of another, or transformers is missing."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise TrainError(f"{key} needs transformers ({one_line(error)}); pip install 'reelmill[text]'") from error
    try:
        config = AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:
        raise TrainError(f"{key}: {folder}/config.json is not that of a model known to transformers ({one_line(error)})") from error
    if config.model_type not in kinds:
        raise TrainError(f"{key}: {folder} is of type {config.model_type}, not {' or '.join(kinds)}; give a model such as {example}")
    return config


def load_processor(folder: Path, key: str) -> Any:
    """What prepares pictures for the model. Raises TrainError."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, **_LOCAL)
    except Exception as error:
        raise TrainError(f"{key}: {folder}/preprocessor_config.json cannot be used ({one_line(error)}); {_WHOLE}") from error


def load_network(architecture: Any, folder: Path, key: str, unused: tuple[str, ...] = ()) -> Any:
    """The network in float32, frozen; weights may lack only where their names contain one of `unused`. Raises TrainError."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what is missing is told below
    try:
        network, loaded = architecture.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, use_safetensors=True, **_LOCAL
        )
    except Exception as error:
        raise TrainError(f"{key}: {folder} cannot be loaded ({one_line(error)}); {_WHOLE}") from error
    missing = sorted(name for name in loaded["missing_keys"] if not any(part in name for part in unused))
    if missing:  # they would be left random
        raise TrainError(f"{key}: {folder} lacks {len(missing)} weights, {missing[0]} first; {_WHOLE}")
    return network.eval().requires_grad_(False)


def one_line(error: Exception) -> str:
    """What an error says, short and without line breaks."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
