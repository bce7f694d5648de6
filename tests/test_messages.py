"""docs/errors.md lists every message of the code, and messages keep their form."""

from tests.messages import CLASSES, PAGE, messages, page


def test_the_page_lists_every_message() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make errors`"


def test_messages_state_a_rule_and_most_a_remedy() -> None:
    found = messages()
    assert {one.kind for one in found} == {*CLASSES}
    known = [one for one in found if one.text.startswith("{path}: must be a JSON object, but is a ")]
    assert [one.parts[2] for one in known] == ["download it again"]
    with_remedy = [one for one in found if one.parts[2]]
    assert len(with_remedy) > 0.75 * len(found)
