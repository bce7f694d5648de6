"""Bad input costs seconds and one line; every command has help with an example."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import DEMO_CONFIG, ROOT, command, goodbunch


def refused(*args: object) -> str:
    done = goodbunch(*args, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("goodbunch: ")
    return done.stderr


@pytest.mark.parametrize("name", ["demo", "zoo", "datagen", "search", "report"])
def test_help_has_an_example(name: str) -> None:
    done = goodbunch(name, "--help")
    assert done.returncode == 0
    assert f"Example: goodbunch {name}" in done.stdout


@pytest.mark.parametrize("name", ["datagen", "search"])
def test_unknown_key(name: str) -> None:
    assert "did you mean 'seed'?" in refused(name, DEMO_CONFIG, "search.sed=3")


def test_missing_config() -> None:
    assert "no such config file" in refused("search", "nowhere.yaml")


def test_missing_folder() -> None:
    assert "/no/such" in refused("datagen", DEMO_CONFIG, "vars.zoo=/no/such")


def test_expert_with_another_template(zoo: Path) -> None:
    message = refused("search", DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.numbers={zoo}/guard")
    assert "must share one chat template, but numbers differ" in message


def test_file_cut_in_half(zoo: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(zoo / "finance", tmp_path / "finance")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = refused("datagen", DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.finance={cut.parent}")
    assert "must be a whole safetensors file" in message


def test_search_without_data(zoo: Path, tmp_path: Path) -> None:
    message = refused("search", DEMO_CONFIG, f"vars.zoo={zoo}", "--out", tmp_path)
    assert "run `goodbunch datagen` with the same config first" in message


def test_report_without_result(tmp_path: Path) -> None:
    assert "run `goodbunch search` on its config first" in refused("report", tmp_path)


def test_unknown_recipe(tmp_path: Path) -> None:
    assert "--recipe must be one of natural, engineered" in refused("zoo", "--out", tmp_path, "--recipe", "wild")


def test_ctrl_c_says_how_to_go_on(demo: Path, tmp_path: Path) -> None:
    places = [f"vars.zoo={demo}/zoo", f"data.folder={demo}/data"]
    process = subprocess.Popen(
        command("search", DEMO_CONFIG, *places, "--out", tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "study.db").is_file() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip().splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in told
