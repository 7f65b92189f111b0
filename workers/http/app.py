"""The ASGI application of the HTTP edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.exceptions import HTTPException

from workers.http import health, sagas, webhooks
from workers.http.documentation import complete
from workers.http.edge import THREADS, Edge
from workers.http.limits import HeaderLimit
from workers.http.problems import answer_fault, answer_router
from workers.settings import Settings

DESCRIPTION = """Starts sagas, shows them, and takes gateways' webhooks.

Every answer that is no success is a problem (RFC 9457); tell them apart by `code`."""


def build_app(settings: Settings) -> FastAPI:
    """Return the application; it opens nothing before its first request.

    Raises:
        SettingsError: a setting that it needs is missing or wrong.
    """
    edge = Edge.of(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        edge.processing.begin()
        yield
        edge.processing.end()
        edge.engine.dispose()

    app = FastAPI(
        title="Amends",
        version=version("amends"),
        description=DESCRIPTION,
        docs_url=None,  # both pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        exception_handlers={HTTPException: answer_router, Exception: answer_fault},
    )
    app.state.edge = edge
    for each in (sagas, webhooks, health):
        app.include_router(each.router)
    app.add_middleware(HeaderLimit)
    complete(app.openapi())
    return app
