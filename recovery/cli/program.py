"""The program: its verbs, the options that all of them share, and how errors end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from orchestrator.redaction import redact
from recovery.cli.failures import ExitCode, Failure, failure_of
from recovery.cli.session import Session

SECTIONS = {
    "Run a deployment": {
        "migrate": "recovery.cli.schema",
        "worker": "recovery.cli.running",
        "sweep": "recovery.cli.sweeping",
        "serve": "recovery.cli.running",
        "doctor": "recovery.cli.examining",
        "installation": "recovery.cli.naming",
        "verify": "recovery.cli.verifying",
    },
    "Start sagas and look at them": {
        "start": "recovery.cli.starting",
        "list": "recovery.cli.looking",
        "show": "recovery.cli.looking",
        "wait": "recovery.cli.waiting",
        "cancel": "recovery.cli.operating",
    },
    "Answer a saga's question": {
        "retry": "recovery.cli.retrying",
        "probe": "recovery.cli.answering",
        "mark-done": "recovery.cli.answering",
        "mark-not-done": "recovery.cli.answering",
        "skip": "recovery.cli.answering",
        "confirm": "recovery.cli.answering",
        "withdraw": "recovery.cli.answering",
        "repair": "recovery.cli.repairing",
        "resolve": "recovery.cli.closing",
        "abandon": "recovery.cli.closing",
        "replay": "recovery.cli.closing",
        "migrate-saga": "recovery.cli.deploying",
    },
    "Be told": {
        "alerts": "recovery.cli.alerting",
        "acknowledge": "recovery.cli.alerting",
        "events": "recovery.cli.listening",
    },
    "Look after the outside": {
        "webhooks": "recovery.cli.receiving",
        "reconcile": "recovery.cli.reconciling",
        "discrepancies": "recovery.cli.reconciling",
        "close-discrepancy": "recovery.cli.reconciling",
        "idempotency": "recovery.cli.settling",
    },
    "Deploy and clean up": {
        "check-deploy": "recovery.cli.deploying",
        "prune": "recovery.cli.pruning",
    },
    "Try it": {
        "demo": "recovery.cli.demonstrating",
        "sandbox": "recovery.cli.running",
        "restock": "recovery.cli.starting",
    },
}
"""Every verb, where the help lists it, and the module that holds it, imported when it is used."""

VERBS = {verb: module for verbs in SECTIONS.values() for verb, module in verbs.items()}

SENTENCE = 200
"""Characters; longer than the first sentence of any verb."""

EPILOG = (
    "\b\nExit codes:\n"
    + "".join(f"{each.value:5}  {each.meaning}\n" for each in ExitCode)
    + """
\b
Environment: AMENDS_DATABASE_URL, AMENDS_BROKER_URL, AMENDS_GATEWAY_URL, AMENDS_SAGAS, …
Data goes to stdout, everything else to stderr; NO_COLOR is honoured.
"""
)


class Program(click.Group):
    """The command group: loads verbs when they are used, and turns every error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order of the help."""
        return list(VERBS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs by what they are for, each with its whole first sentence."""
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb, self._about(ctx, verb)) for verb in verbs])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb; None when there is no such verb."""
        module = VERBS.get(cmd_name)
        if module is None:
            return None
        name = cmd_name.replace("-", "_")
        verb: click.Command = getattr(import_module(module), f"{name}_command")
        known = {each.name for each in verb.params}
        verb.params.extend(each for each in shared_options() if each.name not in known)
        return verb

    def _about(self, ctx: click.Context, name: str) -> str:
        verb = self.get_command(ctx, name)
        return verb.get_short_help_str(limit=SENTENCE) if verb is not None else ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the verbs when one is mistyped."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            known = f"The verbs are: {', '.join(VERBS)}."
            raise click.UsageError(f"{error.message} {known}", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; whatever it raises ends in one line and an exit code."""
        session = ctx.ensure_object(Session)
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            error.message = redact(error.message)  # type: ignore[misc]  # a constant of click's
            raise
        except (click.exceptions.Exit, BrokenPipeError):
            raise
        except (click.Abort, KeyboardInterrupt):
            raise Failure("interrupted", ExitCode.INTERRUPTED) from None
        except Exception as error:
            if session.debug:
                raise
            raise failure_of(error) from error
        finally:
            session.close()


def shared_options() -> Sequence[click.Option]:
    """Return the options that may stand before or after the verb."""
    return [
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Objects as JSON, lists as one JSON object per line.",
        ),
        click.Option(
            ["--database-url"],
            metavar="URL",
            expose_value=False,
            callback=_remember,
            help="Instead of AMENDS_DATABASE_URL.",
        ),
        click.Option(
            ["--broker-url"],
            metavar="URL",
            expose_value=False,
            callback=_remember,
            help="Instead of AMENDS_BROKER_URL.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Show tracebacks.",
        ),
    ]


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value and param.name is not None:
        ctx.ensure_object(Session).options[param.name] = value


@click.group(
    cls=Program,
    params=[*shared_options()],
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="amends", prog_name="amends")
def amends() -> None:
    """Sagas that finish, are taken back step by step, or stop in front of a person."""
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path:
        sys.path.append(here)  # last: nothing beside the caller can hide what is installed
