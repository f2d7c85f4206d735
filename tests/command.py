"""The command line as tests use it: `reelmill` in this process, which has its imports done, or in one of its own, to be killed."""

import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import torch

from jobs.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def process_arguments(*arguments: object) -> list[str]:
    """What starts the command as a process."""
    return [sys.executable, "-m", "jobs.cli", *map(str, arguments)]


def reelmill(*arguments: object) -> Done:
    """Run a command to its end, and leave this process's switches as they were."""
    out, err = io.StringIO(), io.StringIO()
    before, is_deterministic, threads = sys.argv, torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    handler = signal.getsignal(signal.SIGINT)
    sys.argv = ["reelmill", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, handler)
        torch.use_deterministic_algorithms(is_deterministic)
        torch.set_num_threads(threads)
    return Done(code, out.getvalue(), err.getvalue())
