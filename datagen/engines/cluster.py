"""An engine on a worker of a Ray cluster. One that dies is replaced, and asked again for what it had not said."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datagen.cluster import Cluster
from datagen.config import EngineConfig
from datagen.engines.base import open_engine
from datagen.engines.child import Answer
from datagen.engines.elsewhere import EngineElsewhere
from datagen.engines.process import TRIES
from datagen.errors import EngineDiedError, GoodbunchError


class EngineActor:
    """What runs in the worker.

    Args:
        settings: of the engine.
        tokenizers: model -> the one whose tokenizer and chat template it is asked with.
        folder: that relative paths are meant from; every node must see the same files.
    """

    def __init__(self, settings: EngineConfig, tokenizers: Mapping[str, str], folder: str) -> None:
        os.chdir(folder)
        self._engine = open_engine(settings, tokenizers)

    def ask(self, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Answer:
        """What becomes of a call."""
        try:
            return Answer(getattr(self._engine, method)(*arguments, **named))
        except GoodbunchError as error:
            return Answer(error=error)


class RayEngine(EngineElsewhere):
    """An engine on a worker.

    Args:
        cluster: that has room for it.
        settings: of the engine there.
        tokenizers: model -> the one whose tokenizer and chat template it is asked with.
    """

    def __init__(self, cluster: Cluster, settings: EngineConfig, tokenizers: Mapping[str, str]) -> None:
        self._ray = cluster.ray
        make: Callable[..., Any] = cluster.actors(EngineActor)
        self._make: Callable[[], Any] = lambda: make(settings, dict(tokenizers), str(Path.cwd()))
        self._actor: Any = None
        self._model = ""

    def check(self, models: Iterable[str]) -> None:  # noqa: D102
        self._ask("check", list(models))

    def identity(self, model: str) -> str:  # noqa: D102
        found: str = self._ask("identity", model)
        return found

    def use(self, model: str) -> None:  # noqa: D102
        self._model = ""
        self._ask("use", model)
        self._model = model

    def close(self) -> None:  # noqa: D102
        if self._actor is not None:
            self._ray.kill(self._actor)
            self._actor = None

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        for _ in range(TRIES):
            try:
                if self._actor is None:
                    self._actor = self._make()
                    if self._model:
                        self._call("use", [self._model], {})
                return self._call(method, arguments, named)
            except self._ray.exceptions.RayActorError as error:
                self._actor, words = None, " ".join(str(error).split())[-400:]
        raise EngineDiedError(f"a worker must live through its work, but {TRIES} died of it; {words}", words=words)

    def _call(self, method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        answer = self._ray.get(self._actor.ask.remote(method, arguments, named))
        if answer.error is not None:
            raise answer.error
        return answer.value
