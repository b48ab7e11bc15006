"""A model's chat template: a jinja2 program that makes one text of a conversation's messages, as transformers' apply_chat_template.

Source: chat_template.jinja or, without one, chat_template in tokenizer_config.json, a text or a list of {"name", "template"} with a
"default". It sees messages, add_generation_prompt, the special tokens by name, raise_exception and strftime_now; tools and documents are None.
"""

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...checkpoint.hf_files import CHAT_TEMPLATE, TOKENIZER_CONFIG
from ...core.errors import UserError
from ...system.files import require_file

LONGEST = 1 << 17  # characters; published templates have some thousands
PROCESS = Path(__file__).with_name("template_process.py")
ANSWER = "\ue000answer\ue001"  # in no text
REWRITES = "the chat template rewrites earlier turns: in a conversation they stay as the model read and wrote them"
FIX = "correct the template in the model's folder and build again with --force, or ask with --prompt, which is read as it is"

Message = dict[str, str]  # {"role": "system", "user" or "assistant", "content": text}


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


class Refusal(UserError):
    """A template refuses the messages, in its own words."""


def find_template(files: Mapping[str, Path], recorded: Mapping[str, str]) -> tuple[Path, str] | None:
    """The file that has the model's chat template, and the template; None without one. Raises UserError for one that is no template, and
    where none of several is the default.

    recorded  the templates of tokenizer_config.json by name, which count where there is no file of its own
    """
    if CHAT_TEMPLATE in files:
        path = files[CHAT_TEMPLATE]
        try:
            text = require_file(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise UserError("the chat template is not UTF-8 text", where=path, fix=FIX) from None
    elif recorded:
        path, text = files[TOKENIZER_CONFIG], recorded.get("default")
        if text is None:
            what = f"none of the {len(recorded)} chat templates has the name default"
            raise UserError(what, where=path, fix="give one of them that name")
    else:
        return None
    if len(text) > LONGEST:
        what = f"the chat template has {len(text)} characters, at most {LONGEST} are read"
        raise UserError(what, where=path, fix=FIX)
    return path, text


class ChatTemplate:
    """Renders in a process of its own, which starts with the first text and ends with this one's."""

    def __init__(self, path: Path, template: str, values: Mapping[str, str]):
        """values: the special tokens by name"""
        self._path, self._given = path, {"template": template, "values": dict(values)}
        self._process: subprocess.Popen | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """The messages' text up to the answer. Raises UserError, where the template refuses the messages in its own words, and for
        a template that fails, takes too long or too much memory."""
        answer = self._ask({"messages": list(messages), "add_generation_prompt": True})
        if "refused" in answer:
            what = f"the model's chat template refuses the messages: {answer['refused']}"
            raise Refusal(what, where=self._path, fix="ask without what it refuses, or with --prompt, read as it is")
        if "error" in answer:
            raise UserError(f"the chat template fails ({answer['error']})", where=self._path, fix=FIX)
        return answer["text"]

    def turn(self, earlier: Sequence[Message], asked: Message) -> str:
        """What a later turn adds to the messages' text behind the answer to `earlier`, whatever that answer is. Raises UserError as
        `render` does, and for a template that leaves answers out."""
        text = self.render([*earlier, message("assistant", ANSWER), asked])
        _, found, added = text.partition(ANSWER)
        if not found:
            what = "the chat template leaves out earlier answers"
            raise UserError(what, where=self._path, fix="ask one question in each conversation")
        return added

    def notes(self) -> tuple[str, ...]:
        """What the user should know of the template, a sentence each: that it fails, or rewrites what came before a later turn."""
        answer, first, last = "<think>\nA\n</think>\n\nB", message("user", "Q"), message("user", "R")
        said: tuple[str, ...] = ()
        for begin in ([message("system", "S"), first], [first]):
            try:
                before, after = self.render(begin), self.render([*begin, message("assistant", answer), last])
            except Refusal as error:  # a template may take no system message
                said = (error.what,)
                continue
            except UserError as error:
                return (error.what,)
            if answer not in after or not after.startswith(before.rstrip()):
                return (REWRITES,)
            said = ()
        return said

    def _ask(self, request: dict) -> dict:
        lines = [request]
        if self._process is None:
            command, pipe = [sys.executable, "-P", str(PROCESS)], subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
            self._end = weakref.finalize(self, _end, self._process)
            lines = [self._given, request]
        process = self._process
        try:
            process.stdin.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer:
            return json.loads(answer)
        late = process.wait() == -signal.SIGALRM
        self._process = None
        self._end()
        return {"error": "it takes too long" if late else "its process ended"}


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()
