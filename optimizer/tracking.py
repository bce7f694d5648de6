"""Trials in the tools that a team watches its experiments with, by each tool's own client.

Optuna's callbacks for two of them are deprecated, and that for TensorBoard needs TensorFlow.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from optuna.trial import FrozenTrial

from datagen.errors import ConfigError
from datagen.logs import log
from datagen.progress import console, note
from optimizer.config import Config
from optimizer.search.records import GIVEN_UP, LOSS, SEARCH, SECONDS, VALIDATION_LOSS, scores_of

#: Told a study's name and one of its finished trials.
Track = Callable[[str, FrozenTrial], None]


class Tracker(ABC):
    """An experiment in a tool. One that is resumed begins anew, and is told of all trials again.

    Args:
        config: of the run, after which the experiment is named.
    """

    #: What is imported.
    package: str

    @abstractmethod
    def __init__(self, config: Config) -> None: ...

    @abstractmethod
    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Keeps what a trial came to.

        Args:
            number: of the trial in its study.
            values: `STUDY/name` -> value.
        """

    @abstractmethod
    def close(self) -> None:
        """Has all of it written."""


class TensorBoard(Tracker):
    """Event files in the run folder: `tensorboard --logdir RUN`."""

    package = "tensorboard"

    def __init__(self, config: Config) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(config.run_folder / "tensorboard", purge_step=0)  # hides what was told before
        self._writer.add_text("config", f"```json\n{config.model_dump_json(indent=1)}\n```")

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Keeps what a trial came to."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        """Has all of it written."""
        self._writer.close()


class MLflow(Tracker):
    """A run of the experiment `goodbunch`, at MLflow's own address: `MLFLOW_TRACKING_URI`, or a file here."""

    package = "mlflow"

    def __init__(self, config: Config) -> None:
        import mlflow

        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name("goodbunch")
        experiment = known.experiment_id if known else self._client.create_experiment("goodbunch")
        self._run = self._client.create_run(experiment, run_name=config.run_folder.name).info.run_id
        self._client.log_dict(self._run, config.model_dump(mode="json"), "config.json")

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Keeps what a trial came to."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=number)

    def close(self) -> None:
        """Has all of it written."""
        self._client.set_terminated(self._run)


class WandB(Tracker):
    """A run of the project `goodbunch`; `WANDB_MODE=offline` keeps it in the run folder."""

    package = "wandb"

    def __init__(self, config: Config) -> None:
        import wandb

        self._run = wandb.init(
            project="goodbunch",
            name=config.run_folder.name,
            dir=config.run_folder,
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=console.quiet),
        )

    def log(self, number: int, values: Mapping[str, float]) -> None:
        """Keeps what a trial came to."""
        # Steps of its own must grow, and trials may end in another order.
        self._run.log({"trial": number, **values})

    def close(self) -> None:
        """Has all of it written."""
        self._run.finish()


#: What `--track` may name.
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def check_trackers(names: Sequence[str]) -> None:
    """Refuses what cannot track, before anything is loaded.

    Raises:
        ConfigError: there is no such tool, or it is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"--track must be one of {', '.join(TRACKERS)}, but is {name!r}; correct it")
        if find_spec(TRACKERS[name].package) is None:
            raise ConfigError(
                f"--track {name}: the package {TRACKERS[name].package} must be installed, but is not; install "
                f"goodbunch[trackers], or leave it out"
            )


@contextmanager
def tracked(names: Sequence[str], config: Config) -> Iterator[Track]:
    """What tells tools of trials. A search never ends for the sake of one: who fails is told no more.

    Args:
        names: keys of `TRACKERS`.
        config: of the run.
    """
    trackers: dict[str, Tracker] = {}

    def tell(study: str, trial: FrozenTrial) -> None:
        for name, tracker in list(trackers.items()):
            with _survived(name, trackers):
                tracker.log(trial.number, values_of(study, trial))

    try:
        for name in dict.fromkeys(names):
            with _survived(name, trackers):
                trackers[name] = TRACKERS[name](config)
        yield tell
    finally:
        for name, tracker in list(trackers.items()):
            with _survived(name, trackers):
                tracker.close()


def values_of(study: str, trial: FrozenTrial) -> dict[str, float]:
    """What curves are drawn of: `STUDY/name` -> value; a trial that was given up has no validation loss."""
    told = trial.user_attrs
    values = {"loss": told[LOSS], "seconds": told[SECONDS], "given up": float(GIVEN_UP in told)}
    if VALIDATION_LOSS in told:
        values["validation loss"] = told[VALIDATION_LOSS]
    values |= {f"loss of {term}": score.loss for term, score in scores_of(trial, SEARCH).items()}
    return {f"{study}/{name}": float(value) for name, value in values.items()}


@contextmanager
def _survived(name: str, trackers: dict[str, Tracker]) -> Iterator[None]:
    """Leaves out a tool that fails."""
    try:
        yield
    except Exception as error:  # whatever a server, a key or a disk makes a client say
        note(f"{name} is told no more trials, since {' '.join(str(error).split())[:200] or type(error).__name__}")
        log.debug("what it died of", exc_info=error)
        trackers.pop(name, None)
