"""``GET /healthz`` and ``GET /readyz``: for whoever runs this process, and for load balancers."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from orchestrator.storage import migrate
from workers.http import problems
from workers.http.edge import Edge, edge_of
from workers.http.problems import Refused, documented
from workers.http.routing import ProblemRoute

router = APIRouter(tags=["health"], route_class=ProblemRoute)

QUEUE: Final = "amends"
"""Any queue: what counts is whether the broker answers."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Sagas can be started. Degraded: the broker does not answer, so the sweep begins them."""

    status: Literal["ready", "degraded"]
    broker: Literal["answers", "unreachable", "none"] = Field(description="`none`: none is set.")


@router.get("/healthz", summary="Whether the process is alive")
async def is_alive() -> Alive:
    """Answer, without asking anybody else."""
    return Alive()


@router.get(
    "/readyz",
    summary="Whether sagas can be started",
    responses=documented(problems.UNAVAILABLE, problems.NOT_READY),
)
def is_ready(edge: Annotated[Edge, Depends(edge_of)]) -> Ready:
    """Ask the database for its schema, and the broker for a sign of life."""
    found = migrate.version(edge.engine)
    if found is None or found < _wanted():  # a newer one is that of a deploy under way
        raise Refused(problems.NOT_READY, "run `amends migrate --checkout`")
    if edge.doorbell is None:
        return Ready(status="degraded", broker="none")
    if edge.doorbell.depth(QUEUE) is None:
        return Ready(status="degraded", broker="unreachable")
    return Ready(status="ready", broker="answers")


@cache
def _wanted() -> str:
    return migrate.head()
