"""`make advice` has a case for every reason for which the code parks a saga."""

from __future__ import annotations

from pathlib import Path

from tests.advice.reasons import reasons, reasons_in
from tests.advice.scenarios import SCENARIOS


def test_every_reason_to_be_parked_has_a_case() -> None:
    assert sorted({each.reason for each in SCENARIOS}) == sorted(reasons())


def test_a_new_reason_is_found_in_the_code(tmp_path: Path) -> None:
    path = tmp_path / "novel.py"
    path.write_text('Park(state="stuck", reason="novel", question="?", steps=())')
    assert [reason for reason, _ in reasons_in(path, "novel")] == ["novel"]
