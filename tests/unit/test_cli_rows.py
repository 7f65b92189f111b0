"""Files of rows, and text that becomes what a payload declares."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from recovery.cli.fields import split, typed
from recovery.cli.row_files import FileRow, RowFile
from steps.payload import CheckoutPayload


class Parcel(BaseModel):
    count: int
    fragile: bool = False
    weight: Decimal | None = None
    tags: list[str] = []
    note: str = ""


def rows_of(path: Path) -> list[FileRow]:
    file = RowFile(path)
    try:
        return list(file)
    finally:
        file.close()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "3", 3),
        ("fragile", "true", True),
        ("weight", "1.50", Decimal("1.50")),
        ("tags", '["a", "b"]', ["a", "b"]),
        ("note", "12", "12"),
        ("count", "three", "three"),
        ("unknown", "x", "x"),
    ],
)
def test_text_becomes_what_the_field_declares(name: str, text: str, value: object) -> None:
    assert typed(Parcel, name, text) == value


def test_a_strict_model_is_given_numbers_for_its_numbers() -> None:
    assert typed(CheckoutPayload, "units", "2") == 2
    assert typed(CheckoutPayload, "order_id", "2") == "2"


def test_a_setting_is_split_at_its_first_equals_sign() -> None:
    assert split("note=a=b") == ("note", "a=b")
    with pytest.raises(ValueError, match="field=value"):
        split("note")


def test_csv_with_and_without_gzip_is_the_same(tmp_path: Path) -> None:
    text = "order_id,units\nA-1,1\n\nA-2,\n"
    plain, zipped = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    assert rows_of(plain) == rows_of(zipped)
    assert [each.values for each in rows_of(plain)] == [
        {"order_id": "A-1", "units": "1"},
        {"order_id": "A-2"},
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("﻿order_id\nA-1\n".encode())
    assert rows_of(path)[0].values == {"order_id": "A-1"}


def test_a_row_of_another_length_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("order_id,units\nA-1,1,2\n")
    row = rows_of(path)[0]
    assert row.number == 2
    assert row.problem is not None


def test_json_lines_keep_their_types_and_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"units": 2}\n[1]\nnot json\n')
    good, not_object, not_json = rows_of(path)
    assert good.values == {"units": 2}
    assert not_object.problem == "not a JSON object"
    assert not_json.problem is not None
    assert not_json.number == 3


@pytest.mark.parametrize("text", ["", "a,a\n1,2\n", " , \n"])
def test_a_header_must_name_each_column_once(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="header"):
        rows_of(path)


def test_an_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_text("")
    with pytest.raises(ValueError, match=r"\.csv"):
        RowFile(path)


def test_a_file_that_ends_in_the_middle_says_after_which_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(b"order_id\n" + b"".join(b"A-%d\n" % n for n in range(5000)))
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="damaged after line"):
        rows_of(path)
