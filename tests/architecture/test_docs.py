"""The documentation names only what exists (symbols, files, commands, variables); its code runs."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from pydantic import AliasChoices

from recovery.cli.failures import ExitCode
from recovery.cli.program import VERBS, amends
from workers.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "orchestrator|steps|workers|recovery|tests|benchmarks|docs|requirements"
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
SHELLS = ("console", "sh", "bash")


class Found(NamedTuple):
    page: Path
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text}"


def every(pattern: str) -> list[Found]:
    return [
        Found(page, text)
        for page in PAGES
        for text in dict.fromkeys(re.findall(pattern, page.read_text()))
    ]


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, body in re.findall(
        r"^```([^\n]*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    ):
        if language.strip() in languages:
            yield body


def commands(program: str) -> list[Found]:
    """Every call of `program`: lines of a shell block, and code within a sentence."""
    found: list[Found] = []
    for page in PAGES:
        lines = [line.strip() for body in blocks(page, *SHELLS) for line in body.splitlines()]
        shell = [line.removeprefix("$ ") for line in lines]
        inline = re.findall(rf"`({program} [^`\n]+)`", page.read_text())
        for line in [*shell, *inline]:
            for part in re.split(r"\s*(?:&&|\||;)\s*", line.split(" # ")[0]):
                call = re.sub(r"^(?:[A-Z_]+=\S+ )*(?:\S+/bin/)?", "", part)
                if call.startswith(f"{program} "):
                    found.append(Found(page, call))
    return list(dict.fromkeys(found))


@cache
def names(path: Path) -> frozenset[str]:
    """Every name that a module defines, at its top level and in its classes (``Class.name``)."""
    return frozenset(_defined(ast.parse(path.read_text()).body, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(statement.body, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=targets):
                yield from (prefix + each.id for each in targets if isinstance(each, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case _:
                pass


def trouble_with(call: str) -> str | None:
    """What is wrong with a call of `amends`: an unknown verb or an unknown option."""
    command: click.Command = amends
    for word in shlex.split(call)[1:]:
        if word == "--":
            break  # what follows is for another program
        if word.startswith("-"):
            if word.split("=")[0] not in option_names(command):
                return f"{command.name} has no option {word}"
        elif isinstance(command, click.Group):
            verb = command.get_command(click.Context(command), word)
            if verb is None:
                return f"there is no verb {word}"
            command = verb
    return None


def option_names(command: click.Command) -> set[str]:
    named = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return named | {"--help", "-h"}


@pytest.mark.parametrize("found", every(r"`([\w/.-]+\.py::[\w.]+)`"), ids=str)
def test_a_named_symbol_exists(found: Found) -> None:
    path, symbol = found.text.split("::")

    assert symbol in names(ROOT / path)


@pytest.mark.parametrize("found", every(rf"`((?:{FOLDERS})/[\w/.-]*)"), ids=str)
def test_a_named_path_exists(found: Found) -> None:
    assert (ROOT / found.text).exists()


@pytest.mark.parametrize("found", every(r"\]\(([^)\s]+)\)"), ids=str)
def test_a_link_leads_somewhere(found: Found) -> None:
    path, _, anchor = found.text.partition("#")
    if re.match(r"[a-z]+:", path):
        pytest.fail("the documentation needs no network: link to files of the repository")
    target = found.page if not path else (found.page.parent / path).resolve()

    assert target.exists()
    assert target.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def test_decisions_are_numbered_without_a_gap_and_all_listed() -> None:
    folder = ROOT / "docs/decisions"
    files = sorted(each.name for each in folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text()
    listed = re.findall(r"^- \[(\d{4}) (.+)\]\((.+)\)$", index, re.MULTILINE)

    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))
    assert [name for _, _, name in listed] == files
    for number, title, name in listed:
        assert (folder / name).read_text().startswith(f"# {number} {title}\n")


@pytest.mark.parametrize("found", commands("amends"), ids=str)
def test_a_command_line_of_ours_exists(found: Found) -> None:
    assert trouble_with(found.text) is None


@pytest.mark.parametrize("call", ["amends migrat", "amends sweep --twice", "amends -x"])
def test_a_command_line_that_does_not_exist_is_found(call: str) -> None:
    assert trouble_with(call) is not None


@pytest.mark.parametrize("promise", range(1, 17))
def test_a_promise_is_shown_by_tests_that_exist_or_said_to_be_missing(promise: int) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    (row,) = re.findall(rf"^\| {promise} [^|]+\|[^|]+\|([^|]+)\|$", page, re.MULTILINE)
    shown_by = re.findall(r"`([\w/]+\.py)::(\w+)`", row)

    assert shown_by or row.strip().startswith("not yet")
    for path, test in shown_by:
        assert path.startswith("tests/")
        assert test.startswith("test_")
        assert test in names(ROOT / path)


def test_every_verb_and_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs/operating.md").read_text()

    assert [verb for verb in VERBS if f"`amends {verb}`" not in page] == []
    rows = [f"| {code.value} | {code.meaning} |" for code in ExitCode]
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize("found", commands("make"), ids=str)
def test_a_make_target_exists(found: Found) -> None:
    words = [each for each in shlex.split(found.text)[1:] if "=" not in each]

    assert set(words) <= TARGETS


@pytest.mark.parametrize("found", every(r"\b(AMENDS_[A-Z_]*[A-Z])\b"), ids=str)
def test_a_variable_is_a_setting(found: Found) -> None:
    assert found.text.removesuffix("_FILE") in variables() | {"AMENDS_TEST_POSTGRES"}


def test_every_setting_is_documented() -> None:
    operating = (ROOT / "docs/operating.md").read_text()

    assert [each for each in sorted(variables()) if f"`{each}`" not in operating] == []


def variables() -> set[str]:
    known: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [PREFIX + name.upper()]
        known |= {str(each) for each in choices if str(each).startswith(PREFIX)}
    return known


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python run" in page.read_text()],
    ids=lambda page: page.name,
)
def test_the_code_of_a_page_runs(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "documented"}
    for body in blocks(page, "python run"):
        exec(compile(body, page.name, "exec"), namespace)  # noqa: S102 - our own pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_other_code_of_a_page_is_python(page: Path) -> None:
    for body in blocks(page, "python"):
        ast.parse(body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_no_place_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.`*])/(?:home|root|work|tmp|opt|usr)/", page.read_text())
