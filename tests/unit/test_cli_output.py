"""What a command writes for people."""

import io

import pytest
from rich.console import Console

from recovery.cli.output import Output, _harmless, _table

TRICK = "declined\x1b[2J\x1b]0;all is well\x07"


def test_no_cell_of_a_list_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output().rows(["note"], [{"note": TRICK}])
    screen = Console(file=io.StringIO(), width=100)
    screen.print(_table(["note"], [{"note": TRICK}]))
    assert isinstance(screen.file, io.StringIO)

    for written in (capsys.readouterr().out, screen.file.getvalue()):
        assert "declined" in written
        assert "\x1b" not in written


def test_a_page_keeps_its_lines_and_commands_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Output().record({}, f"state\tstuck\nerror\t{TRICK}\x9b2J")

    written = capsys.readouterr().out
    assert written.startswith("state\tstuck\nerror\tdeclined")
    assert not {"\x1b", "\x07", "\x9b"} & set(written)


def test_a_page_keeps_its_colours() -> None:
    assert _harmless("\x1b[31mstuck\x1b[0m\n") == "\x1b[31mstuck\x1b[0m\n"
