"""What a schema lets through: JSON as `json.dumps` writes it, and nothing else."""

import json
from typing import Any

import pytest
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string

from datagen.engines.grammar import rules
from datagen.errors import EngineError
from datagen.questions import schema

LISTED = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}},
    },
    "required": ["n", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("form", "text", "follows"),
    [
        (schema(5), '{"question": "why ?"}', True),
        (schema(5), '{"question": "é ♥"}', True),
        (schema(5), '{"question": "why me"}', False),
        (schema(5), '{"question": ""}', False),
        (schema(5), '{"question":"why ?"}', False),
        (schema(5), '{"question": "why ?" }', False),
        (schema(5), '{"question": "why ?"}\n', False),
        (schema(5), '{"question": "a\tb"}', False),
        (schema(5), '{"question": "a\x0bb"}', False),
        (schema(5), '{"question": "a", "n": 1}', False),
        (schema(5), "{}", False),
        (LISTED, json.dumps({"n": -7, "kind": "b", "tags": ["x", "yes"]}), True),
        (LISTED, json.dumps({"n": 0, "kind": "a", "tags": []}), True),
        (LISTED, json.dumps({"n": 0, "kind": "a", "tags": ["four"]}), False),
        (LISTED, json.dumps({"n": 0, "kind": "c", "tags": []}), False),
        (LISTED, json.dumps({"n": 0.5, "kind": "a", "tags": []}), False),
        (LISTED, json.dumps({"n": 0, "kind": "a", "tags": []}, indent=1), False),
    ],
)
def test_rules(form: dict[str, Any], text: str, follows: bool) -> None:
    assert _is_grammar_accept_string(Grammar.from_ebnf(rules(form)), text) is follows


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(EngineError, match="a JSON schema must be one that xgrammar can follow, but it says: "):
        rules({"type": "what"})
