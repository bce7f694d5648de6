"""Chat templates of strangers: rendered once where they can do no harm, before anything is asked by them.

transformers renders them in jinja2's sandbox, from which they reach no file and no code; how long they run and how much
they write it does not limit.
"""

import subprocess
import sys
from functools import lru_cache

from datagen.errors import BunchError

#: What a template may take for a conversation of three turns: seconds, bytes of memory, and letters that it writes.
SECONDS, MEMORY, LETTERS = 3, 1 << 30, 1 << 20

#: Exit code for too many letters.
_TOO_LONG = 3

# The environment is that of transformers; what else a template objects to is told where it is used.
_PROBE = rf"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
def refuse(message):
    raise TemplateError(message)
made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
made.filters["tojson"] = lambda x, **_: json.dumps(x, ensure_ascii=False)
made.globals |= {{"raise_exception": refuse, "strftime_now": lambda told: told}}
turns = [{{"role": role, "content": "Why?"}} for role in ("user", "assistant", "user")]
written = 0
try:
    text = re.sub(r"{{%-?\s*(end)?generation\s*-?%}}", "", sys.stdin.buffer.read().decode())  # a mark of spans
    told = made.from_string(text)
    for part in told.generate(messages=turns, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"):
        written += len(part)
        if written > {LETTERS}:
            sys.exit({_TOO_LONG})
except MemoryError:
    raise
except Exception:
    pass
"""


@lru_cache(maxsize=256)
def check_template(template: str, where: str) -> None:
    """Renders a template in a process of its own, which may take so much and no more.

    Args:
        where: it stands, for messages.

    Raises:
        BunchError: it takes too long, too much memory, or writes without end.
    """
    if len(template) > LETTERS:
        raise BunchError(
            f"{where}: a chat template must have at most {LETTERS} letters, but has {len(template)}; use another"
        )
    try:
        done = subprocess.run(  # noqa: S603 - a template is its input, not its command
            [sys.executable, "-I", "-c", _PROBE],
            input=template.encode(errors="replace"),
            capture_output=True,
            timeout=40 * SECONDS,  # of a busy machine
            check=False,
        )
        failed = done.returncode
    except subprocess.TimeoutExpired:
        failed = -1
    if failed:
        raise BunchError(
            f"{where}: a chat template must render three turns in {SECONDS} s, {MEMORY >> 20} MiB and {LETTERS} "
            f"letters, but this one takes more; use another"
        )
