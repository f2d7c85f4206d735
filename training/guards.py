"""What keeps a run from going wrong unseen: a loss that is no number ends it, and updates of sudden huge gradients are skipped."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.config import StageConfig
from training.settings import TrainError

_WARMUP_UPDATES = 10  # of which the mean norm is learned before anything is skipped
_DECAY = 0.95  # of the mean, for each update
_MOST_SKIPPED = 10  # in a row


@dataclass(frozen=True)
class Spikes:
    """The usual gradient norm of a stage, as a running `mean` over its `updates`, and how many were `skipped`, `in_a_row` just now."""

    mean: float = 0.0
    updates: int = 0
    skipped: int = 0
    in_a_row: int = 0

    @property
    def skip(self) -> bool:
        """Whether the update that was looked at last is to be skipped."""
        return self.in_a_row > 0

    def after(self, grad_norm: float, stage: StageConfig) -> "Spikes":
        """With one update more. Raises TrainError where too many are skipped one after the other."""
        if stage.max_spike is not None and self.updates >= _WARMUP_UPDATES and grad_norm > stage.max_spike * self.mean:
            if self.in_a_row + 1 == _MOST_SKIPPED:
                usual = (
                    f"more than {stage.max_spike:g} times its usual {self.mean:.3g} for {_MOST_SKIPPED} steps in a row, now {grad_norm:.3g}"
                )
                raise TrainError(f"stages: the gradient norm of {stage.name} was {usual}; lower its learning_rate, or raise its max_spike")
            return Spikes(self.mean, self.updates, self.skipped + 1, self.in_a_row + 1)
        decay = min(_DECAY, self.updates / (self.updates + 1))
        return Spikes(decay * self.mean + (1 - decay) * grad_norm, self.updates + 1, self.skipped, 0)


def check_finite(loss: float, grad_norm: float, step: int, newest: Path | None, clip_ids: Iterable[str]) -> None:
    """Raises TrainError where the loss or the gradient of step number `step` is no number."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainError(
            f"step {step} gave loss {loss} and gradient norm {grad_norm}, so it was not taken; "
            f"lower the learning rate. Newest checkpoint: {newest.name if newest else 'none'}; clips: {', '.join(clip_ids)}"
        )
