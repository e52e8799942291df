import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from danlu.data.workers import Workers
from danlu.errors import WorkError


def slow_for_small(number):
    time.sleep(0.05 if number % 3 == 0 else 0)
    return number * number


def pid_of(number):
    return os.getpid()


def die(number):
    os._exit(9)


def fail(number):
    raise ValueError(f"chunk {number}")


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_results_are_in_order_for_any_number_of_processes(num_workers):
    with Workers(num_workers) as workers:
        assert list(workers.map(slow_for_small, range(20))) == [number * number for number in range(20)]
        assert list(workers.map(slow_for_small, [])) == []


def test_a_little_work_needs_no_process():
    with Workers(4) as workers:
        assert set(workers.map(pid_of, range(4))) == {os.getpid()}
        assert os.getpid() not in set(workers.map(pid_of, range(9)))


def test_chunks_are_read_as_they_are_needed():
    taken = []

    def chunks():
        for number in range(50):
            taken.append(number)
            yield number

    with Workers(2) as workers:
        results = workers.map(slow_for_small, chunks())
        next(results)
        assert len(taken) < 12


def test_a_process_that_dies_ends_in_a_message():
    with Workers(2) as workers, pytest.raises(WorkError, match="died"):
        list(workers.map(die, range(9)))


def test_a_fault_in_a_chunk_comes_out():
    with Workers(2) as workers, pytest.raises(ValueError, match="chunk"):
        list(workers.map(fail, range(9)))


KILLED = """
import time
from danlu.data.workers import Workers
from test_workers import pid_of
with Workers(2) as workers:
    print(*set(workers.map(pid_of, range(9))), flush=True)
    time.sleep(300)
"""


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_one_that_started_it(number):
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        assert all(map(is_alive, pids))
        parent.send_signal(number)
        until = time.monotonic() + 30  # they end at once; a busy machine may take its time to let them
        while any(map(is_alive, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        left = [psutil.Process(pid) for pid in pids if is_alive(pid)]
        for process in left:
            process.kill()
    assert not left
