"""What a run writes down and shows: metrics.jsonl, TensorBoard, Weights & Biases, log.txt, a progress bar."""

from __future__ import annotations

import importlib.util
import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from atomica.errors import AtomicaError
from atomica.files import METRICS, to_json, write_text
from atomica.spec import Problems, setting

__all__ = ["LogConfig", "RunLog", "WandbConfig"]


EVENTS = "tensorboard"
WANDB = "wandb"


class LogError(AtomicaError):
    """Something that a run was to write down cannot be written."""


@dataclass(frozen=True)
class WandbConfig:
    """Table `[log.wandb]`: whether and where to in Weights & Biases."""

    mode: str = setting(
        "off",
        "whether metrics go to Weights & Biases, too; needs pip install 'atomica-dgl[wandb]'",
        choices={
            "off": "no",
            "offline": "into the run's folder, for `wandb sync` to send later",
            "online": "at once, over the network",
        },
    )
    project: str = setting("atomica", "project there")
    entity: str = setting("", "user or team there; empty: that of the login")
    group: str = setting("", "group of runs that are shown together")
    tags: tuple[str, ...] = setting((), "tags of the run")

    def __post_init__(self) -> None:
        """Check keys against each other, and that the package is there."""
        if self.mode == "off":
            Problems.check(
                *(
                    (getattr(self, key.name) != key.default, key.name, 'has no effect with mode = "off"')
                    for key in fields(self)
                )
            )
        elif importlib.util.find_spec("wandb") is None:
            raise Problems(("mode", "needs the package wandb: pip install 'atomica-dgl[wandb]'"))


@dataclass(frozen=True)
class LogConfig:
    """Section `[log]`: how much is written down while training."""

    every_steps: int = setting(10, "steps between two records of the training loss", low=1)
    tensorboard: bool = setting(True, "write TensorBoard events beside metrics.jsonl")
    wandb: WandbConfig = WandbConfig()


class RunLog:
    """metrics.jsonl, TensorBoard events and Weights & Biases of one run folder, closed when left as a context.

    A record is one line of JSON: `event` ("step", "epoch" or "test"), `epoch` (from 1; 0: as it starts), `step` (steps
    done), and its values. Values also go to TensorBoard as `event/name` against the step. After a resume, records
    past the checkpoint's step are removed first, so that no step is recorded twice; without one, those of a run that
    ended before its first checkpoint.

    name, settings: what the run is called in Weights & Biases, and what it was started with.
    """

    def __init__(
        self,
        folder: Path,
        config: LogConfig,
        *,
        resume_step: int | None = None,
        name: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = folder / METRICS
        if resume_step is None:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(folder / EVENTS, ignore_errors=True)
        elif self.path.is_file():
            self._drop_after(resume_step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._events: Any = None
        if config.tensorboard:
            # Slow to import, and only needed here.
            from torch.utils.tensorboard import SummaryWriter

            purge = None if resume_step is None else resume_step + 1
            self._events = SummaryWriter(str(folder / EVENTS), purge_step=purge)
        self._wandb: Any = None
        if config.wandb.mode != "off":
            self._wandb = _wandb_run(folder, config.wandb, name, settings or {})

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
        """Append one record; floats are written so that they read back exactly, those that are not finite as null."""
        line = to_json({"event": event, "epoch": epoch, "step": step, **values})
        self._stream.write(line + "\n")
        self._stream.flush()
        if self._events is not None:
            for name, value in values.items():
                if value is not None:
                    self._events.add_scalar(f"{event}/{name}", value, step)
        if self._wandb is not None:
            shown = {f"{event}/{name}": value for name, value in values.items() if value is not None}
            self._wandb.log({**shown, "step": step})

    def __enter__(self) -> RunLog:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write out what is still buffered."""
        self._stream.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)
            # Only the end of its service process writes out the last of an offline run.
            importlib.import_module("wandb").teardown()


def _wandb_run(folder: Path, config: WandbConfig, name: str, settings: Mapping[str, Any]) -> Any:
    """A run of Weights & Biases, or the one that an earlier start of the same run began."""
    wandb: Any = importlib.import_module("wandb")  # its types come and go with its versions
    place = folder / WANDB
    place.mkdir(exist_ok=True)
    known = place / "id"
    if not known.is_file():
        write_text(known, secrets.token_hex(4))
    try:
        run = wandb.init(
            project=config.project,
            entity=config.entity or None,
            group=config.group or None,
            tags=list(config.tags),
            name=name,
            id=known.read_text(encoding="utf-8"),
            resume="allow" if config.mode == "online" else None,
            mode=config.mode,
            dir=folder,
            config=dict(settings),
            save_code=False,
            settings=wandb.Settings(console="off", silent=True, disable_git=True),
        )
    except wandb.errors.Error as error:
        raise LogError(
            f'log.wandb: {error}; run "wandb login", or set log.wandb.mode = "offline" and send later'
        ) from None
    # Steps that a resumed run repeats would be dropped from the built-in count.
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run
