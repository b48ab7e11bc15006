"""A head that is tied to the embedding, in config.json, in the files or in both: what transformers' own LLaMA computes from the same folder,
on every backend and from one table."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from conftest import FP32, RUN_HERE, max_error, text_prompts
from engine_stand_in import open_stand_in
from reference.files import read_folder
from safetensors.torch import load_file, save_file
from synthetic_llava import LlavaShape, write_llava

from eas_export.backends.onnxruntime.cpu import PartedSession, _read, _sessions, import_onnxruntime
from eas_export.backends.onnxruntime.split import split
from eas_export.backends.opening import open_runtime
from eas_export.backends.runtime import Runtime
from eas_export.bench.llama import write_llama
from eas_export.bench.roofline import work_of
from eas_export.bundle.bundle import Bundle
from eas_export.checkpoint.hf_text import EMBED_KEY, HEAD_KEY
from eas_export.core.plan import make_plan
from eas_export.core.progress import Progress
from eas_export.families import NO_TOKENIZER, get_family, load_checkpoint
from eas_export.families.contract import Ranks, Sources
from eas_export.generation.generate import generate
from eas_export.inspect import inspect
from eas_export.pipeline import build, verify

SHAPE = LlavaShape(layers=2, kv_heads=2, vocab=80)
IDS, FORCED = [1, 5, 9, 33, 2, 71], [4, 79, 0]
NOTE = (
    "lm_head.weight is used as it is: it differs from model.embed_tokens.weight, though tie_word_embeddings is true",
)
CASES = {  # tie_word_embeddings, None where config.json does not say; the head in the files: its own, the embedding or none; whether tied
    "a head of its own": (True, "own", False),
    "the embedding twice": (True, "embedding", True),
    "no head": (True, None, True),
    "a head and no embedding": (True, "alone", True),
    "not tied": (False, "own", False),
    "nothing said": (None, "own", False),
    "not tied, though equal": (False, "embedding", False),
}


def write(folder: Path, tie: bool | None, head: str | None, form: str) -> Path:
    """A plain LLaVA whose head is made so. Of a .bin file, equal tensors share their storage, as save_pretrained writes them."""
    write_llava(folder, SHAPE, seed=3)
    tensors = {key: tensor.clone() for key, tensor in read_folder(folder).items() if ".adapter_attn." not in key}
    embedding = tensors[EMBED_KEY]
    if head == "alone":
        del tensors[EMBED_KEY]
    if head == "embedding":
        tensors[HEAD_KEY] = embedding if form == "bin" else embedding.clone()
    if head == "rounded":
        tensors[HEAD_KEY] = embedding.half()
    if head is None:
        del tensors[HEAD_KEY]
    (folder / "pytorch_model.bin").unlink()
    if form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tie}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def of_transformers(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, bool]:
    """The logits of the prompt's last token and of each forced one, and whether one table is both."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*IDS, *FORCED]])).logits[0, len(IDS) - 1 :]
    return logits, model.lm_head.weight is model.model.embed_tokens.weight


def logits_of(runtime: Runtime) -> torch.Tensor:
    return generate(runtime, text_prompts(IDS), forced=torch.tensor(FORCED)[:, None]).logits[:, 0]


def in_parts(bundle: Bundle) -> Runtime:
    m = bundle.manifest
    return Runtime("onnxruntime", m.config, m.plan, m.limits, _sessions(PartedSession, bundle, m.graphs))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("title", CASES)
def test_a_head_is_tied_where_transformers_ties_it(tmp_path, title, form):
    tie, head, tied = CASES[title]
    folder = write(tmp_path / "ckpt", tie, head, form)
    want, is_one = of_transformers(folder)
    assert is_one == tied and want.std() > 0.1
    built = build(folder, tmp_path / "out", max_prompt=64)
    bundle, tables = built.bundle, ["embed.weight"] if tied else ["embed.weight", "head.weight"]
    assert built.report.verdict == "same as the checkpoint" == verify(bundle, folder).verdict
    assert bundle.manifest.config.tied_head == tied
    notes = (*(NOTE if title == "a head of its own" else ()), NO_TOKENIZER)
    assert bundle.manifest.notes == inspect(folder).notes == notes
    opened = [open_runtime(bundle, name) for name in RUN_HERE]
    for runtime in (*opened, open_stand_in(bundle).runtime, in_parts(bundle)):
        assert max_error(logits_of(runtime), want) < FP32

    assert [name for name, entry in bundle.store.entries.items() if SHAPE.vocab in entry.shape] == tables
    others = (len(tables) * SHAPE.vocab + 1 + 2 * SHAPE.layers) * SHAPE.dim  # and the norms
    assert bundle.manifest.accounts.after.parameters["other"] == others
    for graph in ("prefill", "decode"):
        model = onnx.load(bundle.graph_file(graph), load_external_data=False).graph
        assert {*tables} <= {weight.name for weight in model.initializer if weight.external_data}


def test_a_rounded_copy_of_the_embedding_is_a_head_of_its_own(tmp_path):
    """As in transformers, where it is loaded without another rounding."""
    folder = write(tmp_path / "ckpt", True, "rounded", "safetensors")
    _, is_one = of_transformers(folder, torch.float32)
    checkpoint = load_checkpoint(Sources(folder))
    assert checkpoint.config.tied_head == is_one and not is_one and checkpoint.notes == NOTE
    assert checkpoint.tensors["embed.weight"].dtype == torch.float32


@pytest.mark.parametrize("title", ["a head of its own", "the embedding twice", "a head and no embedding"])
def test_what_training_writes_has_the_same_head(tmp_path, title):
    tie, head, tied = CASES[title]
    folder = write(tmp_path / "ckpt", tie, head, "bin")
    trainable = get_family("llava").train(Sources(folder), Ranks(4, 8), 0, torch.device("cpu"))
    (tmp_path / "written").mkdir()
    trainable.write((1,), tmp_path / "written", Progress())
    before, after = (load_checkpoint(Sources(place)) for place in (folder, tmp_path / "written"))
    trained = trainable.checkpoint
    assert before.config.tied_head == trained.config.tied_head == after.config.tied_head == tied
    assert before.notes == trained.notes == after.notes
    for name in ("embed.weight", *(() if tied else ("head.weight",))):
        assert torch.equal(before.tensors[name].read(), after.tensors[name].read())
    assert ("head.weight" in after.tensors) == ("head.weight" in trained.tensors) == (not tied)
    assert make_plan(2, after.evidence.text, "").skipped == (1,)


@pytest.fixture(scope="module")
def tied_and_not(tmp_path_factory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("tied")
    cases = {name: write(folder / name, *CASES[name][:2], "bin") for name in ("no head", "not tied")}
    return tuple(
        build(ckpt, folder / f"{name}.bundle", verify=False, max_prompt=64).bundle for name, ckpt in cases.items()
    )


def test_a_table_that_is_the_head_too_is_read_whole_and_once(tied_and_not):
    """Without a head of its own, a run reads as much but the rows that it looks up."""
    for graph, sizes, rows in (("decode", {"B": 3, "T": 9}, 3), ("prefill", {"B": 2, "S": 7, "M": 1, "T": 9}, 14)):
        tied, not_tied = (work_of(bundle, graph, sizes) for bundle in tied_and_not)
        assert not_tied.flops == tied.flops and not_tied.bytes - tied.bytes == rows * SHAPE.dim * 4


def test_a_llama_for_other_tools_has_one_table(tied_and_not, tmp_path):
    for bundle, tied in zip(tied_and_not, (True, False)):
        folder = tmp_path / str(tied)
        write_llama(bundle, folder)
        assert (HEAD_KEY in load_file(folder / "model.safetensors")) != tied
        got, is_one = of_transformers(folder)
        assert is_one == tied and max_error(logits_of(open_runtime(bundle, "onnxruntime")), got) < FP32


def test_bfloat16_in_parts_holds_no_widened_table_between_them(tied_and_not, tmp_path):
    """The table is read first and last."""
    folder = write(tmp_path / "ckpt", True, None, "bin")
    bundle = build(folder, tmp_path / "out", verify=False, max_prompt=64, precision="bf16").bundle
    for graph in ("prefill", "decode"):
        parts = split(_read(import_onnxruntime(), bundle.graph_file(graph)))
        reading = [any(i.name == "embed.weight" for i in part.model.graph.initializer) for part in parts]
        assert reading[0] and reading[-1] and not any(reading[1:-1]) and len(parts) > 2
        passed = {name for part in parts for name in (*part.inputs, *part.outputs)}
        assert passed and not [name for name in passed if "weight" in name]
    assert max_error(logits_of(in_parts(bundle)), logits_of(open_runtime(bundle, "onnxruntime"))) < FP32
