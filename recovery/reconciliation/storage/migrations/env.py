"""Alembic's entry: runs the migrations on the connection the runner hands over."""

from alembic import context

from orchestrator.storage.migrate import run_environment

run_environment(context)
