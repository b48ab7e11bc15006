"""A process of its own that renders one chat template: a template is a program from a file, and only a process can be stopped and kept
small, whatever that program does. It imports nothing of this package.

A JSON object per line: first {"template", "values"}, then {"messages", "add_generation_prompt"} each time. The answer to each is
{"text"}, {"refused"} with the template's own words, or {"error"}.
"""

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any, ClassVar

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace

SECONDS = 3  # for one text, which takes milliseconds
MEMORY = 1 << 29  # bytes of address space
LONGEST_TEXT = 1 << 22  # characters


class Refused(TemplateError):
    """Raised by the template itself."""


class Generation(Extension):
    """{% generation %}: what stands in it is the model's, which only training asks for."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> nodes.Scope:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """As transformers has it: without HTML's escapes"""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def refuse(words: object) -> None:
    raise Refused(str(words))


class PlainNamespace(Namespace):
    """namespace() without names that begin with an underscore, which are Python's own."""

    def __init__(self, *values: Any, **named: Any) -> None:
        for name in dict(*values, **named):
            _require_plain(name)
        super().__init__(*values, **named)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_plain(name)
        super().__setitem__(name, value)


def _require_plain(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace has no {name}")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends an answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "dict": lambda *values, **named: dict(*values, **named),  # not the class itself
        "namespace": PlainNamespace,
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    given = json.loads(sys.stdin.readline())
    template = None
    for line in sys.stdin:
        signal.alarm(SECONDS)  # ends the process
        try:
            if template is None:
                template = environment.from_string(given["template"])
            text = template.render(**given["values"], **json.loads(line), tools=None, documents=None)
            answer = {"text": text} if len(text) <= LONGEST_TEXT else {"error": f"its text has {len(text)} characters"}
        except Refused as error:
            answer = {"refused": " ".join(str(error.message).split())[:1000]}
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY >> 20} MB"}
        except Exception as error:  # whatever a program may raise
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
        signal.alarm(0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
