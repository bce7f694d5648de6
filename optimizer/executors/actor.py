"""What runs in a worker of a cluster: the evaluators of a run, opened from its config."""

import os
from collections.abc import Mapping
from typing import Any

from datagen.engines.child import Answer
from datagen.errors import GoodbunchError
from optimizer.config import Config
from optimizer.executors.base import Work


class Worker:
    """Evaluates the trials of all studies of a run with one engine.

    Args:
        config: of the run, as JSON.
        folder: that its relative paths are meant from; every node must see the same files.
    """

    def __init__(self, config: str, folder: str) -> None:
        os.chdir(folder)
        self._config = Config.model_validate_json(config)
        self._evaluators: Mapping[str, Any] = {}

    def open(self) -> Answer:
        """Opens models and data."""
        from optimizer.engines.speaking import VllmSpeaker
        from optimizer.studies import evaluators_of, open_run

        try:
            bunch, space, terms = open_run(self._config)
            # An engine that nothing asks is never started; one that is ends with this process, however that ends.
            speaker = VllmSpeaker(self._config, bunch, space)
            self._evaluators = evaluators_of(self._config, bunch, space, terms, speaker)
        except GoodbunchError as error:
            return Answer(error=error)
        return Answer()

    def do(self, work: Work) -> Answer:
        """Calls an evaluator's method."""
        try:
            return Answer(getattr(self._evaluators[work.study], work.method)(*work.arguments))
        except GoodbunchError as error:
            return Answer(error=error)
