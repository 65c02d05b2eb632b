"""Every failure on a rank is reported, and the next run is not affected."""

import os
import signal

import pytest
import torch.distributed as dist


def rank() -> int:
    return dist.get_rank()


def kill_last() -> None:
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


class NotBackAgain:
    """An object that can be pickled but raises when it is unpickled."""

    def __reduce__(self):
        return refuse, ()


def refuse() -> None:
    raise KeyError("not here")


def fail() -> None:
    raise ValueError(f"on {rank()}")


def unpicklable() -> object:
    return lambda: None


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (kill_last, (), "rank 1 of 2 died with exit code -9"),
        (fail, (), r"rank [01] of 2:\n(.|\n)*ValueError: on [01]"),
        (NotBackAgain, (), r"rank [01] of 2:\n(.|\n)*in refuse\n(.|\n)*KeyError: 'not here'"),
        (print, (NotBackAgain(),), r"rank [01] of 2:\n(.|\n)*in _serve\n(.|\n)*KeyError: 'not here'"),
        (unpicklable, (), r"rank [01] of 2:\n(.|\n)*pickle"),
    ],
)
def test_a_failure_on_a_rank_is_reported(ranks, function, arguments, message):
    with pytest.raises(AssertionError, match=message):
        ranks[2].run(function, *arguments)
    assert ranks[2].run(rank) == [0, 1]
