"""Which rank's failure is told when several end."""

from __future__ import annotations

import signal

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from atomica.train import distributed

LOST = RuntimeError("Connection closed by peer [127.0.0.1]:5")


def failure(folder, monkeypatch, rank, exitcode, error):
    """As the agent finds it after the process of a rank, with what that has left."""
    file = folder / str(rank)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    if error is not None:
        distributed.record_failure(error, str(error) if isinstance(error, OSError) else "")
    return ProcessFailure(rank, 1000 + rank, exitcode, str(file))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        # What is wrong with a spec is printed by the rank itself; the agent ended the other one.
        ((-signal.SIGTERM, None), (2, None), (2, "")),
        ((-signal.SIGTERM, None), (1, ValueError("cuckoo")), (1, "rank 1: ValueError: cuckoo")),
        ((130, None), (-signal.SIGKILL, None), (1, "rank 1 was killed by SIGKILL; all ranks are stopped")),
        ((1, LOST), (-signal.SIGTERM, None), (1, "rank 1 was killed by SIGTERM; all ranks are stopped")),
        ((1, LOST), (1, OSError("no space left")), (1, "rank 1: no space left")),
        ((130, None), (130, None), (130, "")),
        ((-signal.SIGTERM, None), (130, None), (130, "")),
    ],
)
def test_the_cause_is_told_not_its_consequences(tmp_path, monkeypatch, first, second, told):
    failures = {rank: failure(tmp_path, monkeypatch, rank, *one) for rank, one in enumerate((first, second))}
    assert distributed._explain(failures) == told
