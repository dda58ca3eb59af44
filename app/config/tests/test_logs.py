"""The log file that several processes share."""

import subprocess
import sys
from pathlib import Path

APP = Path(__file__).resolve().parents[2]
LINES = 3000
WRITER = """
import logging, sys
from config.logs import SharedRotatingFileHandler
handler = SharedRotatingFileHandler(sys.argv[1], max_bytes=20000, keep=1000)
logger = logging.getLogger("test")
logger.addHandler(handler)
for number in range(int(sys.argv[3])):
    logger.error("%s %d %s", sys.argv[2], number, "x" * 40)
"""


def test_four_processes_lose_no_line_while_they_rotate(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(log), name, str(LINES)], cwd=APP) for name in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    files = [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert len(files) > 20
    lines = [line for path in files for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{name} {number} {'x' * 40}" for name in "abcd" for number in range(LINES))
    assert max(path.stat().st_size for path in files) < 25_000


def test_old_files_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    script = WRITER.replace("keep=1000", "keep=2")
    subprocess.run([sys.executable, "-c", script, str(log), "a", str(LINES)], cwd=APP, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.log", "app.log.1", "app.log.2", "app.log.lock"]
    assert f"a {LINES - 1} " in log.read_text()
