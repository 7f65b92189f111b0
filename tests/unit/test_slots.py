"""How many threads of a worker count as taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from celery.concurrency.thread import TaskPool

from workers.slots import Slots

SECONDS = 10.0


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    pool = TaskPool(2)
    yield pool
    pool.stop()


@pytest.fixture
def slots(pool: TaskPool) -> Slots:
    slots = Slots()
    slots.adopt(pool, 2)
    return slots


def _held_inside(slots: Slots, depth: int, inside: threading.Event, go: threading.Event) -> None:
    """A task that runs in a slot, and in it the task of the step that follows."""
    with slots:
        if depth > 1:
            _held_inside(slots, depth - 1, inside, go)
            return
        inside.set()
        assert go.wait(SECONDS)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_was_started_here_takes_one_slot_however_many_tasks_it_runs(
    slots: Slots, depth: int
) -> None:
    inside, go = threading.Event(), threading.Event()
    assert slots.start(lambda: _held_inside(slots, depth, inside, go))
    assert inside.wait(SECONDS)

    assert slots.start(lambda: go.wait(SECONDS))
    assert not slots.start(lambda: None)
    go.set()


def test_a_message_s_task_takes_one_slot_with_all_it_runs_in_place(slots: Slots) -> None:
    inside, go = threading.Event(), threading.Event()
    thread = threading.Thread(target=_held_inside, args=(slots, 3, inside, go))
    thread.start()
    assert inside.wait(SECONDS)

    assert slots.start(lambda: go.wait(SECONDS))
    assert not slots.start(lambda: None)
    go.set()
    thread.join(SECONDS)


def _fails() -> None:
    raise ValueError("the work failed")


@pytest.mark.parametrize("work", [_fails, lambda: None], ids=["fails", "returns"])
def test_a_slot_is_free_again_when_its_work_has_ended(
    slots: Slots, pool: TaskPool, work: Callable[[], object]
) -> None:
    for _ in range(3):
        assert slots.start(work)
        assert slots.start(work)
        _wait_until_idle(pool)


def _wait_until_idle(pool: TaskPool) -> None:
    """Both threads meet here, so what was given to them before has ended."""
    meeting = threading.Barrier(3)
    for _ in range(2):
        pool.apply_async(meeting.wait, (SECONDS,), callback=lambda _: None)
    meeting.wait(SECONDS)


def test_without_threads_of_its_own_nothing_is_free() -> None:
    assert not Slots().start(lambda: None)


def test_a_thread_that_hangs_is_replaced(slots: Slots) -> None:
    hung = [_Held(slots), _Held(slots)]
    assert not slots.start(lambda: None)
    waiting = threading.Event()
    slots._pool.apply_async(waiting.set, callback=lambda _: None)  # as a message that was fetched

    assert slots.replace(hung[0].ident)

    assert waiting.wait(SECONDS)
    assert slots.replaced == 1
    another = _Held(slots)
    assert not slots.start(lambda: None)
    for each in (*hung, another):
        each.go.set()


def test_a_thread_that_comes_back_takes_the_place_of_the_next_that_hangs(
    slots: Slots, pool: TaskPool
) -> None:
    first, second = _Held(slots), _Held(slots)
    slots.replace(first.ident)
    third = _Held(slots)
    first.go.set()
    first.ended.wait(SECONDS)

    assert slots.replace(second.ident)

    threads = len(slots._threads)
    fourth = _Held(slots)
    assert len(slots._threads) == threads
    for each in (second, third, fourth):
        each.go.set()


def test_a_thread_that_is_not_the_pool_s_cannot_be_replaced(slots: Slots) -> None:
    with slots:
        assert not slots.replace(threading.get_ident())
    assert slots.replaced == 0


class _Held:
    """Work that was started in a free slot and holds its thread until `go`."""

    def __init__(self, slots: Slots) -> None:
        self.go, self.ended, inside = threading.Event(), threading.Event(), threading.Event()
        self.ident = 0

        def hold() -> None:
            self.ident = threading.get_ident()
            inside.set()
            self.go.wait(SECONDS)
            self.ended.set()

        until = time.monotonic() + SECONDS
        while not slots.start(hold):
            assert time.monotonic() < until, "there is no free slot"
            time.sleep(0.01)
        assert inside.wait(SECONDS)
