"""What leaves the process as log lines, tracebacks and task events holds no card number."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner
from kombu.message import Message

from orchestrator.instrumentation import emit, observed
from orchestrator.redaction import PCIRedactionFilter, install_root_redaction_filter
from recovery.cli.failures import failure_of
from recovery.cli.output import Output
from recovery.cli.program import amends
from workers.redacted_request import RedactedRequest

ROOT = Path(__file__).parents[2]
CARD = "4242424242424242"
HIDDEN = "************4242"

SPEAKS = """
import logging, sys, threading, warnings
import structlog
from orchestrator.instrumentation import emit
from workers.settings import Settings
from workers.telemetry import configure

CARD = "4242424242424242"
configure(Settings.load(log_format=sys.argv[1], log_level="debug"))

class Order:
    def __repr__(self):
        return f"Order(card={CARD}, cvv=123)"

class Broken:
    def __repr__(self):
        raise ValueError(CARD)

def fails():
    card_of_the_payer = CARD
    try:
        raise KeyError(CARD)
    except KeyError as error:
        error.add_note("noted " + CARD)
        raise ValueError("not a card: 4242 4242 4242 4242") from error

ours = structlog.get_logger("ours")
ours.info("really %s retry? 100%", plain=1)
ours.info("paid with " + CARD)
ours.info("fields", card=CARD, number=int(CARD), raw=CARD.encode(), cvv=123, deep=[{CARD: 1}])
ours.info("objects", order=Order(), password="hunter2")
ours.info("pairs", counted={("a", CARD): 1}, plain=1)
ours.info("broken", order=Broken(), deep=[Broken()], number=10**5000, plain=1)
structlog.contextvars.bind_contextvars(bound=CARD)
try:
    fails()
except ValueError:
    ours.exception("failed")
    logging.getLogger("theirs").exception("failed %s", "too")
theirs = logging.getLogger("theirs")
theirs.warning("really %s … retry?", "now")
theirs.warning("card %s of %r", CARD, Order())
theirs.warning("card %d", CARD)
theirs.warning("stack", stack_info=True)
warnings.warn("card " + CARD)
emit("start.refused", error=f"card {CARD}", key=CARD)
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""

TAKEN_OVER = """
import logging
from celery import signals
from workers.celery import app

@signals.setup_logging.connect
def ours(**_):
    logging.basicConfig(format="%(message)s", level=logging.INFO)

app.log.setup(loglevel="INFO")
logging.getLogger("theirs").info("card %s", "4242424242424242")
"""


def spoken(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_of_a_worker_holds_a_card_number(form: str) -> None:
    said = spoken(SPEAKS, form)

    assert "4242424242" not in re.sub(r"[ .-]|\x1b\[[0-9;]*m", "", said)
    assert "hunter2" not in said
    assert not re.search(r"\b123\b", said)
    assert said.count(HIDDEN) >= 18, said
    assert "[REDACTED_CVV]" in said
    assert "really %s retry? 100%" in said
    assert re.search(r"really now (…|\\u2026) retry\?", said)
    assert "card_of_the_payer" not in said.replace("card_of_the_payer = CARD", "")
    assert said.count("ValueError: not a card: ************4242") >= 2  # the uncaught ones


def test_a_line_in_json_stays_json() -> None:
    lines = spoken(SPEAKS, "json").splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]

    fields = next(each for each in events if each["event"] == "fields")
    failed = [each for each in events if each["event"].startswith("failed")]
    assert (fields["card"], fields["number"], fields["cvv"]) == (HIDDEN, HIDDEN, "[REDACTED_CVV]")
    assert [each["exception"][0]["exc_value"] for each in failed] == [f"not a card: {HIDDEN}"] * 2
    assert len(events) == 14


def test_no_line_fails_for_what_is_said_in_it() -> None:
    """A step that has taken money must not fail by telling of it."""
    events = [json.loads(each) for each in spoken(SPEAKS, "json").splitlines() if each[:1] == "{"]
    told = {each["event"]: each for each in events}

    assert told["pairs"]["counted"] == f"{{('a', '{HIDDEN}'): 1}}"
    assert told["broken"]["plain"] == told["pairs"]["plain"] == 1
    assert {told["broken"][each] for each in ("order", "deep", "number")} == {"(unreadable)"}
    assert "(unreadable)" in spoken(SPEAKS, "console")


def test_who_sets_up_logging_himself_gets_the_filter_too() -> None:
    assert spoken(TAKEN_OVER).splitlines()[-1] == f"card {HIDDEN}"


@pytest.fixture
def written() -> Iterator[StringIO]:
    """What the root logger's only handler wrote."""
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s %(order)s"))
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [handler]
    yield stream
    root.handlers[:] = before


def test_the_filter_redacts_whatever_formats_the_record(written: StringIO) -> None:
    installed = install_root_redaction_filter()

    try:
        raise ValueError(CARD)
    except ValueError:
        logging.getLogger("a.b").exception("card %s", CARD, extra={"order": {"cvv": 123}})
    logging.getLogger("a.b").error("%d", CARD, stack_info=True, extra={"order": CARD})

    assert isinstance(installed, PCIRedactionFilter)
    assert CARD not in written.getvalue()
    assert written.getvalue().startswith(f"card {HIDDEN} {{'cvv': '[REDACTED_CVV]'}}\nTraceback")
    assert f"ValueError: {HIDDEN}\n%d ('{HIDDEN}',) {HIDDEN}" in written.getvalue()


def test_nobody_can_format_the_traceback_once_more() -> None:
    try:
        raise ValueError(CARD)
    except ValueError:
        record = logging.makeLogRecord({"exc_info": sys.exc_info(), "stack_info": CARD})

    assert PCIRedactionFilter().filter(record)
    assert record.exc_info is None
    assert (record.exc_text or "").endswith(f"ValueError: {HIDDEN}")
    assert record.stack_info == HIDDEN


def test_an_event_of_structlog_stays_an_event() -> None:
    record = logging.makeLogRecord({"msg": {"event": "paid", "card": CARD}})

    assert PCIRedactionFilter().filter(record)
    assert record.msg == {"event": "paid", "card": HIDDEN}


def test_observers_are_told_without_card_numbers() -> None:
    heard: list[Any] = []

    with observed(lambda event, fields: heard.append((event, fields))):
        emit("start.refused", key=CARD, error=f"card {CARD}", attempt=1)

    assert heard == [("start.refused", {"key": HIDDEN, "error": f"card {HIDDEN}", "attempt": 1})]


# What Celery tells of a task.


class Unspeakable:
    def __str__(self) -> str:
        raise OSError


def test_a_message_that_cannot_be_read_is_told_of_all_the_same() -> None:
    record = logging.makeLogRecord({"msg": Unspeakable()})

    assert PCIRedactionFilter().filter(record)
    assert record.getMessage() == "(a log message that cannot be read)"


class Listener:
    enabled = True

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.heard.append((kind, fields))


def nothing() -> None: ...


def test_neither_events_nor_remote_control_show_the_arguments_of_a_start() -> None:
    app = Celery("any", broker="memory://", set_as_current=False)
    app.task(name="start")(nothing)
    arguments = {"saga": "checkout", "key": CARD, "payload": {"card": int(CARD), "cvv": "123"}}
    message = Message(
        body=json.dumps([[], arguments, {}]),
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "id": "1",
            "task": "start",
            "argsrepr": "()",
            "kwargsrepr": repr(arguments),
        },
    )
    listener = Listener()

    request = RedactedRequest(message, app=app, eventer=listener)
    request.send_event("task-failed", exception=f"ValueError('{CARD}')")
    sent_on = request.request_dict["kwargsrepr"]
    told = f"{request.kwargsrepr} {sent_on} {request.info()} {listener.heard}"

    assert CARD not in told
    assert told.count(HIDDEN) == 7
    assert request.kwargs["key"] == CARD  # the start itself refuses it, by name


# What the command line prints.


def test_the_command_line_repeats_no_card_number(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"key": CARD, "number": int(CARD)}

    Output().record(values, f"saga {CARD}")
    Output(as_json=True).record(values, "")
    Output().rows(["key"], [values])
    Output(as_json=True).rows(["key"], [values])
    Output().note(f"saga {CARD}")
    mistyped = CliRunner().invoke(amends, ["show", f"--{CARD}"])
    printed = "".join((*capsys.readouterr(), mistyped.output, failure_of(OSError(CARD)).message))

    assert CARD not in printed
    assert printed.count(HIDDEN) == 9
