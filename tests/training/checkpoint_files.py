"""Checkpoints as files: all tensors by their names, whichever ranks wrote them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that one process wrote."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


def assert_equal_tensors(checkpoint: Path, other: Path) -> None:
    """Bitwise. The files themselves may differ in the order of their headers."""
    ours, theirs = tensors_of(checkpoint), tensors_of(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
