"""A verb as a person reads it, before or after it was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from orchestrator.actions import RunStep
from orchestrator.entries import Entry, Recorded, encode
from orchestrator.money_at_risk import MoneyAtRisk
from recovery.cli.output import instant
from recovery.operator.evidence import Differs, Evidence, Unverified, Verified
from recovery.operator.previews import Answer, KnownEffect, Preview
from recovery.timeline import timeline

_LANDED = {True: "it happened", False: "it is not there", None: "cannot be told"}


def as_json(preview: Preview, *, dry_run: bool) -> dict[str, Any]:
    """Return a verb as one object; `seq` is what it was decided at."""
    saga = preview.saga
    return {
        "id": saga.id,
        "saga": saga.definition,
        "version": saga.version,
        "key": saga.key,
        "seq": saga.seq,
        "verb": preview.verb,
        "step": preview.step,
        "dry_run": dry_run,
        "state_before": saga.state,
        "state": preview.state,
        "writes": [_entry(each) for each in preview.writes],
        "follows": [_entry(each) for each in preview.follows],
        "attempts": [_run(each) for each in preview.runs],
        "to_undo": list(preview.to_undo),
        "effects": [asdict(each) for each in preview.effects],
        "money_at_risk": {name: asdict(each) for name, each in preview.money.items()},
        "evidence": None if preview.evidence is None else _evidence(preview.evidence),
        "assertion": None if preview.assertion is None else asdict(preview.assertion),
        "gateway": None if preview.gateway is None else [asdict(each) for each in preview.gateway],
    }


def as_text(preview: Preview, *, dry_run: bool) -> str:
    """Return a verb as lines: in short when it was done, with all that is known when it was not."""
    saga = preview.saga
    what = " ".join([preview.verb, *([preview.step] if preview.step else [])])
    if not dry_run:
        first = f"{saga.definition} {saga.key} ({saga.id}): {what}; it is {preview.state}"
        return "\n".join([first, *_said(preview), *_next(preview)])
    lines = [
        f"{saga.definition} v{saga.version}  {saga.key}  {saga.id}",
        f"{what}, decided at seq {saga.seq}; nothing is written",
        "would be written",
        *_entries([*preview.writes, *preview.follows], saga.seq),
        *_said(preview),
        f"and then it would be {preview.state}",
        *_next(preview),
        "effects that the log knows",
        *([_effect(each) for each in preview.effects] or ["  none"]),
        f"money at risk, by the log: {money_text(preview.money) or 'none'}",
        "the other side now",
        *([_answer(each) for each in preview.gateway or ()] or ["  nobody was to be asked"]),
        f"to do it as it was seen: without --dry-run, with --seen {saga.seq}",
    ]
    return "\n".join(lines)


def money_text(money: Mapping[str, MoneyAtRisk]) -> str:
    """Return amounts in minor units, like ``EUR 1990 taken``; empty when nothing is open."""
    parts = []
    for currency, each in money.items():
        if each.captured_minor:
            parts.append(f"{currency} {each.captured_minor} taken")
        if each.held_minor:
            parts.append(f"{currency} {each.held_minor} held")
    return ", ".join(parts)


def _said(preview: Preview) -> list[str]:
    """What the other side said of the verb, and what a second person has to do."""
    lines = []
    match preview.evidence:
        case Verified(shown=shown):
            words = ", ".join(f"{name} {value}" for name, value in shown.items() if value)
            lines.append(f"  looked up: {words}")
        case Unverified(why=why) | Differs(why=why):
            lines.append(f"  not looked up: {why}")
        case None:
            pass
    if preview.assertion is not None:
        until = instant(datetime.fromisoformat(preview.assertion.until))
        who = f"another person than {preview.assertion.identity}"
        lines += [
            f"  it does not count before {who} confirms it, until {until}:",
            f'    amends confirm {preview.saga.id} --assertion {preview.saga.seq + 1} --reason "…"',
        ]
    return lines


def _evidence(evidence: Evidence) -> dict[str, Any]:
    match evidence:
        case Verified(shown=shown):
            return {"looked_up": True, "shown": shown}
        case Unverified(why=why) | Differs(why=why):
            return {"looked_up": False, "why": why}


def _next(preview: Preview) -> list[str]:
    lines = [f"  next {_attempt(each)}" for each in preview.runs]
    if preview.to_undo:
        lines.append(f"  to be undone: {', '.join(preview.to_undo)}")
    return lines


_ATTEMPTS = {
    "forward": "",
    "compensate": "undo of ",
    "probe": "probe of ",
    "probe_undo": "probe of the undo of ",
}


def _attempt(run: RunStep) -> str:
    what = _ATTEMPTS[run.direction]
    when = "" if run.not_before is None else f", not before {instant(run.not_before)}"
    return f"{what}{run.step}, attempt {run.attempt}{when}"


def _entries(entries: Sequence[Entry], seq: int) -> Iterator[str]:
    epoch = datetime.fromtimestamp(0).astimezone()
    recorded = [
        Recorded(seq=seq + place, at=epoch, entry=each)
        for place, each in enumerate(entries, start=1)
    ]
    for line in timeline(recorded):
        parts = [line.outcome, line.step or "", line.detail or ""]
        yield "  " + "  ".join(each for each in parts if each)


def _effect(effect: KnownEffect) -> str:
    undone = f"undone by {effect.undo_reference}" if effect.undo_reference else "undone"
    state = undone if effect.undone else "not undone"
    return f"  {effect.step}  {effect.reference or 'without a reference'}  {state}"


def _answer(answer: Answer) -> str:
    moved = [
        f"{each['kind']} {each['amount_minor']} {each['currency']}"
        for each in answer.movements or ()
    ]
    known = [_LANDED[answer.landed], answer.reference, *moved, answer.why]
    return f"  {answer.step}  {'  '.join(each for each in known if each)}"


def _entry(entry: Entry) -> dict[str, Any]:
    kind, values = encode(entry)
    return {"kind": kind, **values}


def _run(run: RunStep) -> dict[str, Any]:
    return {
        "step": run.step,
        "direction": run.direction,
        "attempt": run.attempt,
        "not_before": run.not_before,
    }
