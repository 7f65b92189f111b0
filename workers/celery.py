"""The app that ``celery -A workers worker`` and ``celery -A workers beat`` find.

Importing this reads settings and definitions and touches no network.
"""

from __future__ import annotations

from workers.saga_app import SagaApp
from workers.settings import Settings

app = SagaApp(Settings.load())
