"""A gateway's report as a file: a bad line spoils itself, and a file that is none is refused."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recovery.reconciliation.records import InvalidRow, TransactionRecord, trouble_with
from recovery.reconciliation.report_file import ReportFileError, rows_of

HEADER = "seq,at,operation,reference,payment_reference,order_reference,amount_minor,currency,key\n"
GOOD = "7,2026-11-23T12:00:00+00:00,capture,pay_1,pay_1,O-1,1990,EUR,k-1\n"
RECORD = TransactionRecord(
    reference="pay_1",
    amount_minor=1990,
    currency="EUR",
    at=datetime(2026, 11, 23, 12, tzinfo=UTC),
    kind="capture",
    payment_reference="pay_1",
    order_reference="O-1",
    key="k-1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.csv"


def written(path: Path, text: bytes | str) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_row_is_read(path: Path) -> None:
    assert list(rows_of(written(path, HEADER + GOOD))) == [RECORD]
    assert trouble_with(RECORD) is None


def test_a_byte_order_mark_other_line_ends_and_empty_lines_do_no_harm(path: Path) -> None:
    text = "\ufeff" + (HEADER + "\n" + GOOD + "\n").replace("\n", "\r\n")

    assert list(rows_of(written(path, text))) == [RECORD]


def test_a_refund_that_failed_is_a_refund_failed(path: Path) -> None:
    [row] = rows_of(written(path, HEADER + GOOD.replace("capture", "refund_failed")))

    assert isinstance(row, TransactionRecord)
    assert (row.kind, row.status) == ("refund", "failed")


BAD = [
    "7,2026-11-23T12:00:00+00:00,capture\n",
    GOOD.replace("pay_1,pay_1", '"pay_1,pay_1'),
    GOOD.replace("O-1", 'O"1"x"').replace("pay_1,", '"pay"_1,'),
    GOOD.replace("capture", "chargeback"),
    GOOD.replace("capture", "CAPTURE"),
    GOOD.replace("1990", "19.90"),
    GOOD.replace("1990", "-1990"),
    GOOD.replace("1990", "٣"),
    GOOD.replace("1990", "99999999999999999999"),
    GOOD.replace("1990", "9999999999999999999"),
    GOOD.replace("EUR", "eur"),
    GOOD.replace("EUR", ""),
    GOOD.replace("+00:00", ""),
    GOOD.replace("2026-11-23", "2026-13-23"),
    GOOD.replace("capture,pay_1", "capture,"),
    GOOD.replace("O-1", "O\x00"),
    GOOD.replace("k-1", "k" * 600),
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_line_spoils_itself_alone(path: Path, bad: str) -> None:
    rows = list(rows_of(written(path, HEADER + GOOD + bad + GOOD)))

    assert len(rows) == 3
    assert rows[0] == rows[2] == RECORD
    assert isinstance(rows[1], InvalidRow) or trouble_with(rows[1])


def test_bytes_that_are_no_text_spoil_their_line(path: Path) -> None:
    rows = list(rows_of(written(path, HEADER.encode() + GOOD.encode().replace(b"O-1", b"\xff"))))

    assert [isinstance(each, TransactionRecord) and trouble_with(each) for each in rows] == [
        "a text that cannot be printed, or is too long"
    ]


@pytest.mark.parametrize("text", ["", "at,operation\n", GOOD, "\x00\x01", '"\n'])
def test_a_file_that_is_no_report_is_refused(path: Path, text: str) -> None:
    with pytest.raises(ReportFileError, match="lacks"):
        list(rows_of(written(path, text)))


def test_a_file_with_a_column_twice_is_refused(path: Path) -> None:
    twice = HEADER.replace("seq", "amount_minor") + GOOD

    with pytest.raises(ReportFileError, match="amount_minor"):
        list(rows_of(written(path, twice)))


def test_a_line_without_an_end_is_not_read_into_memory(path: Path) -> None:
    endless = HEADER + GOOD + "x" * 50_000_000 + "\n" + GOOD
    written(path, endless)
    tracemalloc.start()
    try:
        rows = list(rows_of(path))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert [isinstance(each, InvalidRow) for each in rows] == [False, True, False]
    assert most < 5_000_000


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    with pytest.raises(ReportFileError, match="cannot be read"):
        list(rows_of(path))
