"""The bank gives the kernels' bits wherever sources are kept, and holds no more than it says."""

import ctypes
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from datagen.errors import ConfigError
from optimizer.merging import bank as module
from optimizer.merging import native
from optimizer.merging.bank import Bank, Residency, floating_dtype, row_ends
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Value, coefficients_of
from optimizer.merging.methods.task_vectors import TaskVectorMethod
from optimizer.merging.tensors import Inputs
from tests.optimizer.merging.cases import SHAPES, model, models, same_bits

#: A few of each kind of kernel, with what is random, and what goes by rows and by columns.
MERGES: list[tuple[str, dict[str, Value], bool]] = [
    ("task_arithmetic", {}, True),
    ("ties", {"density": 0.4}, True),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.1}, True),
    ("dare_ties", {"density": 0.5}, True),
    ("della", {"density": 0.5}, True),
    ("linear", {}, False),
    ("nuslerp", {"nuslerp_flatten": False}, True),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, False),
    ("multislerp", {}, True),
    ("model_stock", {"filter_wise": True}, True),
    ("sce", {"select_topk": 0.5}, True),
    ("arcee_fusion", {}, True),
    ("nearswap", {}, True),
]

WEIGHTS = (0.6, 0.3, 0.45)


def bank_of(name: str, given: dict[str, Value], based: bool, residency: Residency = "device", **more: object) -> Bank:
    least, most = METHODS[name].experts
    base, experts = models(most or max(least, 3))
    return Bank(METHODS[name], base if based else None, experts, given, residency=residency, seed=5, **more)


def merged(bank: Bank) -> dict[str, torch.Tensor]:
    return dict(bank.merged({name: WEIGHTS[: len(bank.experts)] for name in bank.sources[0].shapes}))


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "given", "based"), MERGES, ids=str)
def test_residencies_and_parts_give_the_same_bits(
    name: str, given: dict[str, Value], based: bool, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = merged(bank_of(name, given, based, dtype=dtype))
    for residency in ("host", "disk"):
        found = merged(bank_of(name, given, based, residency, dtype=dtype))
        assert all(same_bits(found[key], expected[key]) for key in SHAPES)
    monkeypatch.setattr(module, "_AT_ONCE", 1)  # a row at a time
    bank = bank_of(name, given, based, "disk", dtype=dtype)
    found = merged(bank)
    assert all(same_bits(found[key], expected[key]) for key in SHAPES)
    assert [stop - start for key, start, stop in bank.experts[0].reads if key == "experts"][-3:] == [1, 1, 1]


def cuts(name: str) -> list[tuple[str, int]]:
    # Tensors and numbers of blocks; to methods that go by rows, a tensor of one dimension is one row.
    whole = not isinstance(METHODS[name], TaskVectorMethod)
    return [
        ("embed", 1),
        ("embed", 5),
        ("embed", 64),
        ("experts", 4),
        ("odd", 2),
        ("norm", 1 if whole else 3),
        ("scale", 1),
    ]


def by_block(blocks: int, experts: int) -> list[list[float]]:
    # Coefficients of every block; those of the second give the base, those of the third one expert.
    drawn = torch.randn(blocks, experts, generator=torch.Generator().manual_seed(blocks)).double() + 0.5
    drawn[1:2] = 0.0
    drawn[2:3] = torch.eye(experts, dtype=torch.float64)[0]
    return drawn.tolist()


def rows_of(key: str, blocks: int) -> list[slice]:
    ends = row_ends(SHAPES[key][0] if SHAPES[key] else 1, blocks)
    return [slice(begin, end) for begin, end in pairwise([0, *ends])]


@pytest.mark.parametrize(("rows", "blocks", "ends"), [(10, 4, [2, 5, 7, 10]), (3, 3, [1, 2, 3]), (2, 4, [0, 1, 1, 2])])
def test_blocks_are_even_but_for_one_row(rows: int, blocks: int, ends: list[int]) -> None:
    assert row_ends(rows, blocks) == ends


@pytest.mark.parametrize("rows_at_once", [1, 7])
@pytest.mark.parametrize("residency", ["device", "host", "disk"])
@pytest.mark.parametrize(("name", "given", "based"), MERGES, ids=str)
def test_a_block_of_rows_is_merged_as_if_it_were_alone(
    name: str,
    given: dict[str, Value],
    based: bool,
    residency: Residency,
    rows_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, bank = bank_of(name, given, based), bank_of(name, given, based, residency)
    monkeypatch.setattr(module, "_AT_ONCE", rows_at_once * 24 * 4 * len(bank.sources))
    for key, blocks in cuts(name):
        wanted = by_block(blocks, len(bank.experts))
        if METHODS[name].base != "required" or name in ("sce", "model_stock"):  # whose coefficients are shares
            wanted = [[abs(each) + 0.1 for each in own] for own in wanted]
        found = bank.merge(key, wanted, torch.full(SHAPES[key], torch.nan)).view(SHAPES[key] or (1,))
        for rows, own in zip(rows_of(key, blocks), wanted, strict=True):
            alone = whole.merge(key, own, torch.empty(SHAPES[key])).view(SHAPES[key] or (1,))
            assert same_bits(found[rows], alone[rows])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("name", "given", "based"), MERGES, ids=str)
def test_the_gradient_of_a_block_is_that_of_its_rows(
    name: str, given: dict[str, Value], based: bool, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = bank_of(name, given, based)
    for key, blocks in cuts(name):
        wanted = [[abs(each) + 0.1 for each in own] for own in by_block(blocks, len(bank.experts))]
        along = torch.randn(SHAPES[key], generator=torch.Generator().manual_seed(1))
        expected = []
        for rows, own in zip(rows_of(key, blocks), wanted, strict=True):
            only = torch.zeros(SHAPES[key] or (1,))
            only[rows] = along.view(only.shape)[rows]
            expected.append(bank.gradient(key, own, only.view(SHAPES[key])))
        with monkeypatch.context() as patch:
            if not fast:
                patch.setattr(native, "usable", lambda *_: False)
            found = bank.gradient(key, wanted, along)
        assert found.dtype == torch.float64
        assert torch.allclose(found, torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "given", "based"), MERGES, ids=str)
def test_the_bank_gives_what_the_kernel_gives(name: str, given: dict[str, Value], based: bool) -> None:
    bank = bank_of(name, given, based)
    tensors = [source.tensors["embed"] for source in bank.sources]
    names = tuple(expert.name for expert in bank.experts)
    dtype = bank.dtype_of("embed")
    inputs = Inputs(tensors[0] if based else None, tensors[based:], dtype, "embed", names, 5)
    used = coefficients_of(WEIGHTS[: len(bank.experts)])
    kernel = METHODS[name].prepare(inputs, METHODS[name].settings(given, len(bank.experts)))
    assert same_bits(merged(bank)["embed"], kernel.merge(inputs, used, torch.empty(61, 24, dtype=dtype)))


@pytest.mark.parametrize("residency", ["device", "disk"])
def test_order_of_tensors_does_not_matter(residency: Residency) -> None:
    bank, other = (bank_of("dare_ties", {"density": 0.5}, True, residency) for _ in range(2))
    forth = {name: bank.merge(name, WEIGHTS, torch.empty(SHAPES[name])) for name in SHAPES}
    back = {name: other.merge(name, WEIGHTS, torch.empty(SHAPES[name])) for name in reversed(SHAPES)}
    assert all(same_bits(forth[name], back[name]) for name in SHAPES)


@pytest.mark.parametrize("residency", ["device", "host", "disk"])
def test_what_is_not_of_floating_point_is_copied_from_the_first_source(residency: Residency) -> None:
    steps = merged(bank_of("ties", {}, True, residency))["steps"]
    assert steps.dtype == torch.int64 and steps.tolist() == [0, 1]
    assert merged(bank_of("linear", {}, False, residency))["steps"].tolist() == [1, 1]


@pytest.mark.parametrize("residency", ["device", "host", "disk"])
def test_a_tensor_is_prepared_once(residency: Residency, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    prepare = type(METHODS["ties"]).prepare
    monkeypatch.setattr(
        type(METHODS["ties"]),
        "prepare",
        lambda self, inputs, how: prepared.append(inputs.name) or prepare(self, inputs, how),
    )
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    bank = bank_of("ties", {"density": 0.4}, True, residency)
    for _ in range(3):
        merged(bank)
    bank.gradient("embed", WEIGHTS, torch.ones(61, 24))
    assert sorted(prepared) == sorted(SHAPES)
    bank.forget("embed")
    merged(bank)
    assert prepared[len(SHAPES) :] == ["embed"]


@pytest.mark.parametrize("residency", ["device", "host"])
def test_resident_sources_are_read_once_and_are_copies(residency: Residency) -> None:
    bank = bank_of("task_arithmetic", {}, True, residency)
    before = merged(bank)
    for source in bank.sources:
        assert len(source.reads) == len(set(source.reads))
        for name in SHAPES:
            source.tensors[name].zero_()
    assert all(same_bits(merged(bank)[name], before[name]) for name in SHAPES)


def test_types_of_results() -> None:
    bank = bank_of("ties", {}, True)
    assert bank.dtype_of("embed") == bank.model_dtype == torch.float32  # of bfloat16, float16 and float32
    assert bank.dtype_of("steps") == torch.int64
    assert merged(bank)["embed"].dtype == torch.float32
    half = bank_of("ties", {}, True, dtype=torch.bfloat16)
    assert half.dtype_of("embed") == half.model_dtype == merged(half)["embed"].dtype == torch.bfloat16
    assert half.dtype_of("steps") == torch.int64
    as_float = dict(half.merged({"embed": WEIGHTS, "steps": WEIGHTS}, torch.float32))
    assert [tensor.dtype for tensor in as_float.values()] == [torch.float32, torch.int64]
    assert floating_dtype([model("a", 0, torch.bfloat16), model("b", 0, torch.float16)]) == torch.float32


@pytest.mark.parametrize("residency", ["device", "host", "disk"])
@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "multislerp"])
def test_gradient_is_the_kernels(name: str, residency: Residency) -> None:
    bank, along = bank_of(name, {}, True, residency), torch.ones(61, 24)
    inputs = bank_of(name, {}, True).inputs("embed")
    kernel = METHODS[name].prepare(inputs, METHODS[name].settings({}, 3))
    expected = kernel.gradient(inputs, coefficients_of(WEIGHTS), along)
    assert torch.equal(bank.gradient("embed", WEIGHTS, along), expected)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda base, experts: Bank(METHODS["slerp"], base, experts), "slerp merges 1 models besides the base"),
        (lambda base, experts: Bank(METHODS["ties"], None, experts), "ties needs a base model"),
        (lambda base, experts: Bank(METHODS["ties"], base, experts, {"densty": 0.3}), "did you mean 'density'"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_any_read(make: Callable[..., Bank], said: str) -> None:
    base, experts = models(3)
    with pytest.raises(ConfigError, match=said):
        make(base, experts)
    assert not base.reads


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10


def peak(run: Callable[[], object]) -> int:
    # The most anonymous memory that was added while it ran, in bytes.
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed before would be taken again unseen
    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.0005):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most - before


@dataclass
class Made:
    """A source whose large tensor is made when it is read."""

    name: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"large": (4096, 2048)})
    dtypes: dict[str, torch.dtype] = field(default_factory=lambda: {"large": torch.bfloat16})

    def tensor(self, name: str) -> torch.Tensor:
        return self.rows(name, 0, 4096)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        seed = int(self.name)
        return torch.arange(start, stop).mul(seed + 1).remainder(97)[:, None].expand(-1, 2048).to(torch.bfloat16)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "breadcrumbs", "linear"])
def test_memory_of_a_merge_from_disk_does_not_grow_with_experts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 4 << 20)
    given = {"density": 0.3} if name in ("ties", "breadcrumbs") else {}

    def merge(experts: int) -> int:
        sources = [Made(str(i)) for i in range(experts + 1)]
        base = sources[0] if METHODS[name].base == "required" else None
        bank = Bank(METHODS[name], base, sources[1:], given, residency="disk")
        out = torch.zeros(4096, 2048, dtype=torch.bfloat16)
        return peak(lambda: bank.merge("large", [0.1] * experts, out))

    merge(2)  # what is allocated once
    few, many = merge(2), merge(10)
    assert many - few < 64 << 20  # the eight further experts are 128 MiB
