"""Logs: one structured line per thing worth telling, from the engine, Celery and libraries alike.

The engine tells of every committed entry (see `orchestrator.instrumentation`); here is decided
which of them an operator reads at which level. What is filtered out costs one look-up.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import structlog
from celery import signals
from celery.app.log import Logging as CeleryLogging
from celery.exceptions import CPendingDeprecationWarning
from structlog.typing import Processor

from orchestrator.entries import (
    CancelRefused,
    CancelRequested,
    EffectReported,
    EntriesVoided,
    Entry,
    EvidenceAsserted,
    EvidenceConfirmed,
    EvidenceWithdrawn,
    LateOutcomeRecorded,
    MovementSettled,
    OperatorActed,
    SagaCompensated,
    SagaCompleted,
    SagaLockGranted,
    SagaMigrated,
    SagaParked,
    SagaResolved,
    SagaUnparked,
    SignalReceived,
    StepFailed,
    StepProbed,
    StepReleased,
    StepSettled,
    StepSkipped,
    StepStarted,
    StepSucceeded,
    StepUnknown,
    StepWaiting,
    UndoFailed,
    UndoRequested,
    UnwindingStarted,
)
from orchestrator.instrumentation import subscribe
from orchestrator.redaction import (
    format_message,
    install_exception_hooks,
    install_root_redaction_filter,
    redact_event,
    redact_line,
)
from workers.settings import Settings

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

_ENTRIES: Mapping[type[Entry], tuple[int, str]] = {
    StepStarted: (DEBUG, "step.started"),
    StepSucceeded: (DEBUG, "step.succeeded"),
    StepReleased: (INFO, "step.released"),
    StepFailed: (INFO, "step.failed"),
    StepUnknown: (WARNING, "step.unknown"),
    StepWaiting: (INFO, "step.waiting"),
    StepProbed: (INFO, "step.probed"),
    StepSettled: (INFO, "step.settled"),
    StepSkipped: (INFO, "step.skipped"),
    LateOutcomeRecorded: (WARNING, "step.late_outcome_recorded"),
    EffectReported: (WARNING, "step.effect_reported"),
    MovementSettled: (INFO, "step.movement_settled"),
    UndoFailed: (WARNING, "step.undo_failed"),
    SignalReceived: (INFO, "signal.received"),
    CancelRequested: (INFO, "saga.cancel_requested"),
    CancelRefused: (INFO, "saga.cancel_refused"),
    UndoRequested: (INFO, "saga.undo_requested"),
    OperatorActed: (INFO, "saga.operator_acted"),
    EvidenceAsserted: (WARNING, "saga.evidence_asserted"),
    EvidenceConfirmed: (WARNING, "saga.evidence_confirmed"),
    EvidenceWithdrawn: (INFO, "saga.evidence_withdrawn"),
    EntriesVoided: (WARNING, "saga.entries_voided"),
    SagaLockGranted: (INFO, "saga.lock_granted"),
    SagaUnparked: (INFO, "saga.unparked"),
    SagaMigrated: (INFO, "saga.migrated"),
    UnwindingStarted: (INFO, "saga.unwinding_started"),
    SagaParked: (ERROR, "saga.parked"),
    SagaCompleted: (INFO, "saga.completed"),
    SagaCompensated: (INFO, "saga.compensated"),
    SagaResolved: (INFO, "saga.resolved"),
}
"""Level and name of the line about an entry. Those not named here tell nothing by themselves."""

_EVENTS: Mapping[str, int] = {
    "saga.entry": logging.NOTSET,
    "saga.started": DEBUG,
    "saga.cancel_requested": DEBUG,
    "saga.stale_result_refused": WARNING,
    "saga.foreign_definition": WARNING,
    "saga.still_parked": ERROR,
    "saga.set_aside": ERROR,
    "saga.not_set_aside": ERROR,
    "saga.unreadable": ERROR,
    "installation.undecided": ERROR,
    "saga.look_failed": WARNING,
    "saga.late_outcome_unplaced": ERROR,
    "saga.late_effect": ERROR,
    "alert.raised": ERROR,
    "alert.sent": INFO,
    "alert.not_sent": WARNING,
    "alert.closed": INFO,
    "alert.failed": WARNING,
    "reconciliation.done": INFO,
    "reconciliation.closed": INFO,
    "reconciliation.action_failed": WARNING,
    "reconciliation.failed": WARNING,
    "sweep.failed": WARNING,
    "sweep.unknown_line": WARNING,
    "worker.stalled": ERROR,
    "worker.died": WARNING,
    "worker.child_killed": ERROR,
    "worker.hung": ERROR,
    "step.hung": ERROR,
    "process.session_hidden": INFO,
    "lease.lost": WARNING,
    "doorbell.failed": WARNING,
    "heartbeat.failed": WARNING,
    "drain.failed": ERROR,
    "message.ignored": WARNING,
    "message.stale": DEBUG,
    "attempt.left": WARNING,
    "checkpoint.not_kept": WARNING,
    "attempt.put_off": DEBUG,  # every attempt in an outage, once a minute
    "start.refused": WARNING,
    "sweep.done": DEBUG,
    "worker.refused": ERROR,
    "worker.waiting_for_database": WARNING,
    "worker.grace_ended": WARNING,
    "redaction.applied": WARNING,
    "call.timed": DEBUG,
    "circuit.opened": ERROR,
    "circuit.trial_failed": WARNING,
    "circuit.closed": INFO,
    "guards.lost": WARNING,
    "guards.regained": INFO,
    "webhook.processed": DEBUG,
    "webhook.put_off": INFO,
    "webhook.parked": ERROR,
    "webhook.failed": WARNING,
    "http.answered": INFO,
    "http.processing_failed": WARNING,
    "idempotency.unknown": WARNING,
    "idempotency.settled": INFO,
    "idempotency.late_result": WARNING,
    "idempotency.result_refused": ERROR,
}
"""Levels of the other events; one that is not named here is information."""

_SHOWN = ("step", "direction", "attempt", "reason", "cause", "question", "signal", "outcome")
_NOISY = (
    *("celery.app.trace", "celery.worker.strategy", "httpx2", "httpcore2", "kombu.pidbox"),
    "alembic.runtime.migration",
)


def configure(settings: Settings, level: int | None = None) -> None:
    """Send structlog's and the standard library's records to stderr, in one form, and redacted.

    Args:
        settings: name the level and the form.
        level: instead of theirs.
    """
    threshold = level or logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer = _renderer(settings)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _configure_standard_library(threshold, shared, renderer)
    logging.captureWarnings(capture=True)  # pydantic's repeat values
    install_exception_hooks()
    subscribe(LogWriter(threshold))


def _renderer(settings: Settings) -> list[Processor]:
    """Fields are redacted before they are rendered, and the line afterwards.

    Locals are never shown: a frame may hold a payload. On a terminal the traceback is plain: a
    pretty one is wrapped, and half a card number at the end of a line is none that one can find.
    """
    is_console = settings.log_format == "console" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    if is_console:
        plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [redact_event, _whatever_is_said(plain), redact_line]
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(frames),
        redact_event,
        _whatever_is_said(structlog.processors.JSONRenderer(default=str)),
        redact_line,
    ]


def _whatever_is_said(render: Processor) -> Processor:
    """Render what cannot be rendered as text: a step must not fail by telling of its work."""

    def rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        try:
            return render(logger, method, dict(event))
        except Exception:  # noqa: BLE001 - of an object's text, or a name that JSON does not have
            told = {name: _as_text(name, each) for name, each in event.items()}
            return render(logger, method, told)

    return rendered


def _as_text(name: str, value: Any) -> Any:
    with suppress(Exception):
        text = repr(value)  # also of a number: there is a longest that becomes text
        is_plain = value is None or isinstance(value, str | bool | int | float)
        return value if is_plain or name == "exc_info" else text
    return "(unreadable)"


def _configure_standard_library(
    threshold: int, shared: list[Processor], renderer: list[Processor]
) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(format_message)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _NOISY:  # a line per message, which says less than the saga's own
        logging.getLogger(name).setLevel(max(threshold, WARNING) if threshold > DEBUG else DEBUG)


class LogWriter:
    """Turns the engine's events into log lines."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._log = structlog.get_logger("amends")

    def __call__(self, event: str, fields: MutableMapping[str, Any]) -> None:
        """Write the line for `event`, if it is loud enough."""
        if event == "saga.entry":
            self._entry(fields)
            return
        level = _EVENTS.get(event, INFO)
        if level >= self._threshold:
            self._log.log(level, event, **{name: _plain(each) for name, each in fields.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LogWriter)  # a process writes each event once

    def __hash__(self) -> int:
        return hash(LogWriter)

    def _entry(self, fields: Mapping[str, Any]) -> None:
        entry = fields["entry"]
        level, name = _ENTRIES.get(type(entry), (logging.NOTSET, ""))
        if level < self._threshold:
            return
        shown = {each: getattr(entry, each) for each in _SHOWN if hasattr(entry, each)}
        error = getattr(entry, "error", None)
        if error:
            shown["error"] = f"{error.get('type')}: {error.get('message')}"
        self._log.log(
            level,
            name,
            saga_id=str(fields["saga_id"]),
            saga=fields["saga"],
            key=fields["key"],
            **{each: _plain(value) for each, value in shown.items()},
        )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else str(value)


class Logging(CeleryLogging):
    """Celery's logging for our app: ours, unless the user has connected ``setup_logging``.

    A class of the app and no signal, because a signal would take over the logs of every Celery app
    in the process.
    """

    _is_configured = False

    def setup(self, *args: Any, **options: Any) -> Any:
        """Set up, and be silent about settings that this project has chosen on purpose."""
        result = super().setup(*args, **options)
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        return result

    def setup_logging_subsystem(self, loglevel: Any = None, *args: Any, **options: Any) -> Any:
        """Configure logs once per process tree; Celery's ``-l`` wins when it was given."""
        if signals.setup_logging.receivers:
            done = super().setup_logging_subsystem(loglevel, *args, **options)
            install_root_redaction_filter()
            install_exception_hooks()
            return done
        app: Any = self.app
        if not self._is_configured:
            self._is_configured = True
            configure(app.settings, _chosen(loglevel))
        return True


def _chosen(loglevel: int | str | None) -> int | None:
    """Celery passes WARNING when nobody chose: then the settings' level holds."""
    if isinstance(loglevel, str):
        loglevel = logging.getLevelNamesMapping().get(loglevel.upper())
    return None if loglevel in (None, 0, WARNING) else loglevel
