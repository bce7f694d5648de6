"""Devices by name, by what `nvidia-smi` says, and by measuring this machine."""

import subprocess

import pytest

from datagen.errors import ConfigError
from datagen.planning import hardware
from datagen.planning.hardware import DEVICES, Device, Machine, find_machine, machine_at_hand, measure, parse_nvidia


@pytest.mark.parametrize(
    ("name", "device", "count"),
    [
        ("H200", "H200", 1),
        ("h100 sxm5", "H100", 1),
        ("4xA100-80GB", "A100-80GB", 4),
        ("2 x NVIDIA GeForce RTX 4090", "RTX-4090", 2),
        ("NVIDIA L4", "L4", 1),
        ("a100", "A100-80GB", 1),
        ("rtx4090", "RTX-4090", 1),
        ("mi300x", "MI300X", 1),
    ],
)
def test_name(name: str, device: str, count: int) -> None:
    assert find_machine(name) == Machine(DEVICES[device], count)


@pytest.mark.parametrize(
    ("name", "close"), [("H20O", "'H200'"), ("A100-80", "'A100-80GB'"), ("2xRTX 409", "'RTX-4090'")]
)
def test_unknown_name_has_a_suggestion(name: str, close: str) -> None:
    with pytest.raises(ConfigError, match=f"got '{name}'; did you mean {close}"):
        find_machine(name)


def test_unlike_name_has_the_list() -> None:
    with pytest.raises(ConfigError, match="got 'abacus'; known: A100-40GB, A100-80GB, H100"):
        find_machine("abacus")


def test_figures_of_a_data_sheet() -> None:
    assert DEVICES["H200"] == Device("H200", 141e9, 4.8e12, 989e12)


@pytest.mark.parametrize(
    ("told", "device"),
    [
        ("NVIDIA H200, 143771", "H200"),
        ("NVIDIA A100-SXM4-40GB, 40960", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB, 81920", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe, 81920", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3, 81559", "H100"),
        ("NVIDIA H100 PCIe, 81559", "H100-PCIe"),
        ("NVIDIA H100 NVL, 95830", "H100-NVL"),
        ("NVIDIA L4, 23034", "L4"),
        ("NVIDIA L40S, 46068", "L40S"),
        ("NVIDIA GeForce RTX 4090, 24564", "RTX-4090"),
    ],
)
def test_a_known_card_has_its_data_sheet_and_its_own_memory(told: str, device: str) -> None:
    found = parse_nvidia(told)
    assert found is not None
    known = DEVICES[device]
    assert (found.device.name, found.device.bandwidth, found.device.flops) == (device, known.bandwidth, known.flops)
    assert found.device.memory == int(told.split(", ")[1]) * 2**20


@pytest.mark.parametrize(
    "told",
    [
        "Tesla T4, 15360",
        "NVIDIA GeForce RTX 4090 Laptop GPU, 16376",
        "NVIDIA GeForce RTX 4090 D, 24564",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb, 40192",
    ],
)
def test_of_an_unknown_card_only_the_memory_is_known(told: str) -> None:
    name, memory = told.split(", ")
    assert parse_nvidia(told) == Machine(Device(name, int(memory) * 2**20, None, None), 1, "nvidia-smi")


def test_several_cards() -> None:
    found = parse_nvidia("NVIDIA H200, 143771\nNVIDIA L4, 23034\n")
    assert found is not None
    assert (found.device.name, found.count) == ("L4", 2)


@pytest.mark.parametrize("told", ["", "\n", "No devices were found", "NVIDIA H200, [N/A]"])
def test_no_card(told: str) -> None:
    assert parse_nvidia(told) is None


def test_without_a_card_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda program: None)
    monkeypatch.setattr(hardware, "measure", lambda: (2e10, 1e11))
    found = machine_at_hand()
    assert found.device.cpu
    assert (found.count, found.device.bandwidth, found.device.flops) == (1, 2e10, 1e11)
    assert found.device.memory > 2**28


def test_a_driver_without_a_card_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(hardware.shutil, "which", lambda program: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", fails)
    monkeypatch.setattr(hardware, "measure", lambda: (2e10, 1e11))
    assert machine_at_hand().device.cpu


def test_what_is_measured_is_of_a_computer() -> None:
    bandwidth, flops = measure(megabytes=4, width=128)
    assert 1e8 < bandwidth < 1e13
    assert 1e7 < flops < 1e15
