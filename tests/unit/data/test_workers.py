import os
import time

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
