"""Messages as a producer of any language writes them, and as anybody could forge them."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any


def envelope(
    task: object, kwargs: object, *, args: object = (), body: Any = None, **changes: Any
) -> bytes:
    """A message of Celery's protocol 2 as kombu keeps it in Redis."""
    identity = str(uuid.uuid4())
    raw = json.dumps([args, kwargs, {}]).encode() if body is None else body
    message = {
        "body": base64.b64encode(raw).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": identity},
        "properties": {
            "correlation_id": identity,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "amends"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": identity,
        },
    }
    return json.dumps(message | changes).encode()
