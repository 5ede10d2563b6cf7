"""Serves a package of fastxai.export over HTTP.

    python serve.py credit.pt2 --sha256 3f1d... --port 8000

It runs until SIGTERM or Ctrl-C; then it takes no more connections, answers what it has, and exits
with 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import uvicorn
from pydantic import ValidationError

from model import ModelError, ModelProcess
from service import Settings, create_app


class JsonLines(logging.Formatter):
    """One JSON object a line. No line has anything of a request's body."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def parse_arguments() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(description="Serves a package of fastxai.export over HTTP.")
    parser.add_argument("package", type=Path, help="the file that fastxai.export wrote")
    parser.add_argument("--sha256", help="what the file must have; export returned it")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    for name, field in Settings.model_fields.items():
        option, text = f"--{name.replace('_', '-')}", f"{field.description} (%(default)s)"
        parser.add_argument(option, type=field.annotation, default=field.default, help=text)
    arguments = parser.parse_args()
    limits = {name: getattr(arguments, name) for name in Settings.model_fields}
    try:
        return arguments, Settings(**limits)
    except ValidationError as error:
        first = error.errors()[0]
        parser.error(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")


def main() -> None:
    arguments, settings = parse_arguments()
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Uvicorn raises the signal that ended it once more when all is done.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        model = ModelProcess(arguments.package, arguments.sha256)
    except ModelError as error:
        sys.exit(f"serve.py: {error}")
    with closing(model):
        uvicorn.run(
            create_app(model.manifest, model, settings),
            host=arguments.host,
            port=arguments.port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(settings.deadline_s) + 5,
        )


if __name__ == "__main__":
    main()
