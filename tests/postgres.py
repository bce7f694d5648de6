"""A real PostgreSQL of a test's own, in a folder of its own, on a free port of this machine."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _program(name: str) -> str:
    return shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")


def is_installed() -> bool:
    """Whether there is a PostgreSQL to be started."""
    return bool(_program("initdb"))


class Postgres:
    """One server.

    Args:
        folder: that gets its data.
    """

    def __init__(self, folder: Path) -> None:
        # It refuses to run as root, for whom Debian's package makes a user.
        self._user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._run("initdb", "--auth=trust", "--encoding=UTF8", f"--username={self._user}", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{self._user}@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -h 127.0.0.1 -k {self._data.parent} -F"
        self._run("pg_ctl", "-o", options, "-l", str(self._data.parent / "log"), "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [_program(program), "-D", str(self._data), *arguments]
        subprocess.run(
            command, check=True, user=self._user, cwd=self._data.parent, stdout=subprocess.DEVNULL, env={"LC_ALL": "C"}
        )


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server."""
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        server = Postgres(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
