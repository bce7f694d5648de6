"""Changes to valid files, by bytes and by structure, drawn from a seeded generator."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import yaml

#: Values that files should not have, but do.
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 10**30, -(10**30), 2**63, 2**31, 10**400, 1e308, 5e-324),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "\n", "nan", ".inf", "1e-3", "yes", "null", "0x10"),
    *("2001-99-99", "\0", "a\0b", "\ud800", "\u2028", "\x85", "\u202etxt", "é" * 300, "a" * 20_000),
    *("(" * 60, "(a+)+$", ".*" * 20, "~root", ".", "..", "a/b", "a\\b", "-rf", "a+b", "a@b+c@d", "org/model@../x"),
    *("../../etc/passwd", "/etc/passwd", "!!python/object/apply:os.system", "*a", "&a", "<<", "{{ x }}"),
    *("${run}", "${oc.env:HOME}", "${oc.env:HOME,x}", "${a}", "${run}${run}", "${", "$ {x}", "${a.${b}}", "\\${run}"),
    *("{% for a in range(9) %}{{ a }}{% endfor %}", [], {}, [[]], [{}], {"": ""}, {"a": {"b": []}}, [None]),
    *([1, "a", {}], ["a", "a"], [float("nan")], {"model": None}),
]

_BYTES = [
    *(b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\r", b"\n", b"\t", b" ", b"---\n", b"...\n", b"!!"),
    *(b"%YAML 9\n", b"{", b"}", b"[", b"]", b":", b": ", b"- ", b"? ", b"*a", b"&a ", b"<<: *a\n", b"|", b">", b"'"),
    *(b'"', b"\\", b"#", b"[" * 500, b'{"a":' * 500, b"&a [*a, *a]", b"\\ud800", b"\\u0000", b"NaN", b"Infinity"),
    *(b"9" * 5000, b"1e999", b"-"),
]


class Mutator:
    """Draws changes.

    Args:
        rng: decides.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def odd(self) -> Any:
        """A value that should not be there."""
        return copy.deepcopy(self.rng.choice(ODD))

    def nested(self) -> Any:
        """A value that nests deep."""
        value: Any = 0
        for _ in range(self.rng.choice([10, 63, 64, 65, 300])):
            value = [value] if self.rng.random() < 0.5 else {"a": value}
        return value

    def changed(self, value: Any, changes: int) -> Any:
        """A value of JSON's kinds with some of its parts changed."""
        value = copy.deepcopy(value)
        for _ in range(changes):
            value = self._change(value)
        return value

    def _change(self, value: Any) -> Any:
        places = list(_places(value))
        if not places:
            return self.odd()
        around, key = self.rng.choice(places)
        _, other = self.rng.choice(places)
        kind = self.rng.randrange(9)
        if kind <= 2:
            around[key] = self.odd()
        elif kind == 3:
            del around[key]
        elif kind == 4:
            where, what = self.rng.choice(places)
            around[key] = copy.deepcopy(where[what])
        elif kind == 5:
            around[key] = [around[key]] if self.rng.random() < 0.5 else {str(other): around[key]}
        elif kind == 6 and isinstance(around, dict):
            around[str(self.odd()) if self.rng.random() < 0.5 else other] = around.pop(key)
        elif kind == 7 and isinstance(around, dict):
            around[self.rng.choice([str(self.odd()), other])] = self.odd()
        elif kind == 8 and self.rng.random() < 0.1:
            around[key] = self.nested()
        elif isinstance(around[key], int | float) and not isinstance(around[key], bool):
            around[key] = self.rng.choice(
                [-around[key], around[key] + 1, around[key] * 2, around[key] - 1, str(around[key])]
            )
        return value

    def scrambled(self, data: bytes, others: Sequence[bytes], changes: int) -> bytes:
        """Bytes with some of them changed."""
        for _ in range(changes):
            at = self.rng.randrange(len(data) + 1)
            end = min(len(data), at + self.rng.choice([1, 1, 2, 8, 64, 1024]))
            kind = self.rng.randrange(6)
            if kind == 0:
                data = data[:at] + self.rng.randbytes(end - at) + data[end:]
            elif kind == 1:
                data = data[:at] + data[end:]
            elif kind == 2:
                data = data[:end] + data[at:end] + data[end:]
            elif kind == 3:
                data = data[:at] + self.rng.choice(_BYTES) + data[at:]
            elif kind == 4 and self.rng.random() < 0.3:
                data = data[:at]
            elif others:
                other = self.rng.choice(others)
                start = self.rng.randrange(len(other) + 1)
                data = data[:at] + other[start : start + 200] + data[end:]
        return data

    def json(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A JSON file, changed."""
        return self._text(data, others, json.loads, lambda value: json.dumps(value).encode())

    def yaml(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A YAML file, changed."""
        return self._text(data, others, yaml.safe_load, _dump_yaml)

    def lines(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A JSONL file, changed in one line or everywhere."""
        lines = data.splitlines()
        at = self.rng.randrange(len(lines))
        lines[at] = self.json(lines[at], others)
        return b"\n".join(lines) + b"\n"

    def bytes(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Any file, changed."""
        return self.scrambled(data, others, self.rng.choice([1, 1, 2, 4]))

    def safetensors(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """A file of tensors, most often with another header."""
        if self.rng.random() < 0.3:
            return self.bytes(data[:4096], [])
        length = int.from_bytes(data[:8], "little")
        header = self.json(data[8 : 8 + length], [])
        told = len(header)
        if self.rng.random() < 0.2:
            told = self.rng.choice([0, 1, told - 1, told + 1, 2**32, 2**63, 2**64 - 1])
        return told.to_bytes(8, "little") + header + data[8 + length :]

    def _text(
        self, data: bytes, others: Sequence[bytes], load: Callable[[bytes], Any], dump: Callable[[Any], bytes]
    ) -> bytes:
        kind = self.rng.random()
        if kind < 0.3:
            return self.bytes(data, others)
        try:
            made = dump(self.changed(load(data), self.rng.choice([1, 1, 1, 2, 5])))
        except (ValueError, RecursionError, yaml.YAMLError):
            return self.bytes(data, others)
        return made.decode(errors="replace").encode("utf-16") if kind > 0.99 else made


def _dump_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=False).encode(errors="surrogatepass")


def _places(value: Any) -> Any:
    """Every list or mapping with every key of it."""
    waiting = [value]
    while waiting:
        around = waiting.pop()
        if isinstance(around, dict | list):
            for key in list(around) if isinstance(around, dict) else range(len(around)):
                yield around, key
                waiting.append(around[key])
