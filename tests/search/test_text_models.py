"""`eas-export search` of Hugging Face's text decoders: what is written is the published model with the adapters that were trained."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import max_error
from hf_models import make_folder
from reference.hf_decoder import HfReference
from safetensors.torch import load_file, save_file
from search_cases import TEXT_VOCABULARY, write_text_questions, write_text_tokenizer

import eas_export
from eas_export.core.precision import PRECISIONS
from eas_export.families import get_family, load_checkpoint, make_tokenizer
from eas_export.families.contract import Ranks, Sources
from eas_export.generation.generate import generate
from eas_export.search import search
from eas_export.search.examples import Examples, batch_at
from eas_export.search.report import SearchReport
from eas_export.search.subnetwork import Supernet, make_batch

OPTIONS = dict(steps=12, warm_up=4, every=4, tune_steps=6, batch=4, kept_rank=4, skipped_rank=8, learning_rate=1e-2)
FORMS = {  # fused keys; norms with an offset around each part, softcaps; norms of q and k
    "phi3": {"tie_word_embeddings": False},
    "gemma2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False},
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    return write_text_questions(tmp_path_factory.mktemp("data") / "train.jsonl")


@pytest.fixture(scope="module", params=FORMS)
def searched(request, questions, tmp_path_factory) -> tuple[Path, Path, SearchReport]:
    """The plain folder, the written one, and the report."""
    folder = tmp_path_factory.mktemp(request.param)
    plain = make_folder(folder / "plain", request.param, vocab_size=TEXT_VOCABULARY, **FORMS[request.param])
    write_text_tokenizer(plain)
    return plain, folder / "found", search(plain, questions, folder / "found", count=2, **OPTIONS)


def test_the_loss_falls(searched):
    losses = searched[2].held_out
    assert losses.tuned < losses.chosen and losses.tuned < losses.untrained - 0.5


def test_the_written_folder_is_the_published_one_with_adapters(searched):
    """To the byte, without what skipped layers do not need; a tied head is stored as the embedding alone."""
    plain, found, report = searched
    before, after = (load_file(folder / "model.safetensors") for folder in (plain, found))
    gone = tuple(f"model.layers.{i}.self_attn." for i in report.skipped)
    parts = {i: "replaced_adapter" if i in report.skipped else "adapter_attn" for i in range(4)}
    base = {key: tensor for key, tensor in before.items() if not key.startswith(gone)}
    assert all(torch.equal(after[key], tensor) and after[key].dtype == tensor.dtype for key, tensor in base.items())
    assert {key.rsplit(".", 2)[0] for key in after.keys() - base.keys()} == {
        f"model.layers.{i}.{part}" for i, part in parts.items()
    }
    for name in ("config.json", "generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (found / name).read_bytes() == (plain / name).read_bytes()


def test_the_bundle_of_it_answers_as_the_naive_transcription(searched, questions, tmp_path):
    """Which reads the written files alone: with the loss that the search reports."""
    _, found, report = searched
    checkpoint, losses = load_checkpoint(Sources(found)), []
    tokenizer = make_tokenizer(checkpoint.tokenizer, checkpoint.config)
    examples = Examples(questions, checkpoint.config, get_family("hf"), tokenizer)
    limits = examples.limits.model_dump(include={"max_prompt", "max_tokens"})
    bundle = eas_export.build(found, tmp_path / "o", verify=False, fold="lowrank", **limits).bundle
    assert bundle.manifest.plan.skipped == report.skipped
    runtime, reference = eas_export.open_runtime(bundle, "onnxruntime"), HfReference(found)
    for row in batch_at(0, len(examples), len(examples), 0)[:2]:  # held out
        prompt, answer = examples[row].prompt, examples[row].answer
        got = generate(runtime, prompt, forced=answer[:-1, None])
        want = reference.run(prompt.input_ids[0].tolist(), answer[:-1].tolist())["logits"]
        assert max_error(got.logits[:, 0], want) < 1e-4 * want.std()
        losses += F.cross_entropy(torch.as_tensor(want), answer, reduction="none").tolist()
    assert report.held_out.tuned == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_what_is_trained_is_what_transformers_computes(tmp_path, questions):
    """With no trained adapter yet, none skipped: the loss of transformers' model, in every form."""
    from transformers import AutoModelForCausalLM

    for model_type, form in FORMS.items():
        plain = make_folder(tmp_path / model_type, model_type, vocab_size=TEXT_VOCABULARY, **form)
        write_text_tokenizer(plain)
        checkpoint = get_family("hf").train(Sources(plain), Ranks(4, 8), 0, torch.device("cpu")).checkpoint
        tokenizer = make_tokenizer(checkpoint.tokenizer, checkpoint.config)
        examples = Examples(questions, checkpoint.config, get_family("hf"), tokenizer)
        supernet, example = Supernet(checkpoint, PRECISIONS["fp32"], examples.limits, torch.device("cpu")), examples[0]
        got = supernet.loss((), make_batch([example], 0)).detach()
        prompt = example.prompt.input_ids[0]
        labels = torch.cat([torch.full_like(prompt, -100), example.answer])[None]
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
        with torch.no_grad():
            want = model(torch.cat([prompt, example.answer])[None], labels=labels).loss
        assert float(got) == pytest.approx(float(want), abs=1e-5)


def test_one_embedding_where_files_hold_a_tied_pair(tmp_path, questions):
    plain = make_folder(tmp_path / "plain", "llama", vocab_size=TEXT_VOCABULARY, tie_word_embeddings=True)
    write_text_tokenizer(plain)
    tensors = load_file(plain / "model.safetensors")
    both = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(both, plain / "model.safetensors", {"format": "pt"})
    search(plain, questions, tmp_path / "found", skip="1", **OPTIONS | {"tune_steps": 1})
    assert "lm_head.weight" not in load_file(tmp_path / "found" / "model.safetensors")
    assert load_checkpoint(Sources(tmp_path / "found")).config.tied_head


def test_mistakes_say_what_to_do(tmp_path, questions, refused):
    plain = write_text_tokenizer(make_folder(tmp_path / "plain", "llama", vocab_size=TEXT_VOCABULARY))
    begin = ("search", "--ckpt", plain, "--out", tmp_path / "o", "--count", 1)
    assert "a hf checkpoint does not take --vision" in refused(*begin, "--data", questions, "--vision", plain)
    picture = tmp_path / "picture.jsonl"
    (tmp_path / "cat.png").write_bytes(b"x")
    picture.write_text(json.dumps({"question": "What?", "image": "cat.png", "answer": "x"}) + "\n")
    said = refused(*begin, "--data", picture)
    assert "line 1: image" in said and "the model takes text only" in said
    assert not (tmp_path / "o").exists()
