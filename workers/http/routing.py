"""The route class of every operation: what it raises becomes the problem that it means."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from workers.http.problems import refusal_of, respond

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ProblemRoute(APIRoute):
    """Answers with a problem where one is meant; a fault of ours goes on to the server."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's own handler, which also reads the request."""
        answer = super().get_route_handler()

        async def answer_or_problem(request: Request) -> Response:
            try:
                return await answer(request)
            except Exception as error:
                refused = refusal_of(error)
                if refused is None:
                    raise
                return respond(request, refused)

        return answer_or_problem
