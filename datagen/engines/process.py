"""vLLM in a process of its own: whatever ends it is an error here, and the next model in use starts another."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from datagen.config import EngineConfig
from datagen.engines.base import Engine
from datagen.engines.child import Answer
from datagen.engines.elsewhere import EngineElsewhere
from datagen.engines.local import Likelihood, LoadingEngine, Pair, in_use
from datagen.engines.vllm import VllmEngine
from datagen.engines.words import last_words, tail
from datagen.errors import EngineDiedError

T = TypeVar("T")

#: How often work is begun before it counts as failed.
TRIES = 3

#: Seconds between looks at whether a silent process still runs, and until one that is to end is made to.
_LOOK, _PATIENCE = 1.0, 30.0

#: What the process runs; as a module of its own its classes would be others than here.
_PROGRAM = "from datagen.engines.child import main; main()"

#: What it says is kept, and shown where it dies.
_VLLM = partial(VllmEngine, quiet=False)


class EngineProcess(EngineElsewhere, LoadingEngine):
    """An engine in a process of its own, which ends with this one, however this one ends.

    A call during which it dies raises `EngineDiedError`; nothing of it is kept, and the next `use` or `prepare` starts
    another. A call that is interrupted ends it too.

    Args:
        settings: how it is started.
        tokenizers: model -> the one whose tokenizer and chat template it is asked with; by default its own.
        make: makes the engine there, of settings and tokenizers; of a module's top level.

    Attributes:
        starts: how many processes there were.
    """

    def __init__(
        self,
        settings: EngineConfig,
        tokenizers: Mapping[str, str] | None = None,
        make: Callable[..., Engine] = _VLLM,
    ) -> None:
        super().__init__(settings, tokenizers)
        self._make = partial(make, settings, dict(tokenizers or {}))
        self._child: _Child | None = None
        self._model = ""
        self._spoken: dict[str, PreTrainedTokenizerBase] = {}
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the process; none where none runs."""
        return self._child.pid if self._child else None

    def use(self, model: str) -> None:  # noqa: D102
        self._start()
        self._ask("use", model)
        self._model = model

    def prepare(self, model: str) -> None:  # noqa: D102
        self._start()
        self._ask("prepare", model)
        self._model = model

    def load(self, function: Callable[..., Iterator[tuple[str, torch.Tensor]]], *arguments: Any) -> None:  # noqa: D102
        self._ask("load", function, *arguments)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # noqa: D102
        if self._child is None or not self._model:
            return in_use(None)
        if self._model not in self._spoken:
            self._spoken = {self._model: self._open(self._model)[1]}
        return self._spoken[self._model]

    def log_likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:  # noqa: D102
        found: list[Likelihood] = self._ask("log_likelihoods", pairs)
        return found

    def continuations(  # noqa: D102
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stops: Sequence[str] = (),
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
    ) -> list[str]:
        said: list[str] = self._ask(
            "continuations", prompts, max_tokens=max_tokens, stops=stops, temperature=temperature, seeds=seeds
        )
        return said

    def close(self) -> None:  # noqa: D102
        if self._child is not None:
            child, self._child = self._child, None
            child.close()

    def _start(self) -> None:
        if self._child is None:
            self._child = _Child(self._make)
            self.starts += 1

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self._child is None:
            raise RuntimeError("`use` must be called before anything is generated")
        try:
            answer = self._child.ask(method, arguments, named)
        except BaseException:
            self._child.kill()
            self._child = None
            raise
        if answer.error is not None:
            raise answer.error
        return answer.value


def asked_again(work: Callable[[], T], tries: int = TRIES) -> T:
    """What work gives, begun again when its engine dies.

    Args:
        work: begins with `use` or `prepare`, which start another engine where the last one died.
        tries: how often it is begun at most.

    Raises:
        EngineDiedError: the engine died every time; it has the words of the last.
    """
    for _ in range(tries):
        try:
            return work()
        except EngineDiedError as error:
            last = error
    raise EngineDiedError(
        f"an engine must live through the work it is given, but died {tries} times; {last}", last.code, last.words
    ) from last


class _Child:
    """The process, and this end of the pipe to it.

    Args:
        make: makes the engine there.
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._pipe, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        end = theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-X", "faulthandler", "-c", _PROGRAM, str(end)],
                pass_fds=[end],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # A group of its own can be ended as one, and is not interrupted from the terminal.
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )
        with contextlib.suppress(OSError):  # of a process that is dead already, the first call will tell
            self._pipe.send(make)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, method: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Answer:
        """What becomes of a call.

        Raises:
            EngineDiedError: the process ends before it tells.
        """
        try:
            self._pipe.send((method, arguments, named))
            # Processes that it has started may hold its end of the pipe longer than it lives.
            while not self._pipe.poll(_LOOK):
                if self._process.poll() is not None and not self._pipe.poll():
                    raise EOFError
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        return answer

    def close(self) -> None:
        """Lets it give back what it holds."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._pipe.send(None)
            self._process.wait(_PATIENCE)
        self.kill()

    def kill(self) -> None:
        """Ends it and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()
        self._log.close()

    def _died(self) -> EngineDiedError:
        with contextlib.suppress(subprocess.TimeoutExpired):  # a crash may take a while to be written down
            self._process.wait(_PATIENCE)
        self._process.kill()
        code = self._process.wait()
        words = last_words(tail(self._log.fileno()))
        killed = code == -signal.SIGKILL
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        remedy = "if memory ran out, lower engine.memory or engine.max_model_len, or set merge.residency=disk"
        return EngineDiedError(
            f"an engine's process must live until it has answered, but {ended}, and its last words were: "
            f"{words or 'none'}; {remedy if killed else 'if it happens again, set engine.kind=transformers'}",
            code,
            words,
        )
