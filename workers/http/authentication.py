"""Who asks: a bearer token, known by its hash."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from workers.http.edge import Edge, edge_of
from workers.http.problems import NOT_AUTHENTICATED, Refused
from workers.http.tokens import actor_of

_bearer = HTTPBearer(
    auto_error=False, scheme_name="token", description="A token of AMENDS_HTTP_TOKENS."
)


def authenticated(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    edge: Annotated[Edge, Depends(edge_of)],
) -> str:
    """Return the name of whoever asks.

    Raises:
        Refused: no token, or one that is not known; without any in the settings, always.
    """
    actor = None if credentials is None else actor_of(credentials.credentials, edge.tokens)
    if actor is None:
        raise Refused(NOT_AUTHENTICATED)
    request.state.actor = actor
    return actor


Actor = Annotated[str, Depends(authenticated)]
