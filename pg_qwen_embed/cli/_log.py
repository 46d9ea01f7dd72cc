"""The log of the worker: one event a line, as logfmt or as JSON, with the time in the local zone and its offset.

Libraries log through it too. Secrets are hidden, and nothing that rows or servers say can begin a line."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pg_qwen_embed.domain.events import logfmt
from pg_qwen_embed.domain.foreign import escaped
from pg_qwen_embed.domain.secrets import Secrets

FORMATS = ("logfmt", "json")


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        values = getattr(record, "event", None) or {
            "event": "log",
            "logger": record.name,
            "message": record.getMessage(),
        }
        time = datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")
        traceback = self.formatException(record.exc_info) if record.exc_info else record.stack_info
        return self._line({"time": time, "level": record.levelname.lower()} | values, traceback)

    def _line(self, values: dict[str, Any], traceback: str | None) -> str:
        raise NotImplementedError


class Logfmt(_Formatter):
    """`time=... level=warning event=server_unavailable reason="..."`. A traceback follows in lines of its own."""

    def _line(self, values: dict[str, Any], traceback: str | None) -> str:
        line = escaped(self._secrets.hidden(logfmt(values)))
        return f"{line}\n{escaped(self._secrets.hidden(traceback), keep=chr(10))}" if traceback else line


class Json(_Formatter):
    """An object a line, in ASCII. A traceback is its value `traceback`."""

    def _line(self, values: dict[str, Any], traceback: str | None) -> str:
        whole = values | ({"traceback": traceback} if traceback else {})
        return json.dumps({name: self._shown(value) for name, value in whole.items()})

    def _shown(self, value: Any) -> Any:
        return value if isinstance(value, bool | int | float) or value is None else self._secrets.hidden(str(value))


def set_up(secrets: Secrets, level: str, form: str) -> None:
    """Send the log to stderr. form: one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(secrets) if form == "json" else Logfmt(secrets))
    logging.basicConfig(handlers=[handler], level=level.upper())
