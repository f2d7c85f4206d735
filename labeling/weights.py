"""Where the weights of models are found: in the folder that the user gives, then in the caches of the libraries that fetch them.

A weight file has a name, its path below the folder, and a source, an http(s) address of one of three kinds:

- `https://huggingface.co/OWNER/REPO`: the file of that (base)name in a hub repository, kept in the hub's cache;
- an address that ends in the file's own (base)name: the file itself, kept in torch's cache (`$TORCH_HOME/hub/checkpoints`);
- any other: a page for people, which says how to get the file.

Nothing is fetched unless `allow_download` says so, and a fetched file goes to its cache, never to the user's folder. Both fetchers write
under another name and rename, so a file that is there is whole.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from labeling.tagger import TaggerError


@dataclass(frozen=True)
class Models:
    """The folder of weights (--models DIR) and whether files may be fetched (--allow-download)."""

    folder: str | None = None
    allow_download: bool = False

    def find(self, name: str, source: str) -> Path | None:
        """A file that is here already: exactly FOLDER/name, else the cached copy of `source`; None if neither is there."""
        if self.folder is not None and (path := Path(self.folder, name)).is_file():
            return path
        if repository := _hub_repository(source):
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(repository, PurePosixPath(name).name)
            return Path(cached) if isinstance(cached, str) else None
        if _is_file_address(name, source) and (path := _torch_cache(name)).is_file():
            return path
        return None

    def file(self, name: str, source: str) -> Path:
        """A file that is needed, fetched if that is allowed. Raises TaggerError, one line: the file, where to get it and the flags."""
        found = self.find(name, source)
        if found is not None:
            return found
        can_fetch = bool(_hub_repository(source)) or _is_file_address(name, source)
        if can_fetch and self.allow_download:
            return _fetch(name, source)
        where = "; no folder of models is given" if self.folder is None else f" in {self.folder}"
        fix = f"get it from {source} and give its folder with --models DIR" + (", or fetch it with --allow-download" if can_fetch else "")
        raise TaggerError(f"no {name}{where}: {fix}")


def read_tensors(path: Path) -> dict[str, Any]:
    """A state dict of torch, on the CPU. Raises TaggerError for a file that holds more than tensors: reading such a pickle runs code."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's, torch's: all mean the same here
        raise TaggerError(f"{path} is refused: it is no plain file of tensors (damaged, or reading it would run code)") from error


def _hub_repository(source: str) -> str | None:
    """OWNER/REPO of a hub page."""
    parts = urlsplit(source)
    path = parts.path.strip("/")
    return path if parts.netloc == "huggingface.co" and path.count("/") == 1 else None


def _is_file_address(name: str, source: str) -> bool:
    return PurePosixPath(urlsplit(source).path).name == PurePosixPath(name).name


def _torch_cache(name: str) -> Path:
    import torch

    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(name).name)


def _fetch(name: str, source: str) -> Path:
    try:
        if repository := _hub_repository(source):
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(repository, PurePosixPath(name).name))
        import torch

        path = _torch_cache(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(source, str(path), progress=False)
        return path
    except Exception as error:  # whatever a network and two libraries can raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaggerError(f"{name} could not be fetched from {source}: {reason}; --models DIR gives a copy") from error
