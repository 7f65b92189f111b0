"""Whether the role of this session belongs to one operator."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.storage.database import Database

OPERATORS = "amends_operator"
"""The group whose members are people, each with a role of their own. It grants nothing."""

_SESSION_ROLE = """
WITH RECURSIVE operators AS (
    SELECT m.member FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
    WHERE r.rolname = %(operators)s
    UNION
    SELECT m.member FROM pg_auth_members m JOIN operators o ON m.roleid = o.member
)
SELECT session_user::text,
    EXISTS (SELECT FROM operators),
    EXISTS (SELECT FROM operators o JOIN pg_roles r ON r.oid = o.member
        WHERE r.rolname = session_user AND r.rolcanlogin)
"""
"""`session_user` is who logged in; SET ROLE does not change it. Membership as it is written down: a
superuser is a member of everything, and nobody in particular."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRole:
    """The role that logged in. `has_operators`: some role is an operator's own."""

    name: str
    has_operators: bool
    is_operator: bool


def session_role(database: Database) -> SessionRole:
    """Return the role of this session.

    Raises:
        LogUnavailableError: Postgres does not answer.
    """
    [(name, has_operators, is_operator)] = database.run(_SESSION_ROLE, {"operators": OPERATORS})
    return SessionRole(name=name, has_operators=has_operators, is_operator=is_operator)
