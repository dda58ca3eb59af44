"""Logging: to the console everywhere, and to files that several processes write and rotate together."""

import fcntl
import logging
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any


class SharedRotatingFileHandler(WatchedFileHandler):
    """A log file that rotates by size although several processes write to it.

    Why not the handlers at hand: RotatingFileHandler loses lines when two processes rotate at once, a file per process
    piles up with each restarted worker, and WatchedFileHandler alone waits for a logrotate that no container runs.
    Here each line is one append (which the kernel keeps whole), who rotates holds a lock file, and all others notice by
    the changed inode and follow; a line written meanwhile lands in the older file and is not lost.

    Args:
        filename: path of the log file; its `.lock` stands beside it.
        max_bytes: size in bytes from which the file is rotated.
        keep: number of older files kept, as `<filename>.1` (newest) and up.
    """

    def __init__(self, filename: str, max_bytes: int, keep: int) -> None:
        # Opened with the first line: collectstatic and check import the settings where the folder may not exist.
        super().__init__(filename, encoding="utf-8", delay=True)
        self.max_bytes = max_bytes
        self.keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        """Rotate if the file has grown enough, then write."""
        try:
            if self._is_full():
                self._rotate()
        except OSError:
            self.handleError(record)
        super().emit(record)

    def _is_full(self) -> bool:
        try:
            return Path(self.baseFilename).stat().st_size >= self.max_bytes
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        with Path(f"{self.baseFilename}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_full():  # another process was first
                return
            for number in range(self.keep - 1, 0, -1):
                older = Path(f"{self.baseFilename}.{number}")
                if older.exists():
                    older.replace(f"{self.baseFilename}.{number + 1}")
            Path(self.baseFilename).replace(f"{self.baseFilename}.1")


def logging_config(*, level: str, directory: Path | None, structured: bool) -> dict[str, Any]:
    """Build Django's LOGGING.

    Args:
        level: least level that is logged.
        directory: folder for `app.log`; None logs to the console only.
        structured: one JSON object per line instead of plain text.

    Returns:
        A dictConfig dictionary.
    """
    handlers: dict[str, Any] = {
        "console": {"class": "logging.StreamHandler", "filters": ["request_id"], "formatter": "chosen"},
    }
    if directory is not None:
        handlers["file"] = {
            "()": "config.logs.SharedRotatingFileHandler",
            "filename": str(directory / "app.log"),
            "max_bytes": 20 * 1024 * 1024,
            "keep": 5,
            "filters": ["request_id"],
            "formatter": "chosen",
        }
    fields = "{asctime} {levelname} {name} {request_id} {process} {message}"
    formatter: dict[str, Any] = {"format": fields, "style": "{"}
    if structured:
        formatter |= {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "{levelname} {name} {request_id} {process} {message}",
            "rename_fields": {"levelname": "level", "name": "logger"},
            # ISO 8601 with the offset, so that no reader has to guess the time zone.
            "timestamp": "time",
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": "config.request_id.RequestIdFilter"}},
        "formatters": {"chosen": formatter},
        "handlers": handlers,
        "root": {"handlers": list(handlers), "level": level},
        # Django's own configuration gives these handlers of their own; all lines shall take the one way.
        "loggers": {
            "django": {"handlers": [], "propagate": True},
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        },
    }
