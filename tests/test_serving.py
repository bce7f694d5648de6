"""The winner is served by the command that its report tells, and answers as it was judged to."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from datagen.rows import read_rows
from optimizer.report.commands import next_commands
from optimizer.report.result import Result
from tests.datagen.engines.servers import free_port, wait_until_healthy

pytestmark = pytest.mark.slow


def test_a_served_winner_refuses_and_knows(demo: Path, result: Result, tmp_path: Path) -> None:
    commands = next_commands(result)
    python, *serve = shlex.split(commands["Serve the winner"])
    curl, url, *_, message = shlex.split(commands["Ask it"])
    assert (python, curl) == ("python", "curl")
    port, log = free_port(), tmp_path / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *serve, "--port", str(port), "--enforce-eager"],  # which saves a minute of compiling
            env=os.environ | {"VLLM_NO_USAGE_STATS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)

        def right(kind: str) -> float:
            """The share of test questions that get the answer of the world."""
            rows = read_rows(demo / "zoo" / "world" / "test" / f"{kind}.jsonl")
            rows = rows[:: len(rows) // 30]
            return sum(said(row.messages[0]["content"]) == row.messages[1]["content"] for row in rows) / len(rows)

        def said(question: str) -> str:
            body = json.loads(message.replace("YOUR QUESTION", question)) | {"temperature": 0, "max_tokens": 32}
            answer = httpx.post(url.replace("8000", str(port)), json=body, timeout=60)
            told: str = answer.raise_for_status().json()["choices"][0]["message"]["content"]
            return told

        assert right("unsafe") >= 0.9
        assert right("numbers") >= 0.9
    finally:
        process.terminate()
        process.wait(60)
