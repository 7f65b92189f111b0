"""``python -m steps.gateways.sandbox --port N --ledger FILE`` runs the sandbox gateway."""

from __future__ import annotations

import argparse
from pathlib import Path

from steps.gateways.sandbox.server import serve


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m steps.gateways.sandbox",
        description="A payment gateway and carrier with a durable ledger and scripted faults.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1 is the default")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--ledger", type=Path, required=True, help="SQLite file, made if missing")
    parser.add_argument("--public-url", help="where payers find their challenges")
    parser.add_argument("--log", action="store_true", help="a JSON line per request on stderr")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop when standard input ends, so as not to outlive the process that started this",
    )
    options = parser.parse_args()
    serve(
        host=options.host,
        port=options.port,
        ledger_path=options.ledger,
        public_url=options.public_url,
        logs=options.log,
        until_stdin_closes=options.until_stdin_closes,
    )


if __name__ == "__main__":
    main()
