"""What a run says while it goes: metrics and audits to JSON lines and TensorBoard, progress to a terminal or as plain lines."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.audit import FacetAudit, describe
from training.config import TrainConfig
from training.settings import TrainError

_BRIEF = ("loss", "held_out_loss", "psnr_db", "lr", "grad_norm", "samples_per_s", "mfu")


class RunLog(AbstractContextManager["RunLog"]):
    """Logs the steps of a run of `total_steps`, of which `done_steps` are done."""

    def __init__(self, folder: Path, total_steps: int, done_steps: int, config: TrainConfig):
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        keep_until(folder / "metrics.jsonl", done_steps)
        keep_until(folder / "audit.jsonl", done_steps)
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._audit = folder / "audit.jsonl"
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done_steps + 1)
        self._wandb = _start_wandb(folder, config.wandb_project) if config.wandb_project else None
        self._total, self._first, self._every_s = total_steps, done_steps, config.log_every_s
        self._began = self._said = time.monotonic()
        console = Console(stderr=True)
        self._bar = _progress_bar(console) if console.is_terminal else None
        if self._bar:
            self._task = self._bar.add_task("training", total=total_steps, completed=done_steps, facts="")
            self._bar.start()

    def say(self, text: str) -> None:
        """One line for whoever watches."""
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def step(self, stage: str, total_steps: int, metrics: Mapping[str, float]) -> None:
        """Record a step that was done. `total_steps` counts it, over all stages."""
        self._metrics.write(json.dumps({"stage": stage, "step": total_steps, **metrics}) + "\n")
        self._metrics.flush()
        for name, value in metrics.items():
            self._board.add_scalar(f"{stage}/{name}", value, total_steps)
        if self._wandb:
            self._wandb.log({f"{stage}/{name}": value for name, value in metrics.items()}, step=total_steps)
        facts = "  ".join(f"{name} {metrics[name]:.4g}" for name in _BRIEF if name in metrics)
        if self._bar:
            self._bar.update(self._task, completed=total_steps, description=stage, facts=facts)
        elif time.monotonic() - self._said >= self._every_s or total_steps == self._total:
            self._said = time.monotonic()
            remaining_s = (self._said - self._began) / (total_steps - self._first) * (self._total - total_steps)
            self.say(f"{stage} step {total_steps}/{self._total}  {facts}  {remaining_s:.0f} s left")

    def audit(self, stage: str, total_steps: int, audits: Sequence[FacetAudit]) -> None:
        """Record what was trained on so far, tag by tag, a line to each, and say whether it is as planned."""
        lines = [json.dumps({"stage": stage, "step": total_steps, **asdict(audit)}) + "\n" for audit in audits]
        with self._audit.open("a") as stream:
            stream.write("".join(lines))
        for audit in audits:
            name = f"audit/{audit.facet}"
            self._board.add_scalar(f"{name}/js_bits", audit.js_bits, total_steps)
            for value in audit.values:
                self._board.add_scalar(f"{name}/{value.value}/share", value.realized_share, total_steps)
                if value.mean_loss is not None:
                    self._board.add_scalar(f"{name}/{value.value}/loss", value.mean_loss, total_steps)
        self.say(describe(audits))

    def __exit__(self, *error: object) -> None:
        self._metrics.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()
        if self._bar:
            self._bar.stop()


class SilentLog(AbstractContextManager["SilentLog"]):
    """The log of a rank that does not lead."""

    def say(self, text: str) -> None:
        """Nothing: the leading rank says it."""

    def step(self, stage: str, total_steps: int, metrics: Mapping[str, float]) -> None:
        """Nothing: the leading rank records it."""

    def audit(self, stage: str, total_steps: int, audits: Sequence[FacetAudit]) -> None:
        """Nothing: the leading rank records it."""

    def __exit__(self, *error: object) -> None:
        pass


def _start_wandb(folder: Path, project: str) -> Any:
    """A run of Weights & Biases that is called as the folder; a resumed run goes on with it. Raises TrainError without the package."""
    try:
        import wandb
    except ImportError as error:
        raise TrainError(
            "wandb_project: the package wandb is not installed; `pip install reelmill[wandb]`, or leave the key out"
        ) from error
    name = folder / "wandb_id"
    if not name.exists():
        name.write_text(uuid4().hex)
    return wandb.init(project=project, id=name.read_text(), name=folder.name, dir=str(folder), resume="allow")


def _progress_bar(console: Console) -> Progress:
    stage, facts = TextColumn("{task.description}"), TextColumn("{task.fields[facts]}")
    return Progress(stage, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), facts, console=console)


def keep_until(log: Path, done_steps: int) -> None:
    """Drop the lines of steps after `done_steps`, which a resumed run takes again, and a last line that was cut off."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > done_steps:
            break
        kept.append(line)
    log.write_text("".join(kept))
