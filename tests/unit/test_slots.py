"""How many threads of a worker count as taken."""

from __future__ import annotations

import threading
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
