"""onnxruntime-genai as its users run it: a plain bundle's Llama, exported by its model builder, in its generation loop.

Nothing is tuned, neither down nor up: the builder and the library choose the graph, the session's options and the number of threads.
For the CPU the builder makes models in fp32 and fp16; fp16 models with grouped keys fail in their first step (ONNX Runtime 1.32).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..backends.onnxruntime.cpu import SILENT
from ..core.errors import UserError
from ..system.packages import install_command
from .llama import END
from .settings import Workload
from .stages import ANSWER, DECODE, PREFILL, Part, Parts, Work, prompt_ids

NAME = "onnxruntime-genai"
ROOM = 32  # steps, at least, before a timed model is rewound
BUILT = ("fp32", "fp16")  # precisions of the builder's models for the CPU


def require_genai(precision: str) -> None:
    """Raise UserError where no model of this precision can be made here."""
    if precision not in BUILT:
        what = f"onnxruntime-genai's model builder has no {precision} for the CPU"
        raise UserError(what, where=NAME, fix=f"build the bundle with --precision {' or '.join(BUILT)}")
    _require("onnxruntime_genai", "transformers")


def export_genai(folder: Path, out: Path, precision: str) -> None:
    """Run the model builder for the CPU, in a process of its own and without the network.

    folder     of a Hugging Face Llama (see llama.write_llama), which the builder loads whole
    out        the folder it makes: model.onnx, its weights, genai_config.json
    precision  fp32 or fp16

    Raises UserError for another precision, where a package is missing, and with the builder's last line where it fails.
    """
    require_genai(precision)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", precision]
        command += ["-i", str(folder), "-o", str(out), "-c", cache]
        environment = os.environ | SILENT | {"HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode} without a message"]
        fix = f"check that the model fits in memory, leave {NAME} out of --against, or {install_command('bench', NAME, option='-U')}"
        raise UserError(
            f"onnxruntime-genai's model builder failed: {lines[-1].strip()}", where=f"{NAME}, {folder}", fix=fix
        )


def open_genai(folder: Path) -> "GenaiModel":
    """The model that `export_genai` made.

    Raises UserError where the library is missing, and for a folder that the library does not open.
    """
    _require("onnxruntime_genai")
    os.environ.update(SILENT)  # it sends telemetry as ONNX Runtime does
    import onnxruntime_genai as og

    with _errors(folder):
        return GenaiModel(folder, og.Model(str(folder)))


def genai_parts(folder: Path, workload: Workload) -> Parts:
    """The parts of the model: no vision, no fold. An answer's steps go through the library's own loop."""
    model = open_genai(folder)
    config = json.loads((folder / "genai_config.json").read_text())["model"]
    room = min(max(workload.new_tokens, ROOM), config["context_length"] - workload.prompt_tokens - 1)

    def prompts(rows: int) -> np.ndarray:
        return prompt_ids(config["vocab_size"], rows, workload.prompt_tokens).numpy()

    def answer() -> None:
        model.prefill(prompt, workload.new_tokens)
        for _ in range(workload.new_tokens):
            model.step()

    prompt = prompts(1)
    parts = {PREFILL: Part(lambda: lambda: model.prefill(prompt, workload.new_tokens)), ANSWER: Part(lambda: answer)}
    steps = {
        DECODE.format(rows): Part(lambda rows=rows: _steps(model, prompts(rows), room)) for rows in workload.batches
    }
    return parts | steps


def _steps(model: "GenaiModel", ids: np.ndarray, room: int) -> Work:
    """Step after step, back at the end of the prompts when the caches are full."""
    model.prefill(ids, room)
    taken = 0

    def step() -> None:
        nonlocal taken
        if taken == room:
            model.rewind()
            taken = 0
        model.step()
        taken += 1

    return step


class GenaiModel:
    """A model of onnxruntime-genai that generates greedily and never ends by itself: its end token is never chosen.

    tokens  [B] int32: the last choice, which the next step is fed
    """

    def __init__(self, folder: Path, model: object):
        self.folder, self.tokens = folder, np.empty(0, np.int32)
        self._model, self._generator = model, None
        self._prompt, self._room, self._first = np.empty((0, 0), np.int32), 0, self.tokens  # of the last prefill

    def prefill(self, ids: np.ndarray, room: int) -> None:
        """Read prompts of one length and choose each one's first token.

        ids   [B, S] integers other than 2, the end token, which the library takes for padding, or for an answer's end
        room  steps that may follow, which decides how large the caches are

        Raises UserError for ids with the end token, and where the library fails, as all methods do.
        """
        import onnxruntime_genai as og

        if (ids == END).any():
            raise UserError(f"a prompt holds the end token, {END}", where="input_ids", fix="leave it out")
        self._prompt, self._room = np.ascontiguousarray(ids, np.int32), room
        rows, length = ids.shape
        with _errors(self.folder):
            params = og.GeneratorParams(self._model)
            tokens = length + 1 + room
            params.set_search_options(batch_size=rows, do_sample=False, max_length=tokens, min_length=tokens)
            self._generator = og.Generator(self._model, params)
            self._generator.append_tokens(self._prompt)  # runs the model
        self.step()  # chooses from the logits that are there, and runs nothing
        self._first = self.tokens

    def step(self) -> None:
        """Feed the tokens chosen last, and choose the next ones."""
        with _errors(self.folder):
            self._generator.generate_next_token()
            self.tokens = self._generator.get_next_tokens().copy()

    def rewind(self) -> None:
        """Go back to the end of the prefill, so that the same steps can run again. A single prompt keeps its caches; several are prefilled
        again, as the library cannot rewind them."""
        rows, length = self._prompt.shape
        if rows > 1:
            self.prefill(self._prompt, self._room)
        else:
            with _errors(self.folder):
                self._generator.rewind_to(length)  # it still has its choice there, and feeds that next
                self.tokens = self._first

    def logits(self) -> np.ndarray:
        """[B, vocab] float32: what `tokens` were chosen from, -inf for the end token. After `rewind` still those of the last step."""
        with _errors(self.folder):
            logits = self._generator.get_output("logits")[:, -1].astype(np.float32)  # a prefill's are [B, S, vocab]
        logits[:, END] = -np.inf  # the library does so in some steps
        return logits


def _require(*packages: str) -> None:
    for name in packages:
        if find_spec(name) is None:
            what = f"{name} is not installed"
            raise UserError(what, where=NAME, fix=install_command("bench"))


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    """Raise the library's errors as UserError."""
    try:
        yield
    except RuntimeError as error:
        what = (str(error).strip() or "onnxruntime-genai failed without a message").splitlines()[0]
        fix = f"build the bundle with --precision fp32, or {install_command('bench', NAME, option='-U')}"
        raise UserError(what, where=f"{NAME}, {folder}", fix=fix) from error
