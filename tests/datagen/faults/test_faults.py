"""Models that talk nonsense, servers and disks that fail: rows fewer, or one line that says why; no traceback."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from datagen.config import BunchConfig
from datagen.data_config import DataConfig
from tests.datagen.engines.servers import REFUSAL, Writer, free_port, number_of
from tests.datagen.faults.runs import CHUNK, Runs, Undisturbed, by_stage, requests, tiny_model


def odd_bodies(writer: Writer, model: str) -> int:
    return sum(body["model"] == model and number_of(body) % 2 == 0 for body in writer.seen)


def test_a_generator_that_breaks_off_half_of_the_time(runs: Runs, writer: Writer) -> None:
    writer.odd = lambda model, number: model == "generator" and number % 2 == 0
    runs.done("run")
    counts = runs.counts("run")
    broken = sum(counts[f"{kind}/not JSON"] for kind in ("unsafe", "borderline"))
    assert broken == odd_bodies(writer, "generator") > 4
    assert counts["unsafe/kept"] == 12 - counts["unsafe/not JSON"] - counts.get("unsafe/misses its brief", 0)
    assert counts["borderline/kept"] == 8 - counts["borderline/not JSON"]


def test_a_guard_that_never_gives_a_verdict(runs: Runs, writer: Writer) -> None:
    writer.odd = lambda model, number: model == "guard"
    line = runs.run("run").line()
    assert "unsafe: at least one row must be left to search on, but of 12 asked none was (" in line
    assert "(asked 12, misses its brief 2, no verdict 10)" in line
    # 54 exchanges, each looked at twice: at one token, then at a few.
    assert by_stage(writer.seen)["guard"] == 2 * 54
    assert not (runs.folder / "run" / "data" / "search").exists()


def test_a_guard_that_gives_no_verdict_half_of_the_time(runs: Runs, writer: Writer) -> None:
    # By what is asked alone: the second look, at more tokens, is to fail as the first does.
    writer.odd = lambda model, number: model == "guard" and number % 2 == 0
    runs.done("run")
    heard = [body["messages"] for body in writer.seen if body["model"] == "guard" and number_of(body) % 2]
    refused = {asked["content"] for asked, answer in heard if answer["content"] == REFUSAL}
    answered = {asked["content"] for asked, _ in heard if asked["content"].startswith("borderline")}
    rows = [row for row in runs.rows("run") if row.kind != "numbers"]
    assert {row.question for row in rows} == refused | answered
    counts = runs.counts("run")
    dropped = counts.get("unsafe/no verdict", 0) + counts["unsafe/no fit answer"]
    assert dropped == 10 - len(refused) > 0
    assert counts.get("borderline/no verdict", 0) == 8 - len(answered)


def test_a_checker_that_gives_no_verdict(runs: Runs, writer: Writer) -> None:
    writer.odd = lambda model, number: model == "checker" and number % 2 == 0
    runs.done("run")
    silent = {body["messages"][0]["content"] for body in writer.seen if body["model"] == "checker"}
    counts = runs.counts("run")
    # Asked again at more tokens, and silent again.
    assert 2 * counts["unsafe/no self-check verdict"] == odd_bodies(writer, "checker")
    assert len(silent) == 12
    assert counts["unsafe/kept"] == 12 - counts["unsafe/no self-check verdict"] - counts.get(
        "unsafe/misses its brief", 0
    )
    writer.odd = lambda model, number: model == "checker"
    assert "none was (asked 12, no self-check verdict 12)" in runs.run("silent").line()


def test_half_a_surrogate_pair_in_an_answer(runs: Runs, writer: Writer) -> None:
    said = writer.completion

    def garbled(body: dict[str, Any]) -> dict[str, Any]:
        told = said(body)
        if body["model"] == "numbers" and "seed" not in body:
            told["choices"][0]["message"]["content"] += " \ud800"
        return told

    writer.completion = garbled  # type: ignore[method-assign]
    runs.done("run")
    answers = [row.answer for row in runs.rows("run") if row.model == "numbers"]
    assert answers
    assert all(answer.endswith("? ?") for answer in answers)


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_a_model_without_a_chat_template(runs: Runs, tmp_path: Path, kind: str) -> None:
    tiny_model(tmp_path / "silent", template="")
    whole = runs.models / "base"
    changes = [f"engine.kind={kind}", "engine.address=''", "data.judge=null", f"data.refusal.model={whole}"]
    changes += [
        f"data.generator={tmp_path / 'silent'}",
        f"data.guard.model={whole}",
        f"data.unsafe.check.model={whole}",
    ]
    line = runs.run("run", *changes).line()
    assert f"{tmp_path / 'silent'}: a model must have a chat template to be asked" in line
    assert not (runs.folder / "run").exists()


def test_a_server_that_cannot_be_reached(runs: Runs) -> None:
    address = f"http://127.0.0.1:{free_port()}/v1"
    line = runs.run("run", f"engine.address={address}", "engine.retries=0").line()
    assert re.search(rf"{address}: a server must answer, but after 1 tries: .*refused", line)
    assert not (runs.folder / "run").exists()


def test_a_server_that_drops_every_tenth_request(runs: Runs, writer: Writer, undisturbed: Undisturbed) -> None:
    files, asked = undisturbed
    writer.fault = lambda number: "drop" if number % 10 == 0 else None
    assert runs.done("dropped") == files
    assert len(writer.answered) == asked.total()
    assert len(writer.seen) == asked.total() + len(writer.seen) // 10 > asked.total() + 20


def test_a_server_that_ends_in_the_middle(runs: Runs, writer: Writer, undisturbed: Undisturbed) -> None:
    files, asked = undisturbed
    writer.fault = lambda number: "500 out of memory" if number > 70 else None
    assert re.search("after 1 tries: .*out of memory", runs.run("ended", "engine.retries=0").line())
    first = requests(writer.seen)
    writer.fault = lambda number: None
    assert runs.done("ended") == files
    again = requests(writer.seen) - asked
    assert 0 < again.total() <= CHUNK
    assert first.total() <= 70 + CHUNK


@pytest.mark.parametrize(("size", "stage"), [(700, "questions/unsafe"), (2300, "answers/base"), (5000, "verdicts")])
def test_a_disk_that_is_full(runs: Runs, writer: Writer, undisturbed: Undisturbed, size: int, stage: str) -> None:
    files, asked = undisturbed
    line = runs.run("full", room=size).line()
    path = runs.journal("full", stage)
    assert f"{path}: must be written, but File too large; make room" in line
    assert path.stat().st_size == size, "no chunk was torn"
    assert runs.done("full") == files
    assert (requests(writer.seen) - asked).total() == CHUNK, "more was asked for again than the chunk that was lost"
    assert requests(writer.seen) & asked == asked


def test_a_disk_that_is_full_in_the_end(runs: Runs, writer: Writer, undisturbed: Undisturbed) -> None:
    runs.done("run")
    asked = len(writer.seen)
    shutil.rmtree(runs.folder / "run" / "data" / "search")
    line = runs.run("run", room=500).line()
    assert f"{runs.folder / 'run' / 'data' / 'search' / 'unsafe.jsonl'}: must be written, but File too large" in line
    assert not list((runs.folder / "run" / "data" / "search").iterdir())
    assert runs.done("run") == undisturbed[0]
    assert len(writer.seen) == asked


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a/b", ""])
def test_names_that_could_leave_the_folder_are_refused(name: str) -> None:
    asked = {"prompt": "p", "topics": ["t"], "ask": 1, "keep": 1}
    with pytest.raises(ValidationError, match="should match pattern"):
        DataConfig.model_validate(
            {"generator": "g", "guard": {"model": "j"}, "unsafe": asked, "domains": {name: asked}}
        )
    with pytest.raises(ValidationError, match="should match pattern"):
        BunchConfig.model_validate({"base": "b", "experts": {"safe": {"model": "a", "role": "aligned"}, name: "x"}})
