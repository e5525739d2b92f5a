"""What a run writes down and shows: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atomica.spec import setting
from atomica.train.checkpoint import write_text

__all__ = ["Display", "LogConfig", "RunLog"]

METRICS = "metrics.jsonl"
EVENTS = "tensorboard"


@dataclass(frozen=True)
class LogConfig:
    """Section `[log]`: how much is written down while training."""

    every_steps: int = setting(10, "steps between two records of the training loss", low=1)
    tensorboard: bool = setting(True, "write TensorBoard events beside metrics.jsonl")


class RunLog:
    """metrics.jsonl and TensorBoard events of one run folder.

    A record is one line of JSON: `event` ("step", "epoch" or "test"), `epoch` (from 1), `step` (steps done),
    and its values. Values also go to TensorBoard as `event/name` against the step. After a resume, records
    past the checkpoint's step are removed first, so that no step is recorded twice.
    """

    def __init__(self, folder: Path, config: LogConfig, *, resume_step: int | None = None) -> None:
        self.path = folder / METRICS
        if resume_step is not None and self.path.is_file():
            self._drop_after(resume_step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._events: Any = None
        if config.tensorboard:
            # Slow to import, and only needed here.
            from torch.utils.tensorboard import SummaryWriter

            purge = None if resume_step is None else resume_step + 1
            self._events = SummaryWriter(str(folder / EVENTS), purge_step=purge)

    def _drop_after(self, step: int) -> None:
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed while it wrote
            if record["step"] <= step and record["event"] != "test":
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def record(self, event: str, epoch: int, step: int, values: Mapping[str, float | int | None]) -> None:
        """Append one record; floats are written so that they read back exactly."""
        line = json.dumps({"event": event, "epoch": epoch, "step": step, **values})
        self._stream.write(line + "\n")
        self._stream.flush()
        if self._events is not None:
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Write out what is still buffered."""
        self._stream.close()
        if self._events is not None:
            self._events.close()


class Display:
    """A progress bar on a terminal, one plain line per epoch elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self._bar: Progress | None = None
        self._task: Any = None
        self._metric = ""
        self._last = 0.0

    def start(self, total_steps: int, done: int) -> None:
        """Begin a run of `total_steps`, `done` of which lie behind."""
        if not self.live:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=done, epoch=1, text="")
        self._bar.start()

    def step(self, epoch: int, done: int, loss: float, complexes_per_s: float) -> None:
        """Show one training step; at most ten times a second, as drawing costs time."""
        if self._bar is None or time.monotonic() - self._last < 0.1:
            return
        self._last = time.monotonic()
        text = f"loss {loss:.4f} {self._metric} {complexes_per_s:.0f} complexes/s"
        self._bar.update(self._task, completed=done, epoch=epoch, text=text)

    def epoch(self, epoch: int, epochs: int, values: Mapping[str, float], best: bool) -> None:
        """Show the outcome of an epoch."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        monitored = [f"{name} {value:.3f}" for name, value in values.items() if name.startswith("valid")]
        self._metric = monitored[-1] if monitored else ""
        self.line(f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {shown}{'  *best' if best else ''}")

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
