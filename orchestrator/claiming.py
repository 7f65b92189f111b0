"""Claiming: the right to run one attempt, written down before its step is called.

Tokens are made here, not in the database: after an error around the claim the row is asked whether
it bears ours. What is to be run, how long and whether alone, the row says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from orchestrator import checkpoints
from orchestrator.announcing import announce
from orchestrator.context import Lease
from orchestrator.definition import SagaDefinition, Step
from orchestrator.definitions import Definitions
from orchestrator.entries import Recorded, StepStarted
from orchestrator.errors import HistoryError, LogUnavailableError
from orchestrator.folding import apply, replay
from orchestrator.instrumentation import emit
from orchestrator.leases import Leases
from orchestrator.planning import attempt_id
from orchestrator.state import FoldedSaga
from orchestrator.state_machine import decide
from orchestrator.storage.database import Moved
from orchestrator.storage.rows import AttemptId, Claimed, SagaRow, Snapshot
from orchestrator.storage.saga_log import SagaLog
from orchestrator.troubles import NewerLogError, fold_of, is_its_own


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run one attempt, and all that is known about its saga."""

    attempt: AttemptId
    token: UUID
    definition: SagaDefinition[Any]
    saga: SagaRow
    state: FoldedSaga
    lease: Lease
    claimed_at: datetime
    claimed_monotonic: float
    alone: bool = False

    @property
    def step(self) -> Step:
        return self.definition.step(self.attempt.step)

    def now(self) -> datetime:
        """The database's time, carried forward on the monotonic clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.claimed_monotonic)


class Claims:
    """Claims attempts for this process.

    Args:
        owner: names this process in the log; asked anew after a fork.
        hand_back: ends a claim that nobody wants before its step is called.
        set_aside: parks a saga because of what was raised while it was handled.
    """

    def __init__(
        self,
        log: SagaLog,
        definitions: Definitions,
        leases: Leases,
        *,
        owner: Callable[[], str],
        hand_back: Callable[[Claim], object],
        set_aside: Callable[[UUID, Exception], object],
    ) -> None:
        self._log = log
        self._definitions = definitions
        self._leases = leases
        self._owner = owner
        self._hand_back = hand_back
        self._set_aside = set_aside

    def claim(self, attempt: AttemptId) -> Claim | None:
        """Claim an attempt; see `orchestrator.coordinator.Coordinator.claim`."""
        try:
            try:
                return self._claim_once(attempt)
            except LogUnavailableError:
                return self._claim_once(attempt)
        except NewerLogError as error:
            emit("saga.unreadable", saga_id=attempt.saga_id, error=str(error))
            return None
        except Exception as error:
            if not is_its_own(error):
                raise
            self._set_aside(attempt.saga_id, error)
            return None

    def _claim_once(self, attempt: AttemptId) -> Claim | None:
        token = uuid.uuid4()
        asked = time.monotonic()
        try:
            claimed = self._log.claim(
                attempt,
                token=token,
                owner=self._owner(),
                lease_seconds=self._leases.length_seconds,
                hashes=self._definitions.hashes,
            )
        except Moved:
            return None
        except LogUnavailableError:
            if not self._log.holds(attempt, token):
                raise
            return self._claim_in_doubt(attempt, token, asked)
        if claimed is None:
            return None
        before, state = self._folded(attempt, claimed)
        lease = self._leases.add(attempt, token, claimed.timeout_seconds, asked)
        claim = self._claim(
            attempt, token, claimed.saga, state, lease, claimed.now, asked, alone=claimed.alone
        )
        return self._if_wanted(claim, before)

    def _folded(self, attempt: AttemptId, claimed: Claimed) -> tuple[FoldedSaga, FoldedSaga]:
        """The saga before and after the intent: from its last checkpoint on, where that will do."""
        saga_id, entry = attempt.saga_id, started(attempt, self._owner())
        intent = Recorded(seq=claimed.saga.seq, at=claimed.now, entry=entry)
        is_due = checkpoints.is_due(claimed.entries)
        try:
            before = fold_of(claimed.entries, claimed.base)
            state = apply(before, intent)
        except HistoryError:
            if claimed.base is None:
                raise
            whole = self._log.entries(saga_id)
            before = fold_of([each for each in whole if each.seq < intent.seq])
            state, is_due = apply(before, intent), True
        if is_due:
            self._log.keep_checkpoint(saga_id, before)
        return before, state

    def _claim_in_doubt(self, attempt: AttemptId, token: UUID, asked: float) -> Claim | None:
        """The claim was committed, though its answer was lost: our token in the row says so."""
        snapshot = self._log.read(attempt.saga_id)
        if snapshot is None:
            return None
        row = next((each for each in snapshot.attempts if each.token == token), None)
        if row is None:
            return None
        place = _place_of_start(snapshot, attempt)
        before = fold_of(snapshot.entries[:place])
        state = replay(snapshot.entries[place:], before)
        lease = self._leases.add(attempt, token, row.timeout_seconds, asked)
        claim = self._claim(
            attempt, token, snapshot.saga, state, lease, snapshot.now, asked, alone=row.alone
        )
        return self._if_wanted(claim, before)

    def _if_wanted(self, claim: Claim, before: FoldedSaga) -> Claim | None:
        """Hand back what the log did not ask for when it was claimed: the row outlived that."""
        saga_id = claim.attempt.saga_id
        try:
            runs = decide(claim.definition, before, claim.claimed_at, str(saga_id)).runs
        except Exception:  # noqa: BLE001 - it is handed back, and set aside with the record
            runs = ()
        if claim.attempt in {attempt_id(saga_id, run) for run in runs}:
            return claim
        self._hand_back(claim)
        return None

    def _claim(
        self,
        attempt: AttemptId,
        token: UUID,
        saga: SagaRow,
        state: FoldedSaga,
        lease: Lease,
        now: datetime,
        asked: float,
        *,
        alone: bool,
    ) -> Claim:
        announce(saga, (started(attempt, self._owner()),))
        return Claim(
            attempt=attempt,
            token=token,
            definition=self._definition(saga),
            saga=saga,
            state=state,
            lease=lease,
            claimed_at=now,
            claimed_monotonic=asked,
            alone=alone,
        )

    def _definition(self, saga: SagaRow) -> SagaDefinition[Any]:
        definition = self._definitions.by_hash(saga.definition_hash)
        assert definition is not None, "claims and looks pass only known hashes"
        return definition


def started(attempt: AttemptId, owner: str) -> StepStarted:
    """Return the intent to run an attempt, as it is logged with the claim."""
    return StepStarted(
        step=attempt.step, direction=attempt.direction, attempt=attempt.number, owner=owner
    )


def _place_of_start(snapshot: Snapshot, attempt: AttemptId) -> int:
    """How many entries there were before the attempt's intent was logged."""
    for place, each in enumerate(snapshot.entries):
        match each.entry:
            case StepStarted(step=attempt.step, direction=attempt.direction, attempt=number):
                if number == attempt.number:
                    return place
            case _:
                pass
    return len(snapshot.entries)
