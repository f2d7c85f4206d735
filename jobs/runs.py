"""Run records: what a run was asked, with which versions, and what came of it."""

import platform
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from curation.stage import ShardReport

_PACKAGES = ("reelmill", "av", "opencv-python-headless", "scenedetect", "numpy", "pyarrow")


class RunRecorder:
    """Gathers one run's record; begin it before the work and `finish` it after."""

    def __init__(self, command: str, **inputs: Any):
        self._began = time.monotonic()
        started = datetime.now(UTC)
        self._head = {
            "run_id": f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}",
            "command": command,
            "started": started.isoformat(timespec="seconds"),
            "inputs": {name: str(value) if not isinstance(value, int | float | list) else value for name, value in inputs.items()},
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        }

    def finish(self, reports: Iterable[ShardReport], **counts: int) -> dict[str, Any]:
        """The complete record, ready for `Dataset.write_run`."""
        reports = list(reports)
        failures: Counter[str] = Counter()
        for report in reports:
            failures.update(report.failures)
        return {
            **self._head,
            **counts,
            "shards": len(reports),
            "videos": sum(report.videos for report in reports),
            "clips": sum(report.clips for report in reports),
            "frames": sum(report.frames for report in reports),
            "video_s": round(sum(report.video_s for report in reports), 3),
            "failures": dict(sorted(failures.items())),
            "seconds": round(time.monotonic() - self._began, 3),
        }
