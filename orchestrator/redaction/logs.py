"""Redaction on the way out of the process: log records, structlog's events, uncaught exceptions.

The rendered line is the last line of defence: it holds what no field showed, an object's `repr` or
a traceback. Fields are redacted before it, because a number masked in rendered JSON is no JSON.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from orchestrator.redaction.text import redact
from orchestrator.redaction.values import redact_dict

_OWN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; anything else came with ``extra=``."""

_UNREADABLE: Final = "(a log message that cannot be read)"


def redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
    """Redact the fields of an event: structlog's processor right before the renderer."""
    return redact_dict(event)


def redact_line(_logger: object, _method: str, line: Any) -> Any:
    """Redact a rendered line: structlog's processor behind the renderer."""
    return redact_dict(line)


def format_message(record: logging.LogRecord) -> bool:
    """Format a record's message now, as a handler's filter; always lets it pass.

    Where message and arguments do not fit together, `logging` would print both to stderr by itself,
    beside every filter and formatter.
    """
    if not isinstance(record.msg, Mapping):  # structlog's events travel as such
        record.msg, record.args = _message(record), None
    return True


class PCIRedactionFilter(logging.Filter):
    """Redacts a record of the standard library, whatever formats it afterwards.

    For handlers: a logger's filter does not see the records of the loggers below it. The record is
    changed: its message is formatted, and its traceback becomes text.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact, and let the record pass."""
        format_message(record)
        record.msg = redact_dict(record.msg)
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            record.exc_info = None
        record.exc_text = redact_dict(record.exc_text)
        record.stack_info = redact_dict(record.stack_info)
        for name in record.__dict__.keys() - _OWN:
            record.__dict__[name] = redact_dict({name: record.__dict__[name]})[name]
        return True


def install_root_redaction_filter() -> PCIRedactionFilter:
    """Put a filter on every handler that the root logger has now, and return it.

    Call it once the handlers are there: one that is added later has none.
    """
    installed = PCIRedactionFilter()
    for handler in logging.getLogger().handlers:
        handler.addFilter(installed)
    return installed


def install_exception_hooks() -> None:
    """Have the tracebacks of uncaught exceptions redacted, those of threads too."""
    sys.excepthook = _print
    threading.excepthook = _print_of_thread


def _print(
    kind: type[BaseException], error: BaseException, where: TracebackType | None, title: str = ""
) -> None:
    sys.stderr.write(redact(title + "".join(traceback.format_exception(kind, error, where))))


def _print_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit or failed.exc_value is None:
        return
    name = "?" if failed.thread is None else failed.thread.name
    title = f"Exception in thread {name}:\n"
    _print(failed.exc_type, failed.exc_value, failed.exc_traceback, title)


def _message(record: logging.LogRecord) -> str:
    with suppress(Exception):  # somebody's format, or somebody's `__str__`
        return record.getMessage()
    with suppress(Exception):
        return f"{record.msg} {record.args!r}"
    return _UNREADABLE
