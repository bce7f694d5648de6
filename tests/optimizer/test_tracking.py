"""What tools that watch experiments are told, read back by their own clients; and Optuna's dashboard over a run."""

import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from datagen.errors import ConfigError
from optimizer import tracking
from optimizer.executors.inline import InlineExecutor
from optimizer.report.result import MAIN
from optimizer.search.records import LOSS, VALIDATION_LOSS
from optimizer.search.study import Searched
from optimizer.studies import evaluators_of, open_run, run_all_studies
from tests.datagen.engines.servers import free_port
from tests.optimizer.tiny_zoo import TinyZoo

#: Name of a value -> trial -> value.
Curves = dict[str, dict[int, float]]


@pytest.fixture(autouse=True)
def _aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    mlflow.set_tracking_uri(None)


def searched(tiny_zoo: TinyZoo, folder: Path, *trackers: str) -> Searched:
    config = tiny_zoo.config(folder, {"descent": {"trials": 1, "steps": 4}})
    with ExitStack() as stack:
        bunch, space, terms = open_run(config)
        executor = InlineExecutor(evaluators_of(config, bunch, space, terms))
        track = stack.enter_context(tracking.tracked(trackers, config))
        return run_all_studies(config, bunch, space, terms, executor, track=track)[MAIN]


def in_tensorboard(folder: Path) -> Curves:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {name: {one.step: one.value for one in events.Scalars(name)} for name in events.Tags()["scalars"]}


def in_mlflow(_: Path) -> Curves:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("goodbunch")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])[0]
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: {one.step: one.value for one in some} for name, some in history.items()}


def records(file: Path) -> Iterator[Record]:
    """What a file of an offline run holds: LevelDB's log format, behind a header of 7 bytes."""
    data, at, held = file.read_bytes(), 7, b""
    while at < len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left  # no part begins so near to a block's end
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(held)
            held = b""


def in_wandb(folder: Path) -> Curves:
    curves: Curves = defaultdict(dict)
    (file,) = folder.glob("wandb/latest-run/run-*.wandb")
    for record in records(file):
        told = {item.key or item.nested_key[0]: float(item.value_json) for item in record.history.item}
        for name in (name for name in told if "/" in name):
            curves[name][int(told["trial"])] = told[name]
    return curves


READ = {"tensorboard": in_tensorboard, "mlflow": in_mlflow, "wandb": in_wandb}


def test_every_tool_has_a_test() -> None:
    assert READ.keys() == tracking.TRACKERS.keys()


@pytest.mark.parametrize("tool", READ)
def test_tools_are_told_every_trial_and_all_of_them_again_by_a_resumed_search(
    tiny_zoo: TinyZoo, tmp_path: Path, tool: str
) -> None:
    for _ in range(2):
        found = searched(tiny_zoo, tmp_path / "run", tool)
        curves = READ[tool](tmp_path / "run")
        trials = {trial.number: trial.user_attrs for trial in found.trials}
        assert curves["search/loss"] == pytest.approx({n: told[LOSS] for n, told in trials.items()})
        assert curves["search/validation loss"] == pytest.approx(
            {n: told[VALIDATION_LOSS] for n, told in trials.items() if VALIDATION_LOSS in told}
        )
        assert {"search/loss of safety", "search/loss of math", "search/given up", "search/seconds"} < curves.keys()


class Failing(tracking.TensorBoard):
    """A tool that is there at first."""

    def log(self, number: int, values: Any) -> None:
        if number == 2:
            raise ConnectionError("the line is dead")
        super().log(number, values)


def test_a_tool_that_fails_ends_no_search(
    tiny_zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise wandb.errors.UsageError("no key is known")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setitem(tracking.TRACKERS, "tensorboard", Failing)
    found = searched(tiny_zoo, tmp_path / "run", "wandb", "tensorboard", "mlflow")
    said = capsys.readouterr().out
    assert said.count("wandb is told no more trials, since no key is known") == 1
    assert said.count("tensorboard is told no more trials, since the line is dead") == 1
    assert in_mlflow(tmp_path)["search/loss"].keys() == {trial.number for trial in found.trials}
    assert in_tensorboard(tmp_path / "run")["search/loss"].keys() == {0, 1}


def test_tools_that_are_not_there_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--track must be one of tensorboard, mlflow, wandb, but is 'comet'"):
        tracking.check_trackers(["comet"])
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"package mlflow must be installed, but is not; .*goodbunch\[trackers\]"):
        tracking.check_trackers(["mlflow"])


@contextmanager
def dashboard(database: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()", f"sqlite:///{database}"]
    server = subprocess.Popen([*command, "--port", str(port), "--quiet"])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_optunas_dashboard_opens_a_run(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    found = searched(tiny_zoo, tmp_path / "run")
    with dashboard(tmp_path / "run" / "study.db") as address:
        until = time.monotonic() + 240
        while True:
            try:
                studies = httpx.get(f"{address}/api/studies").raise_for_status().json()["study_summaries"]
                break
            except httpx.TransportError:
                assert time.monotonic() < until, "it does not start"
                time.sleep(0.2)
        (study,) = [one for one in studies if one["study_name"] == MAIN]
        shown = httpx.get(f"{address}/api/studies/{study['study_id']}").raise_for_status().json()["trials"]
    assert {one["number"]: one["values"] for one in shown} == {one.number: one.values for one in found.trials}
    assert all(one["state"] == "Complete" for one in shown)
