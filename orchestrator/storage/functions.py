"""What a service that only starts, signals and cancels may write: functions of the schema's owner.

The role `amends_client` may insert and change no row of a saga by itself; a row that it could write
freely could stop sagas of others. These functions are the engine's own statements, with the owner's
rights, and whatever their values are, they write what a start, a signal or a cancel writes. Workers
call the same ones.

They are made anew at every migration, from the statements as they are now, so there is one text of
each. A changed one is a reason for a migration, be it an empty one: else a database that was not
migrated would not be noticed.
"""

from __future__ import annotations

from orchestrator.storage.signals import BATCH, DELIVER
from orchestrator.storage.statements import REQUEST_CANCEL, START, START_LOCKED

CALLERS = ("amends_client", "amends_worker")


def _function(name: str, parameters: str, returns: str, statement: str, **named: str) -> list[str]:
    """Return what makes the function and lets the callers call it.

    Args:
        named: what stands for each ``%(value)s`` of the statement.
    """
    body = statement
    for value, parameter in named.items():
        body = body.replace(f"%({value})s", parameter)
    types = ", ".join(each.split()[1] for each in parameters.split(", "))
    grants = "\n".join(
        f"    IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN\n"
        f"        GRANT EXECUTE ON FUNCTION amends.{name}({types}) TO {role};\n"
        "    END IF;"
        for role in CALLERS
    )
    return [
        f"""CREATE OR REPLACE FUNCTION amends.{name}({parameters}) RETURNS {returns}
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY {body.strip()};
END $function$""",
        f"REVOKE ALL ON FUNCTION amends.{name}({types}) FROM PUBLIC",
        f"DO $$\nBEGIN\n{grants}\nEND $$",
    ]


_STARTS = {"sagas": "p_sagas", "schedule": "p_schedule"}


def _without_parent(statement: str) -> str:
    """A saga that somebody else's would take for its child is started by workers only."""
    return statement.replace("n.parent_id, n.parent_step,", "NULL::uuid, NULL::text,")


FUNCTIONS = (
    *_function(
        "start_sagas",
        "p_sagas json, p_schedule json",
        "SETOF uuid",
        _without_parent(START),
        **_STARTS,
    ),
    *_function(
        "start_locking_sagas",
        "p_sagas json, p_schedule json",
        "SETOF uuid",
        _without_parent(START_LOCKED),
        **_STARTS,
    ),
    *_function(
        "request_cancel",
        "p_saga uuid, p_reason text, p_actor text",
        "SETOF integer",
        REQUEST_CANCEL,
        saga_id="p_saga",
        reason="left(p_reason, 500)",
        actor="left(p_actor, 500)",
    ),
    *_function(
        "deliver_signals",
        "p_saga uuid, p_definition text, p_key text",
        "TABLE (id uuid, definition text, key text, name text, dedup_id text, payload jsonb)",
        DELIVER,
        saga_id="p_saga",
        definition="p_definition",
        key="p_key",
        limit=str(BATCH),
    ),
)
"""Statements, to be run one after the other by the owner."""
