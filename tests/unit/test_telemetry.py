"""Which events become log lines, and which cost nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from uuid import UUID

import pytest
import structlog
from structlog.testing import LogCapture

from orchestrator.entries import Entry, SagaCompleted, SagaParked, StepStarted, StepUnknown
from workers.telemetry import LogWriter

SAGA = UUID(int=1)


@pytest.fixture
def lines() -> Iterator[LogCapture]:
    capture = LogCapture()
    structlog.configure(processors=[capture], cache_logger_on_first_use=False)
    yield capture
    structlog.reset_defaults()


def _tell(writer: LogWriter, entry: Entry) -> None:
    writer("saga.entry", {"saga_id": SAGA, "saga": "checkout", "key": "1", "entry": entry})


STARTED = StepStarted(step="reserve", direction="forward", attempt=1, owner="host/a/1")
UNKNOWN = StepUnknown(step="pay", direction="forward", attempt=2, reason="drained")
PARKED = SagaParked(state="stuck", reason="unsettled", question="was it paid?")


@pytest.mark.parametrize(
    ("entry", "level", "event"),
    [
        (UNKNOWN, "warning", "step.unknown"),
        (PARKED, "error", "saga.parked"),
        (SagaCompleted(), "info", "saga.completed"),
    ],
)
def test_an_operator_reads_of_it(lines: LogCapture, entry: Entry, level: str, event: str) -> None:
    _tell(LogWriter(logging.INFO), entry)

    (line,) = lines.entries
    assert (line["log_level"], line["event"], line["saga_id"]) == (level, event, str(SAGA))


def test_the_happy_road_is_silent_unless_asked_for(lines: LogCapture) -> None:
    _tell(LogWriter(logging.INFO), STARTED)
    assert not lines.entries

    _tell(LogWriter(logging.DEBUG), STARTED)
    assert [line["event"] for line in lines.entries] == ["step.started"]


def test_the_question_of_a_parked_saga_is_in_its_line(lines: LogCapture) -> None:
    _tell(LogWriter(logging.INFO), PARKED)

    assert lines.entries[0]["question"] == "was it paid?"
