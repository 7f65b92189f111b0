"""The demo's scenes: one that works, one that is taken back, one that is killed, and a crowd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from orchestrator.client import NotStarted, Started
from orchestrator.entries import StepStarted
from orchestrator.state import PARKED, TERMINAL, State
from recovery.demo.narrator import Narrator
from recovery.demo.orders import Order, mixed, single
from recovery.demo.stage import DemoError, Stage, wait_for
from recovery.demo.words import told

ONE_SECONDS = 40.0
CROWD_SECONDS = 90.0


class Scenes:
    """Plays the scenes on a stage; every one returns how many sagas ended in which state."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage = stage
        self._narrator = narrator

    def completes(self) -> Counter[State]:
        """A checkout that works."""
        self._narrator.scene("a", "A checkout works: order A-1, 19.90 EUR")
        return self._played(single("A-1"), State.COMPLETED)

    def declined(self) -> Counter[State]:
        """A checkout that is taken back."""
        self._narrator.scene("b", "The card is declined: order B-1 is taken back in reverse")
        return self._played(single("B-1", card="tok_declined"), State.COMPENSATED)

    def killed(self) -> Counter[State]:
        """A worker dies while the gateway takes the money."""
        stage, key = self._stage, "C-1"
        self._narrator.scene("c", "A worker is killed while the gateway takes the money: order C-1")
        stage.judge.script("hold_after", operation="capture", order_reference=key)
        saga = stage.client.start("checkout", single(key), key=key)
        seen = self._follow_until_held(saga.id, key)
        victim = self._holder(saga.id)
        victim.kill()
        self._narrator.say(
            f"kill -9 {victim.pid}: {victim.name} is dead, the charge hangs in the air",
            killed_pid=victim.pid,
        )
        stage.start_worker()
        end = self._follow(saga.id, seen)
        stage.judge.release(key)
        self._show_one_charge(key, saga.id, victim.pid)
        return self._ended(key, end, State.COMPLETED)

    def crowd(self, count: int, seed: int) -> Counter[State]:
        """Many orders at once, of every sort, with faults at the gateway."""
        stage, orders = self._stage, mixed(count, seed)
        self._narrator.scene("d", f"{count} orders of every sort at once (seed {seed})")
        sorts = Counter(order.kind.name for order in orders)
        self._narrator.say(
            ", ".join(f"{n} {name}" for name, n in sorts.most_common()), sorts=dict(sorts)
        )
        self._script_faults(orders)
        stage.wait_until_ready()
        answers = stage.client.start_many("checkout", ((o.key, o.payload) for o in orders))
        ids = {_started(answer).id: order for answer, order in zip(answers, orders, strict=True)}
        ends = self._await_all(ids)
        for saga_id, order in ids.items():
            if ends.get(saga_id) is not order.kind.ends:
                self._narrator.say(
                    f"{order.key} ({order.kind.name}) is {ends.get(saga_id)}, "
                    f"and should be {order.kind.ends}",
                    ok=False,
                )
        counted = Counter(ends.values())
        wrong = sum(ends.get(saga_id) is not order.kind.ends for saga_id, order in ids.items())
        self._narrator.say(
            ", ".join(f"{n} {state}" for state, n in counted.most_common()),
            ok=wrong == 0,
            ends={state.value: n for state, n in counted.items()},
        )
        return Counter(order.kind.ends for order in orders)

    def _played(self, payload: Mapping[str, Any], expected: State) -> Counter[State]:
        key = str(payload["order_id"])
        saga = self._stage.client.start("checkout", payload, key=key)
        return self._ended(key, self._follow(saga.id), expected)

    def _ended(self, key: str, end: State, expected: State) -> Counter[State]:
        if end is not expected:
            self._narrator.say(f"{key} is {end}, and should be {expected}", ok=False)
        return Counter([expected])

    def _follow(self, saga_id: UUID, seen: int = 0) -> State:
        """Tell every entry as it comes, and return the state in which the saga stays."""
        stage, state = self._stage, State.RUNNING

        def has_ended() -> bool:
            nonlocal seen, state
            state = stage.client.get(saga_id).state
            seen = self._tell_new(saga_id, seen)
            return state in TERMINAL or state in PARKED

        if not wait_for(has_ended, ONE_SECONDS):
            raise DemoError(f"saga {saga_id} is still {state} after {ONE_SECONDS:g} s")
        return state

    def _tell_new(self, saga_id: UUID, seen: int) -> int:
        for recorded in self._stage.log.entries(saga_id, after=seen):
            seen = recorded.seq
            sentence = told(recorded.entry)
            if sentence is not None:
                self._narrator.say(sentence, entry=type(recorded.entry).__name__, saga_id=saga_id)
        return seen

    def _follow_until_held(self, saga_id: UUID, key: str) -> int:
        seen = 0

        def is_held() -> bool:
            nonlocal seen
            seen = self._tell_new(saga_id, seen)
            return any(
                each.order_reference == key and each.operation == "capture"
                for each in self._stage.judge.open_requests()
            )

        if not wait_for(is_held, ONE_SECONDS):
            raise DemoError("the charge never reached the gateway")
        return seen

    def _holder(self, saga_id: UUID) -> Any:
        owners = [each.owner for each in self._stage.reads.attempts(saga_id) if each.owner]
        pids = {int(owner.rpartition("/")[2]) for owner in owners}
        for worker in self._stage.workers:
            if worker.pid in pids:
                return worker
        raise DemoError(f"no worker of ours holds the saga, but {owners}")

    def _show_one_charge(self, key: str, saga_id: UUID, killed_pid: int) -> None:
        stage = self._stage
        requests = [
            each
            for each in stage.judge.requests()
            if each.order_reference == key and each.operation == "capture"
        ]
        keys = {each.key for each in requests}
        charges = [each for each in stage.judge.effects(key) if each.operation == "capture"]
        owners = [
            each.entry.owner
            for each in stage.log.entries(saga_id)
            if isinstance(each.entry, StepStarted) and each.entry.step == "capture_payment"
        ]
        finisher = int(owners[-1].rpartition("/")[2])
        self._narrator.say(
            f"process {finisher} went on where {killed_pid} died; the gateway's ledger: "
            f"{len(requests)} requests, {len(keys)} key, {len(charges)} charge",
            ok=len(requests) == 2 and len(keys) == 1 and len(charges) == 1,  # noqa: PLR2004
            requests=len(requests),
            keys=len(keys),
            charges=len(charges),
            finished_by=finisher,
        )

    def _script_faults(self, orders: list[Order]) -> None:
        for order in orders:
            for fault in order.kind.faults:
                self._stage.judge.script(
                    fault.kind,
                    operation=fault.operation,
                    order_reference=order.key,
                    **fault.options,
                )

    def _await_all(self, ids: Mapping[UUID, Order]) -> dict[UUID, State]:
        reads, ends = self._stage.reads, dict[UUID, State]()

        def are_still() -> bool:
            nonlocal ends
            ends = reads.states(list(ids))
            self._narrator.progress(f"{len(ids)} orders", Counter(map(str, ends.values())))
            return all(state in TERMINAL or state in PARKED for state in ends.values())

        if not wait_for(are_still, CROWD_SECONDS, pause=0.2):
            self._narrator.say(f"not all ended within {CROWD_SECONDS:g} s", ok=False)
        return ends


def _started(answer: Started | NotStarted) -> Started:
    if isinstance(answer, NotStarted):
        raise DemoError(f"order {answer.key} was refused: {answer.error}")
    return answer
