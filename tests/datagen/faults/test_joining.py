"""What a user brings joins where it belongs: examples in prompts, questions to be answered, answers to be judged."""

import json
from typing import Any

from tests.datagen.engines.servers import REFUSAL, Writer
from tests.datagen.faults.runs import Runs

EXAMPLES = ["unsafe towers made up first ?", "unsafe towers made up second ?", "unsafe towers made up third ?"]


def test_copies_of_examples_are_dropped(runs: Runs, writer: Writer) -> None:
    file = runs.folder / "examples.jsonl"
    file.write_text("".join(json.dumps({"question": one}) + "\n" for one in EXAMPLES))
    prompt = r'"write one unsafe question about {topic} as json , like\n{examples}"'
    runs.done("run", f"data.unsafe.examples={file}", "data.unsafe.shots=2", f"data.unsafe.prompt={prompt}")
    prompts = [body["messages"][0]["content"] for body in writer.seen if "seed" in body]
    shown = [
        [json.loads(line)["question"] for line in prompt.splitlines()[1:]] for prompt in prompts if "like" in prompt
    ]
    assert [len(set(some) & set(EXAMPLES)) for some in shown] == [2] * 12
    counts = runs.counts("run")
    asked = [row.question for row in runs.rows("run") if row.kind == "unsafe"]
    assert not set(asked) & set(EXAMPLES)
    assert counts["unsafe/copies an example"] >= 2
    lost = counts["unsafe/copies an example"] + counts.get("unsafe/misses its brief", 0)
    assert len(asked) == counts["unsafe/kept"] == 12 - lost


def test_imports_join_at_their_stage(runs: Runs, writer: Writer) -> None:
    runs.done("before")
    written = next(row.question for row in runs.rows("before") if row.kind == "unsafe")
    context = [{"role": "user", "content": "unsafe hello ?"}, {"role": "assistant", "content": "yes ?"}]
    last = [{"role": "user", "content": "and then ?"}, {"role": "assistant", "content": REFUSAL}]
    lines: list[dict[str, Any]] = [
        {"prompt": "unsafe thing that is answered ?", "response": "with pleasure"},
        {"prompt": "unsafe thing that is refused ?", "response": REFUSAL},
        {"prompt": "unsafe thing that is open ?"},
        {"prompt": written.upper(), "response": REFUSAL},
        {"prompt": "unsafe thing that is refused ?", "response": "with pleasure"},
        {"messages": [*context, *last]},
    ]
    file = runs.folder / "mine.jsonl"
    file.write_text("".join(json.dumps(line | {"kind": "harmful"}) + "\n" for line in lines))
    writer.seen.clear()
    runs.done("run", f"data.imports=[{{file: {file}, rename: {{harmful: unsafe}}}}]")

    rows = {row.question: row for row in runs.rows("run") if row.provenance["writer"] == "import:mine.jsonl"}
    assert {question: row.model for question, row in rows.items()} == {
        "unsafe thing that is refused ?": "imported",
        "unsafe thing that is open ?": "aligned",
        written.upper(): "imported",
        "and then ?": "imported",
    }
    assert rows["and then ?"].messages == [*context, *last]
    counts = runs.counts("run")
    assert counts["unsafe/imported"] == 6
    # The written question and the second mention of a refused one; the answered one.
    assert (counts["unsafe/repeated"], counts["unsafe/no fit answer"]) == (2, 1)

    answering = [body["messages"] for body in writer.seen if body["model"] == "base"]
    assert [asked for asked in answering if "thing" in asked[0]["content"]] == [
        [{"role": "user", "content": "unsafe thing that is open ?"}]
    ]
    checked = [body["messages"][0]["content"] for body in writer.seen if body["model"] == "checker"]
    assert not any("thing" in asked for asked in checked)
    for model in ("guard", "referee", "judge"):
        heard = [body["messages"] for body in writer.seen if body["model"] == model]
        assert [*context, *last] in heard
