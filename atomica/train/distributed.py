"""Several processes that train one model: how they are started, what they tell each other, how they end.

A process among several is a rank. `--devices N` starts N of them on this machine, `torchrun` on one or several; both
through PyTorch's elastic agent, which ends all ranks when one fails. PyTorch is imported where it is needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from atomica.errors import AtomicaError, SpecError
from atomica.files import DONE, FAILED, INTERRUPTED

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ALONE",
    "PARENT",
    "Ranks",
    "agreed",
    "is_rank",
    "join",
    "launch",
    "leave",
    "record_failure",
    "started_here",
    "watch_parent",
]

PARENT = "ATOMICA_PARENT"
"""Environment variable with the process id of the command that started this one, as a rank or as a trial of a sweep."""

SHUTDOWN, SHUTDOWN_SECONDS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 120
"""Environment variable of PyTorch's agent: seconds that ranks have for a last step and a checkpoint after a signal."""

ROOM = 2048
"""Bytes of a message that travel in one go; a longer one takes a second."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone by default.

    rank of size in all, local_rank of local_size on this machine. All ranks must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one rank that writes and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, as plain data, in the order of ranks; on every rank.

        >>> Ranks().gather({"a": 1})
        [{'a': 1}]
        """
        if self.size == 1:
            return [value]
        return [json.loads(found) for found in self.gather_bytes(json.dumps(value).encode())]

    def gather_bytes(self, content: bytes) -> list[bytes]:
        """The same for bytes."""
        if self.size == 1:
            return [content]
        lengths, found = self._exchange(content, ROOM)
        if max(lengths) > ROOM:
            lengths, found = self._exchange(content, max(lengths))
        return found

    def _exchange(self, content: bytes, room: int) -> tuple[list[int], list[bytes]]:
        """Lengths of all contents, and their first `room` bytes."""
        import torch
        import torch.distributed as dist

        message = bytearray(len(content).to_bytes(8, "little") + content[:room].ljust(room, b"\0"))
        own = torch.frombuffer(message, dtype=torch.uint8)
        received = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(received, own)
        every = [tensor.numpy().tobytes() for tensor in received]
        lengths = [int.from_bytes(one[:8], "little") for one in every]
        return lengths, [one[8 : 8 + length] for one, length in zip(every, lengths, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        return any(self.gather(flag))

    def rows(self, count: int, found: Mapping[int, Tensor]) -> Tensor:
        """A tensor of `count` rows put together from those that each rank has by their number, on every rank."""
        import torch
        import torch.distributed as dist

        shapes = self.gather([list(row.shape) for row in list(found.values())[:1]])
        shape = next(shape[0] for shape in shapes if shape)
        whole = torch.zeros(count, *shape)
        if found:
            whole[torch.tensor(list(found))] = torch.stack(list(found.values())).float()
        if self.size > 1:
            dist.all_reduce(whole)
        return whole


ALONE = Ranks()


def started_here() -> bool:
    """Whether this process is a rank that `launch` has started."""
    return is_rank() and PARENT in os.environ


def is_rank() -> bool:
    """Whether an agent has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def watch_parent() -> None:
    """End this process when the one that started it as a rank or a trial is gone, even killed.

    It gets SIGTERM, and so writes a checkpoint; SIGKILL if it lives on for longer than that should take.
    """
    stated = os.environ.get(PARENT)
    if stated is None and not is_rank():
        return
    parent = os.getppid() if stated is None else int(stated)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        # A rank that has not met the others has nothing to save, and waits for them where no signal reaches it.
        alone = is_rank() and not _has_met()
        time.sleep(10 if alone else int(os.environ.get(SHUTDOWN, SHUTDOWN_SECONDS)) + 10)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def _has_met() -> bool:
    """Whether this process has met the other ranks; without importing PyTorch."""
    module = sys.modules.get("torch.distributed")
    return module is not None and bool(module.is_initialized())


def join() -> Ranks:
    """Meet the other ranks, as the environment that the agent has set says; `ALONE` if it says nothing."""
    if not is_rank():
        return ALONE
    import torch
    import torch.distributed as dist

    # Before there is a group: why is said in atomica/model/model.py.
    import torch.distributed.nn.functional

    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return Ranks(
        dist.get_rank(),
        dist.get_world_size(),
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def leave(ranks: Ranks) -> None:
    """Part from the other ranks, if that has not happened yet."""
    if ranks.size > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def agreed(ranks: Ranks, work: Callable[[], T]) -> T:
    """The result of `work`, if it succeeds on every rank; else the same SpecError on all of them."""
    problem, result = None, None
    try:
        result = work()
    except AtomicaError as error:
        if ranks.size == 1:
            raise
        problem = str(error)
    problems = ranks.gather(problem)
    for rank, found in enumerate(problems):
        if found is not None:
            raise SpecError(found if problems[0] is not None else f"rank {rank}: {found}")
    return result  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ failures


def record_failure(error: BaseException, text: str = "") -> None:
    """Leave what went wrong on this rank where the agent reads it: `text`, else all that Python knows of it."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not file:
        return
    text = text or "".join(traceback.format_exception(error)).rstrip()
    message = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
    Path(file).write_text(json.dumps({"message": message, "consequence": _is_consequence(error)}))


def _is_consequence(error: BaseException) -> bool:
    """Whether the error only says that another rank is gone."""
    return isinstance(error, RuntimeError) and bool(
        re.search("by peer|gloo|NCCL|ProcessGroup|TCPStore", str(error))
    )


def _explain(failures: Mapping[int, Any]) -> tuple[int, str]:
    """Exit code and message for the failures that the agent reports, by rank: those of the one that came first."""

    def order(item: tuple[int, Any]) -> tuple[int, int, int]:
        rank, failure = item
        grade = 0
        if failure.error_file_data.get("consequence"):
            grade = 3
        elif failure.exitcode == -signal.SIGTERM:  # how the agent ends the others
            grade = 2
        elif failure.exitcode == INTERRUPTED:  # what they make of it
            grade = 1
        return grade, failure.timestamp, rank  # in whole seconds, so that grades are needed

    rank, failure = min(failures.items(), key=order)
    code = int(failure.exitcode)
    message = failure.message["message"] if isinstance(failure.message, dict) else ""
    if code < 0:
        return FAILED, f"rank {rank} was killed by {failure.signal_name()}; all ranks are stopped"
    if not message:  # a rank that ends in an orderly way has printed why
        return code, ""
    return code, message if rank == 0 else f"rank {rank}: {message}"


# -------------------------------------------------------------------------------------------------- launch


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run `atomica-run` with these arguments as `devices` ranks on this machine; returns the exit code.

    SIGINT, SIGTERM and SIGUSR1 are handed on to the ranks, which write a checkpoint and end.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def hand_on(number: int, frame: FrameType | None) -> None:
        raise SignalException(f"signal {number}", sigval=signal.Signals(number))

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = signal.signal(signal.SIGUSR1, hand_on)
    outer = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())
    # Where every weight has a gradient, DDP would say that it looked for others in vain.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault(SHUTDOWN, str(SHUTDOWN_SECONDS))
    try:
        with tempfile.TemporaryDirectory(prefix="atomica-ranks-") as folder:
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=devices,
                run_id=uuid.uuid4().hex,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )
            elastic_launch(config, sys.executable)("-m", "atomica.runner", *arguments)
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        code, message = _explain(error.failures)
        if message:
            print(f"atomica-run: {message}", file=sys.stderr)
        return code
    finally:
        del os.environ[PARENT]
        if outer is not None:
            os.environ[PARENT] = outer
        signal.signal(signal.SIGUSR1, before)
    return DONE
