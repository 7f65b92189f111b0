"""Who acts, as it was authenticated: a database role, a token, or a user of the machine.

What people call themselves (``--actor``) is no identity: one person can give two names.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum


class IdentityKind(StrEnum):
    """Who has authenticated somebody."""

    DATABASE_ROLE = "database_role"
    TOKEN = "token"  # noqa: S105 - the kind of an identity
    OS_USER = "os_user"
    SHARED_ROLE = "shared_role"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Somebody, by an authenticated name.

    `SHARED_ROLE`: the deployment's operators have roles of their own, and this is none of them, so
    it is nobody in particular.
    """

    kind: IdentityKind
    name: str

    def __str__(self) -> str:
        """The canonical form, in which identities are kept and compared."""
        name = unicodedata.normalize("NFKC", self.name).strip().casefold()
        return f"{self.kind.value}:{name}"

    @property
    def is_personal(self) -> bool:
        return self.kind is not IdentityKind.SHARED_ROLE

    def is_another_than(self, known: str) -> bool:
        """Whether this surely is another person than the one kept as `known`.

        Two identities of different kinds may be one person.
        """
        return known.partition(":")[0] == self.kind.value and known != str(self)
