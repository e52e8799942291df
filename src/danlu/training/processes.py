"""The processes of one run: which of them this is, and their meeting. `danlu train --nproc` or torchrun starts them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from danlu.errors import DanluError, Fault, WorkError
from danlu.training.heartbeat import start_heartbeat

LONGEST_WAIT = timedelta(hours=24)  # the others may prepare data meanwhile
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection|Broken pipe|store")


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
        local_world_size: how many are on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes the run folder and tells how it goes."""
        return self.rank == 0

    @property
    def first_of_machine(self) -> bool:
        """Whether this is the one that tells what went wrong, for all on its machine."""
        return self.local_rank == 0

    def wait(self) -> None:
        """Waits for all others to come here too."""
        if self.world_size > 1:
            import torch

            torch.distributed.barrier()


THIS_ALONE = Processes()


def processes_of_environment() -> Processes:
    """As torchrun's environment variables say; alone without them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Processes(*(int(os.environ.get(name, alone)) for name, alone in zip(names, "0101", strict=True)))


@contextlib.contextmanager
def first_before_others(processes: Processes) -> Iterator[None]:
    """Lets the first process through alone, then the others: what it makes on disk they find there."""
    if not processes.first:
        processes.wait()
    yield
    if processes.first:
        processes.wait()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Joins the run's process group if there are others and it is not joined yet, and leaves it at the end.

    Raises:
        WorkError: an exchange with another process failed: it ended, or can't be reached.
    """
    processes = processes_of_environment()
    if processes.world_size == 1:
        yield processes
        return
    import torch

    if not torch.distributed.is_initialized():  # Ray joins its workers before it calls them
        if torch.cuda.is_available():
            torch.cuda.set_device(processes.local_rank)
        torch.distributed.init_process_group(timeout=LONGEST_WAIT)
    heartbeat = start_heartbeat(processes.rank, processes.world_size, processes.first_of_machine)
    failure: DanluError | None = None
    try:
        yield processes
    except DanluError as error:
        failure = error
        raise
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or _LOST.search(str(error))):
            raise
        what = f"process {processes.rank} lost the others: {str(error).splitlines()[0]}"
        hint = "see what the other process said; then go on with danlu train RECIPE --resume"
        failure = WorkError(Fault(what, hint=hint))
        raise failure from error
    finally:
        heartbeat.leave(failure)
        torch.distributed.destroy_process_group()
