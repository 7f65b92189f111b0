"""Hold a live database against the invariants, without writing anything or keeping anybody.

What the tests and the demo judge with is `recovery.invariants`, and so is this: the log of each
saga, the rows beside it, the books, and what the gateway reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final
from zoneinfo import ZoneInfo

from orchestrator.definitions import Definitions
from orchestrator.entries import log_format
from orchestrator.state import FoldedSaga
from orchestrator.storage import installation
from orchestrator.storage.database import Database
from orchestrator.storage.verification import Moment, SagaRecord, moment
from recovery.invariants.evidence import Evidence, Violation
from recovery.invariants.history import check_histories
from recovery.invariants.ledgers import check_books, check_line, check_listed
from recovery.invariants.rows import check_rows
from steps.gateways.payment import PaymentGateway, ReportLine

PAGE_SECONDS: Final = 30.0
LINES_AT_ONCE: Final = 200

MARGIN: Final = timedelta(minutes=10)
"""How long before the moment of reading the gateway and the log may not agree yet."""


@dataclass(slots=True, kw_only=True)
class Verified:
    """How much was judged.

    Args:
        newer: sagas that only a newer version can read; only their being there was.
        foreign: sagas whose definition is not here; judged by what holds for all.
        lines: of the gateway's reports.
    """

    sagas: int = 0
    newer: int = 0
    foreign: int = 0
    lines: int = 0
    violations: int = 0


class Verification:
    """Judges what moved since a moment, and all that has not ended.

    Args:
        gateway: asked for its reports of the days since then; None: only our own books are judged.
    """

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        gateway: PaymentGateway | None = None,
    ) -> None:
        self._database = database
        self._definitions = definitions
        self._gateway = gateway
        self.verified = Verified()
        self._listed: set[tuple[str, str]] = set()

    def run(self, lasting: timedelta) -> Iterator[Violation]:
        """Yield every violation as it is found, in what moved in the last so long.

        Memory holds one batch of sagas and, with a gateway, the names of the reported movements.

        Raises:
            ReplicaError: the server is a standby.
            PaymentError: the gateway's report cannot be read.
        """
        ours = installation.read(self._database).name
        with moment(self._database) as at:
            since = at.now - lasting
            found = self._of_the_gateway(at, since, ours)
            for each in found:
                self.verified.violations += 1
                yield each
            for record in at.sagas(since):
                for each in self._of(record, at.now, since):
                    self.verified.violations += 1
                    yield each

    def _of(self, record: SagaRecord, now: datetime, since: datetime) -> Iterator[Violation]:
        self.verified.sagas += 1
        if record.log_format > log_format():
            self.verified.newer += 1
            return
        evidence = Evidence(sagas=[record.history])
        yield from check_histories(evidence, self._definitions, at_rest=False)
        state = evidence.states[record.history.id]
        if not isinstance(state, FoldedSaga):
            return  # it was told of above
        definition = self._definitions.by_hash(record.history.definition_hash)
        self.verified.foreign += definition is None
        yield from check_rows(record, state, definition, now)
        yield from check_books(record, state)
        if self._gateway is not None:
            yield from check_listed(record, self._listed, since, now - MARGIN)

    def _of_the_gateway(self, at: Moment, since: datetime, ours: str) -> Iterator[Violation]:
        if self._gateway is None:
            return
        lines = self._lines(self._gateway, at.now, since)
        while batch := list(islice(lines, LINES_AT_ONCE)):
            orders = sorted({each.order_reference for each in batch if each.order_reference})
            records = [_folded(each) for each in at.of_orders(orders)]
            for line in batch:
                self.verified.lines += 1
                if line.at < at.now - MARGIN:
                    yield from check_line(line, [r for r in records if r is not None], ours)

    def _lines(
        self, gateway: PaymentGateway, now: datetime, since: datetime
    ) -> Iterator[ReportLine]:
        zone = ZoneInfo(gateway.capabilities.business_zone)
        day, last = since.astimezone(zone).date(), now.astimezone(zone).date()
        while day <= last:
            for each in gateway.list(day, timeout_seconds=PAGE_SECONDS):
                if not isinstance(each, ReportLine):
                    continue  # reconciliation tells of those
                self._listed.add((each.kind.value, each.reference))
                if each.at >= since:
                    yield each
            day += timedelta(days=1)


def _folded(record: SagaRecord) -> tuple[SagaRecord, FoldedSaga] | None:
    state: Any = Evidence(sagas=[record.history]).states[record.history.id]
    return (record, state) if isinstance(state, FoldedSaga) else None
