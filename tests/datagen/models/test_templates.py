"""Chat templates that would never end are refused; the sandbox they are rendered in gives them nothing."""

import pytest

from datagen.chat import prompt_ids, user
from datagen.errors import BunchError, DataError
from datagen.models.templates import check_template
from tests.optimizer.export.families import tokenizer

HARMLESS = "{% for m in messages %}{% generation %}{{ m.content | tojson }}{% endgeneration %}{% endfor %}"


@pytest.mark.parametrize("template", [HARMLESS, "{{ raise_exception('no') }}", "{% if"])
def test_templates_that_end(template: str) -> None:
    check_template(template, "here")


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", id="time"),
        pytest.param("{{ ('a' * 2000000000) | length }}", id="memory"),
        pytest.param("{% generation %}{{ ('a' * 2000000000) | length }}{% endgeneration %}", id="in a span"),
        pytest.param("{% for a in range(99999) %}{{ 'a' * 99 }}{% endfor %}", id="letters"),
        pytest.param("a" * (1 << 20) + "a", id="long"),
    ],
)
def test_templates_that_take_too_much(template: str) -> None:
    with pytest.raises(BunchError, match=r"^here: a chat template must "):
        check_template(template, "here")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('touch here').read() }}",
    ],
)
def test_the_sandbox_of_transformers_gives_templates_nothing(template: str) -> None:
    with pytest.raises(DataError, match=r"^a chat template must take every conversation, but that of .*says .*unsafe"):
        prompt_ids(tokenizer(48, template), user("a"))
