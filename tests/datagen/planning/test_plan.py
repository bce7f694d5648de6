"""Work, sizes, memory and times, all on values checked by hand; nothing here is measured or loaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datagen.config import BunchConfig, EngineConfig
from datagen.data_config import DataConfig
from datagen.errors import BunchError
from datagen.importing import Imported
from datagen.pipeline import Inputs, open_inputs
from datagen.planning import hardware
from datagen.planning.hardware import Device, Machine, find_machine
from datagen.planning.placement import Placement, place
from datagen.planning.plan import Plan, plan, summary
from datagen.planning.roofline import Running, batch_size
from datagen.planning.sizes import Size, cache_numbers, size_by_name, size_of
from datagen.planning.workload import Kind, Work, kinds, works
from datagen.records import Answered, Question

#: A device of round figures: 100 GB, 1 TB/s, 100 TFLOP/s.
DEVICE = Device("round", 100e9, 1e12, 100e12)
#: 10 B parameters in bfloat16 with 100 kB of cache per token.
SIZE = Size(10e9, 20e9, 50_000, "its name")
CONFIG = {
    "generator": "g",
    "guard": {"model": "j"},
    "unsafe": {"prompt": "p" * 40, "topics": ["t"], "ask": 10, "keep": 4},
    "domains": {"numbers": {"prompt": "about {topic}", "topics": ["ab", "abcd"], "ask": 6, "keep": 20}},
    "max_question_chars": 80,
    "max_answer_tokens": 50,
    "validation": 0.25,
    "test": 0.25,
}


@pytest.fixture
def bunch() -> BunchConfig:
    return BunchConfig.model_validate(
        {"base": "b", "experts": {"aligned": {"model": "a", "role": "aligned"}, "numbers": "n"}}
    )


def engine(**settings: object) -> EngineConfig:
    return EngineConfig.model_validate({"max_model_len": 1000, "memory": 0.5} | settings)


def data(**settings: object) -> DataConfig:
    return DataConfig.model_validate(CONFIG | settings)


def planned(bunch: BunchConfig, config: DataConfig, settings: EngineConfig, machine: Machine | None) -> Plan:
    sizes = dict.fromkeys(("b", "a", "n", "g"), SIZE)
    return plan(bunch, config, settings, open_inputs(bunch, config, 0), sizes, machine)


def test_work(bunch: BunchConfig) -> None:
    config = data()
    # 4 characters a token, 32 tokens a template: 10 prompts of 40, 3 of 8 and 3 of 10, questions of 80 characters.
    assert works(bunch, config, open_inputs(bunch, config, 0)) == [
        Work("questions/unsafe", "g", 10, 10 * (10 + 32), 80 + 24),
        Work("questions/numbers", "n", 6, (3 * 8 + 3 * 10) / 4 + 6 * 32, 80 + 24),
        Work("answers/base", "b", 10, 10 * (20 + 32), 50),
        Work("answers/aligned", "a", 10, 10 * (20 + 32), 50),
        Work("answers/numbers", "n", 16, 16 * (20 + 32), 50),
        Work("verdicts", "j", 30, 30 * (20 + 50 + 640), 5),
    ]


def test_work_of_checks_refusals_and_a_judge(bunch: BunchConfig) -> None:
    check = {"prompt": "fits? {question}"}  # 16 characters
    config = data(
        unsafe=CONFIG["unsafe"] | {"check": check},
        domains={"numbers": CONFIG["domains"]["numbers"] | {"check": check | {"model": "c"}}},
        refusal={"model": "r", "prompt": "{question}{answer}", "after": "it is "},  # 18 characters
        judge={"model": "k"},
    )
    found = {work.stage: work for work in works(bunch, config, open_inputs(bunch, config, 0), {"k": 40})}
    assert found["checks/unsafe"] == Work("checks/unsafe", "g", 10, 10 * (4 + 20 + 32), 5)
    assert found["checks/numbers"] == Work("checks/numbers", "c", 6, 6 * (4 + 20 + 32), 5)
    assert found["refusals"] == Work("refusals", "r", 30, 30 * (20 + 50 + 4 + 32), 48)
    # Of a template of 40 characters less is assumed than of one that nobody has seen; only what is kept is judged.
    assert found["judge"] == Work("judge", "k", 4, 4 * (20 + 50 + 10 + 32), 5)


def test_work_and_rows_of_imports(bunch: BunchConfig) -> None:
    config = data()
    question = Question.of("unsafe", "q" * 8, topic="t", writer="import:f")
    answered = Answered(**question.model_dump(), answers={"x": "a" * 4, "y": ""})
    inputs = open_inputs(bunch, config, 0)._replace(imported=Imported([question], [answered]))
    found = {work.stage: work for work in works(bunch, config, inputs)}
    assert found["answers/base"].conversations == 11
    assert found["answers/base"].prompt == (10 * 80 + 8) / 4 + 11 * 32
    assert found["verdicts"].conversations == 3 * 11 + 2
    assert found["verdicts"].prompt == 3 * (808 / 4 + 11 * 50) + (8 + 4 + 8) / 4 + 35 * 640
    assert kinds(config, inputs) == [
        Kind("unsafe", 10, 2, 4, {"search": 2, "validation": 1, "test": 1}),
        Kind("numbers", 6, 0, 6, {"search": 3, "validation": 2, "test": 2}),
    ]


def test_a_kind_that_nobody_is_asked_has_no_work(bunch: BunchConfig) -> None:
    config = data()
    nothing = Inputs([], Imported(), {})
    assert works(bunch, config, nothing) == []


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8e9),
        ("mistralai/Mistral-7B-Instruct-v0.2", 7e9),
        ("cognitivecomputations/dolphin-2.9-llama3-8b", 8e9),
        ("TIGER-Lab/MAmmoTH2-7B@main", 7e9),
        ("Qwen/Qwen2-0.5B", 0.5e9),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("HuggingFaceTB/SmolLM-135M", 135e6),
        ("org/some-4bit-llama-13b", 13e9),
    ],
)
def test_size_by_name(name: str, parameters: float) -> None:
    size = size_by_name(name)
    assert (size.parameters, size.stored, size.source) == (parameters, 2 * parameters, "its name")


@pytest.mark.parametrize("name", ["microsoft/phi-3-mini-128k", "org/model-4bit", "org/v2.7", "8B/model"])
def test_a_name_without_a_size(name: str) -> None:
    assert size_by_name(name) == Size()


def test_cache_by_name_is_that_of_llama_3() -> None:
    # 2 x 32 layers x 8 heads x 128, two bytes each: 128 KiB; a quarter of the parameters has half of it.
    assert size_by_name("org/x-8B").cache == 2 * 32 * 8 * 128
    assert size_by_name("org/x-2B").cache == 32 * 8 * 128


def test_cache_by_config() -> None:
    llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert cache_numbers(llama) == 65_536
    assert cache_numbers({"n_layer": 12, "n_head": 12, "n_embd": 768}) == 2 * 12 * 768
    assert cache_numbers({"text_config": llama | {"head_dim": 64}}) == 32_768
    assert cache_numbers({"num_hidden_layers": 32}) is None


def test_size_of_a_folder(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.zeros(3, 4, dtype=torch.bfloat16), "b.weight": torch.zeros(5)}
    save_file(tensors, tmp_path / "model.safetensors")
    settings = {"n_layer": 1, "n_head": 2, "n_embd": 8, "dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    size = size_of(str(tmp_path))
    assert (size.parameters, size.stored, size.cache, size.template) == (17, 3 * 4 * 2 + 5 * 4, 2 * 8, 7)
    assert (size.source, size.here) == ("its files", True)
    assert "dtype" not in size.shape
    assert "n_embd" in size.shape
    assert size.width("auto") == 44 / 17
    assert (size.width("bfloat16"), size.width("float32")) == (2, 4)


def test_a_model_in_the_cache_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--tiny" / "refs").mkdir()
    (tmp_path / "models--org--tiny" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (snapshot / "config.json").write_text("{}")
    assert size_of("org/tiny") == Size()  # begun, but not whole
    save_file({"a.weight": torch.zeros(3)}, snapshot / "model.safetensors")
    size = size_of("org/tiny")
    assert (size.parameters, size.source, size.here) == (3, "its files", True)
    assert size_of("org/other-7B").source == "its name"


@pytest.mark.parametrize("name", ["/no/such", "runs/demo/zoo/base", "word", "./a/b"])
def test_what_is_no_model_is_refused_as_a_run_does(name: str) -> None:
    with pytest.raises(BunchError, match="must be a folder or a Hugging Face name"):
        size_of(name)


def test_roofline() -> None:
    running = Running(DEVICE, 1, weights=20e9, parameters=10e9, cache=1e5)
    assert running.prefill(5000) == 2 * 10e9 * 5000 / 100e12
    assert running.step(1, 0) == 20e9 / 1e12
    assert running.step(100, 1000) == (20e9 + 100 * 1000 * 1e5) / 1e12
    assert running.step(1000, 0) == 1000 * 2 * 10e9 / 100e12  # arithmetic, no longer memory
    # 200 answers of 10 tokens, 100 at a time: 20 steps, in the middle of which there are 995 + 5 tokens of context.
    assert running.decode(200, 100, 995, 10) == pytest.approx(20 * 30e9 / 1e12)
    assert running.decode(1, 100, 995, 10) == pytest.approx(10 * (20e9 + 1e8) / 1e12)


def test_twice_the_devices_take_half_the_time() -> None:
    one, two = (Running(DEVICE, count, 20e9, 10e9, 1e5) for count in (1, 2))
    assert two.prefill(5000) == one.prefill(5000) / 2
    assert two.step(100, 1000) == one.step(100, 1000) / 2


def test_of_an_unknown_device_no_time_is_known() -> None:
    running = Running(Device("x", 1e9, None, None), 1, 1e6, 1e6, 10)
    assert running.prefill(1) is None
    assert running.decode(1, 1, 1, 1) is None


@pytest.mark.parametrize(("room", "most", "size"), [(1000, 64, 10), (1000, 4, 4), (50, 64, 1)])
def test_batch(room: float, most: int, size: int) -> None:
    assert batch_size(room, 100, most) == size


def placed(count: int = 1, device: Device = DEVICE, size: Size = SIZE, **settings: object) -> Placement:
    found = place(size, engine(**settings), Machine(device, count))
    assert found is not None
    return found


def test_room_on_a_gpu() -> None:
    # Half of 100 GB, less 2 GB of workspace and 20 GB of weights.
    assert placed().room == 28e9
    assert placed(2, tensor_parallel=2).room == 2 * 48e9 - 20e9
    assert placed(dtype="float32").room == 8e9
    assert placed(kind="transformers").room == 78e9


def test_batch_on_a_gpu() -> None:
    assert placed().batch(400, 600) == 28e9 // (1e5 * 1000)
    assert placed(chunk=32).batch(400, 600) == 32
    assert placed().batch(1, 1) == 1024
    assert placed(device=Device("small", 60e9, 1e12, 1e14)).batch(1, 1) == 256
    assert placed(kind="transformers", parallel=8).batch(1, 1) == 8


def test_room_on_a_cpu() -> None:
    cpu = Device("CPU", 25e9, 1e10, 1e11, cpu=True)
    assert placed(device=cpu).room == 2**30
    assert placed(device=cpu, kind="transformers").room == 5e9
    small = placed(device=Device("CPU", 19e9, 1e10, 1e11, cpu=True))
    assert small.room == -1e9
    assert not small.fits
    assert small.remedy().startswith("take larger devices")


@pytest.mark.parametrize(
    ("memory", "settings", "size", "remedy"),
    [
        (100e9, {}, SIZE, ""),
        (40e9, {}, SIZE, "set engine.memory=0.9"),
        (100e9, {}, Size(15e9, 60e9, 50_000), "set engine.memory=0.9"),
        (40e9, {"memory": 0.95}, Size(10e9, 40e9, 50_000), "set engine.dtype=bfloat16"),
        (30e9, {}, Size(10e9, 40e9, 50_000), "set engine.dtype=bfloat16 engine.memory=0.9"),
        (24e9, {}, Size(13e9, 26e9, 50_000), "set engine.tensor_parallel=2 engine.memory=0.9, on 2 of these devices"),
        (100e9, {"tensor_parallel": 2}, SIZE, "set engine.tensor_parallel=1"),
        (24e9, {}, Size(400e9, 800e9, 50_000), "take larger devices"),
        (16e9, {"kind": "transformers"}, Size(7e9, 28e9, 50_000), "take larger devices"),
        (20e9, {"kind": "transformers"}, Size(7e9, 28e9, 50_000), "set engine.dtype=bfloat16"),
    ],
)
def test_remedy(memory: float, settings: dict[str, object], size: Size, remedy: str) -> None:
    told = placed(device=Device("x", memory, 1e12, 1e14), size=size, **settings).remedy()
    assert told.startswith(remedy) if remedy.startswith("take") else told == remedy


def test_seconds_of_a_stage() -> None:
    # 20 s to read 20 GB, 2 s to read 100 prompts of 1000 tokens, 10 steps of (20 GB + 100 x 1005 x 100 kB) at 1 TB/s.
    assert placed().seconds(100, 1000, 10) == pytest.approx(20 + 20 + 10 * 0.03005)


def test_plan(bunch: BunchConfig) -> None:
    found = planned(bunch, data(), engine(), Machine(DEVICE))
    assert [model.roles for model in found.models] == [["base"], ["aligned"], ["numbers"], ["generator"], ["guard"]]
    assert found.starts == 6  # every stage has another model than the one before
    assert found.seconds[-1] is None  # nobody knows the guard
    assert found.seconds[2] == pytest.approx(20 + 2 * 10e9 * 520 / 100e12 + 50 * (20e9 + 10 * 77 * 1e5) / 1e12)
    told = "\n".join(summary(found))
    assert "at most 82 conversations" in told
    assert "1 of 6 stages not counted" in told
    assert "at most 20.0 GB (b), of the 50.0 GB that the engine takes of round" in told
    assert "the KV cache has 28.0 GB, 56%, enough for 280 conversations of full length" in told
    assert "disk: 80.0 GB of weights, 80.0 GB of them to be downloaded" in told
    assert "neither files nor name tell their size: j" in told


def test_models_of_one_shape_start_the_engine_once(bunch: BunchConfig) -> None:
    config = data(guard={"model": "g"})
    sizes = dict.fromkeys(("b", "a", "n", "g"), SIZE._replace(shape="one", here=True))
    found = plan(bunch, config, engine(), open_inputs(bunch, config, 0), sizes, Machine(DEVICE))
    assert found.starts == 1
    assert "0 bytes of them to be downloaded" in "\n".join(summary(found))


def test_what_does_not_fit_has_a_remedy_and_no_time(bunch: BunchConfig) -> None:
    found = planned(bunch, data(), engine(), find_machine("4xL4"))
    assert found.seconds == [None] * 6
    told = "\n".join(summary(found))
    assert "does not fit: a, 20.0 GB; set engine.tensor_parallel=2 engine.memory=0.9" in told
    assert "3 of 4 devices stay idle; engine.tensor_parallel=4 uses all" in told
    assert "time not known" in told


def test_a_server_has_neither_memory_nor_time(bunch: BunchConfig) -> None:
    found = planned(bunch, data(), engine(kind="server", address="http://localhost:1/v1"), None)
    told = list(summary(found))
    assert told[0].endswith("memory and time are the server's affair")
    assert not any("GB" in line for line in told)


def test_planning_measures_nothing(bunch: BunchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise AssertionError("a plan for a named device must neither measure nor ask this one")

    for name in ("measure", "machine_at_hand", "_asked_nvidia"):
        monkeypatch.setattr(hardware, name, fails)
    assert planned(bunch, data(), engine(), find_machine("H200")).works
