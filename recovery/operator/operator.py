"""The way in: preview a verb, do it by compare-and-set, and see what may be done next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from orchestrator.client import SagaClient, Started
from orchestrator.coordinator import Coordinator
from orchestrator.definition import SagaDefinition
from orchestrator.errors import HistoryError, SagaNotFoundError
from orchestrator.state import State
from recovery.operator.authenticating import authenticated
from recovery.operator.cases import Case
from recovery.operator.deciding import NOT_NEEDED, Plan, asked, decided
from recovery.operator.evidence import look
from recovery.operator.identity import Identity
from recovery.operator.previews import Preview, ask, preview
from recovery.operator.recommending import Advice, recommended, unreadable
from recovery.operator.refusals import MovedOnError
from recovery.operator.repairing import Diagnosis, closed, diagnosed, repaired
from recovery.operator.replaying import NewWork, Replay, new_work, started
from recovery.operator.verbs import By, Migrate, Verb


class Operator:
    """Answers sagas' questions in somebody's name.

    Args:
        identify: who uses it, authenticated; without it the database and the operating system say.

    Every verb may raise `RefusedError`, `MovedOnError`, `UnknownStepError`, `PayloadError`,
    `SagaNotFoundError`, `UnknownDefinitionError`: then nothing was written. After a
    `LogUnavailableError` it may have been; to repeat it with the same `seen` is safe.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        client: SagaClient,
        identify: Callable[[], Identity] | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._client = client
        self._identify = identify or (lambda: authenticated(coordinator.database))

    def case(self, saga_id: UUID) -> Case:
        """Return the saga as it stands.

        Raises:
            SagaNotFoundError: there is none of that id.
            HistoryError: its log cannot be read by this version.
        """
        snapshot = self._coordinator.log.read(saga_id)
        if snapshot is None:
            raise SagaNotFoundError(f"no saga {saga_id}", saga_id=saga_id)
        return Case.of(snapshot, self._coordinator.definitions)

    def recommended(self, saga_id: UUID) -> list[Advice]:
        """Return what may be done about the saga now, best first."""
        try:
            return recommended(self.case(saga_id))
        except HistoryError as error:
            return [unreadable(saga_id, error)]

    def diagnosis(self, saga_id: UUID) -> Diagnosis:
        """Return which entries of the saga's log are not to be believed; write nothing."""
        return diagnosed(self._coordinator, saga_id)

    def repair(
        self, saga_id: UUID, voids: Sequence[int], by: By, *, seen: int | None = None
    ) -> State:
        """Void these entries of a log that cannot be read, let the saga go on; return its state."""
        return repaired(self._coordinator, saga_id, voids, self._authenticated(by), seen=seen)

    def close_unreadable(self, saga_id: UUID, by: By, *, seen: int | None = None) -> State:
        """Close a saga whose log cannot be read, as it stands."""
        return closed(self._coordinator, saga_id, self._authenticated(by), seen=seen)

    def preview(self, saga_id: UUID, verb: Verb, by: By, *, seen: int | None = None) -> Preview:
        """Return what the verb would do, and what the other side shows now; write nothing."""
        case, plan = self._decided(saga_id, verb, by, seen)
        return preview(case, verb, plan, ask(self._coordinator, case, verb))

    def act(self, saga_id: UUID, verb: Verb, by: By, *, seen: int | None = None) -> Preview:
        """Do it, and return what was done.

        Args:
            seen: the seq at which the operator saw the saga; else that of now.
        """
        case, plan = self._decided(saga_id, verb, by, seen)
        state = self._write(case, plan)
        if state is None:
            raise MovedOnError(self.case(saga_id).saga, case.saga.seq)
        return replace(preview(case, verb, plan, None), state=state)

    def preview_replay(self, saga_id: UUID, replay: Replay, *, seen: int | None = None) -> NewWork:
        """Return the saga that would do an ended one's work again; start nothing."""
        return new_work(self._coordinator, self._seen(saga_id, seen), replay)

    def replay(self, saga_id: UUID, replay: Replay, by: By, *, seen: int | None = None) -> Started:
        """Start a saga that does an ended one's work again, linked to it, and return it."""
        case = self._seen(saga_id, seen)
        work = new_work(self._coordinator, case, replay)
        return started(self._coordinator, self._client, case, work, self._authenticated(by))

    def _decided(self, saga_id: UUID, verb: Verb, by: By, seen: int | None) -> tuple[Case, Plan]:
        """Look up what the verb tells of the other side, and decide with that, at one seq."""
        case = self._seen(saga_id, seen)
        by, newer = self._authenticated(by), self._newer(case, verb)
        decided(case, verb, by, newer, NOT_NEEDED)  # what is refused anyway asks nobody
        question = asked(case, verb)
        if question is None:
            return case, decided(case, verb, by, newer)
        return case, decided(case, verb, by, newer, look(self._coordinator, case, question))

    def _authenticated(self, by: By) -> By:
        return by if by.identity is not None else replace(by, identity=self._identify())

    def _seen(self, saga_id: UUID, seen: int | None) -> Case:
        case = self.case(saga_id)
        if seen is not None and seen != case.saga.seq:
            raise MovedOnError(case.saga, seen)
        return case

    def _newer(self, case: Case, verb: Verb) -> SagaDefinition[Any] | None:
        if not isinstance(verb, Migrate):
            return None
        return self._coordinator.definitions.version(case.saga.definition, verb.version)

    def _write(self, case: Case, plan: Plan) -> State | None:
        mover = self._coordinator.mover
        if plan.migrated is not None:
            return mover.note(
                case.saga, plan.entries, state=case.saga.state, migrated=plan.migrated
            )
        if plan.decision is None:
            state = State.RESOLVED if plan.closes else case.saga.state
            return mover.note(case.saga, plan.entries, state=state)
        return mover.act(case.snapshot, plan.entries, hurries=plan.hurries)
