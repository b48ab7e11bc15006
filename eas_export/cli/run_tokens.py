"""eas-export run on a decoder with token ids and pixels: logits and tokens out."""

from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from ..backends.opening import open_runtime
from ..bundle.bundle import Bundle
from ..core.errors import UserError
from ..families import get_family
from ..generation.conversation import Conversation
from ..generation.generate import generate
from ..generation.stream import Token, answer
from ..generation.text_model import has_tokenizer, open_tokenizer
from ..inputs.npz import read_inputs, write_outputs
from .output import Table
from .run_options import DEFAULT_NEW_TOKENS, RunOptions


def run_tokens(bundle: Bundle, inputs: Path, options: RunOptions) -> tuple[dict, Table]:
    """What `--json` shows, and a table of it. Raises UserError for inputs that do not fit the bundle."""
    options.require_decoding()
    outputs, sampling, backend, progress = options.outputs, options.sampling, options.backend, options.progress
    max_new_tokens = options.max_new_tokens or DEFAULT_NEW_TOKENS
    config = bundle.manifest.config
    read = read_inputs(inputs, config, get_family(config.family))
    ends = open_tokenizer(bundle).ends if has_tokenizer(bundle) else ()
    with progress.stage("loading"):
        runtime = open_runtime(bundle, backend)
    with progress.stage("running"):
        if read.forced_tokens is not None and sampling.temperature > 0:
            fix = "leave --temperature out, or the array forced_tokens"
            raise UserError("there is nothing to sample: the inputs force tokens", where="--temperature", fix=fix)
        if read.forced_tokens is not None:
            forced = generate(runtime, read.prompts, forced=read.forced_tokens)
            logits, tokens, finish = forced.logits, forced.tokens, None
        else:
            conversation = Conversation(runtime, read.prompts, room=max_new_tokens)
            steps: list[torch.Tensor] = []

            def keep(_: list[Token]) -> None:
                if outputs:
                    steps.append(conversation.logits.cpu().clone())

            answers = answer(conversation, max_new_tokens, ends, sampling, on_step=keep)
            logits, finish = torch.stack(steps) if steps else None, [reply.finish for reply in answers]
            tokens = pad_sequence([torch.tensor(reply.tokens) for reply in answers], padding_value=-1)  # [steps, B]
    if outputs:
        write_outputs(outputs, logits, tokens)
    rows = [[token for token in row if token >= 0] for row in tokens.T.tolist()]
    ends = finish or ["forced"] * len(rows)
    lines = [[str(row), end, " ".join(map(str, ids))] for row, (end, ids) in enumerate(zip(ends, rows))]
    record = {"tokens": rows, "finish": finish, "outputs": str(outputs) if outputs else None, "backend": backend}
    return record, Table(f"{backend}, {len(tokens)} steps", ["row", "end", "tokens"], lines)
