"""Who uses this process, as its database or its operating system has authenticated them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from orchestrator.storage.database import Database
from orchestrator.storage.operators import session_role
from recovery.operator.identity import Identity, IdentityKind

LOGIN_UID = Path("/proc/self/loginuid")
"""Who logged in, whatever they became by sudo or su since; the kernel lets nobody change it."""

NO_LOGIN = 2**32 - 1


def authenticated(database: Database) -> Identity:
    """Return who uses this process: by their own database role, else by the operating system.

    A database whose role `amends_operator` has members says by that who operates it; then no user
    of any machine counts.
    """
    role = session_role(database)
    if role.is_operator:
        return Identity(kind=IdentityKind.DATABASE_ROLE, name=role.name)
    if role.has_operators:
        return Identity(kind=IdentityKind.SHARED_ROLE, name=role.name)
    return Identity(kind=IdentityKind.OS_USER, name=_user())


def _user() -> str:
    """The name of the user who logged in, by number; never what the environment says."""
    uid = _login_uid()
    uid = os.getuid() if uid is None else uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user without a name
        return str(uid)


def _login_uid() -> int | None:
    try:
        uid = int(LOGIN_UID.read_text())
    except (OSError, ValueError):
        return None
    return None if uid == NO_LOGIN else uid
