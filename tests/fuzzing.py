"""Reading damaged files: what is damaged, and how it is read.

A case is decided by its target's name and a number. Its input is either taken or refused with a UserError; anything else is a
failure: another exception, ten seconds, a gigabyte, code that is run, a process or a connection, a write outside the folder.
"""

import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from fuzz_guard import GUARD, HANG_SECONDS, Hang
from mutations import (
    HOSTILE_JSON,
    TorchZip,
    damaged_bytes,
    damaged_json,
    damaged_yaml,
    npy,
    resized_png,
    zeros_deflated,
)
from PIL import Image
from safetensors.torch import save_file
from synthetic_llava import LlavaShape, write_llava
from synthetic_meter import MeterShape, write_meter

from eas_export.backends.opening import require_own_graphs_and_weights
from eas_export.build.accounting import account
from eas_export.build.recipe import resolve
from eas_export.bundle.bundle import Bundle, looks_like_bundle, open_bundle, with_digest
from eas_export.bundle.store import Store
from eas_export.checkpoint.hf_files import TOKENIZER_JSON
from eas_export.checkpoint.torch_zip import read_torch_zip, state_dict_of
from eas_export.cli.inspect import accounts_table, memory_table, model_table
from eas_export.cli.report import print_report
from eas_export.core.errors import UserError
from eas_export.core.plan import SkipEvidence, choose_plan, make_plan
from eas_export.core.precision import PRECISIONS
from eas_export.demo import RECIPE
from eas_export.families import FAMILIES, detect, get_family, load_checkpoint, make_tokenizer
from eas_export.families.contract import Sources
from eas_export.families.processing.hf_tokenizer import HuggingFaceTokenizer
from eas_export.families.processing.image_processor import read_image
from eas_export.families.processing.tokenizer import Tokenizer, find_tokenizer
from eas_export.families.processing.tokenizer_json import llama_tokenizer, merges_of
from eas_export.inputs.npz import read_inputs
from eas_export.inputs.questions import encode_question, read_questions
from eas_export.networks.memory import request_memory
from eas_export.networks.parameters import network_parameters
from eas_export.networks.prune import prune
from eas_export.pipeline import _kept_report

for name in FAMILIES:  # each is asked whether a file is its own: imported before what a case does is watched
    get_family(name)
CHECKPOINT = Path(__file__).parent / "tiny" / "lavin"

MAX_GROWTH_BYTES = 1 << 30
METER_SHAPE = MeterShape(
    **dict(
        dim=16, heads=2, layers=1, ffn=16, rank=2, skipped_rank=2, vocab=20, positions=12, text_layers=1, text_ffn=16
    ),
    **dict(vit_width=64, vit_blocks=1, patch=8, image=16, text_length=5, answers=3),
)


@dataclass(frozen=True)
class Target:
    """write: puts a case's input into a folder and gives its path; read: reads it as the package does

    share  of all cases, in parts
    """

    write: Callable[[Random, Path], Path]
    read: Callable[[Path], object]
    share: int


_IM = {"content": "<im>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True, "special": False}
BESIDE_TOKENIZER = {
    "tokenizer_config.json": {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "eos_token": {"__type": "AddedToken", "content": "</s>", "normalized": False},
        "extra_special_tokens": ["<s>", "</s>"],
        "added_tokens_decoder": {"2": {"content": "</s>", "special": True}, "128": _IM},
    },
    "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "<im>"},
    "added_tokens.json": {"<im>": 128, "<pad>": 129},
    "generation_config.json": {"eos_token_id": [2, 7]},
    "config.json": {"model_type": "llava_llama", "eos_token_id": 2},
}


@dataclass
class Tally:
    """What came of a target's cases."""

    cases: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


class Fuzzer:
    """The table of targets over one checkpoint and its bundle."""

    def __init__(self, scratch: Path, bundle: Bundle):
        self.scratch, self.bundle = scratch, bundle
        sys.dont_write_bytecode = True  # a module imported late would be a write outside the folder
        self.checkpoint = detect(CHECKPOINT).load(Sources(CHECKPOINT))
        self.config = self.checkpoint.config
        self.family = get_family(self.config.family)
        self.tokenizer = Tokenizer(self.checkpoint.tokenizer, self.config.vocab_size)
        pieces = self.tokenizer._model.id_to_piece(list(range(self.config.vocab_size)))
        vocab = {piece: number for number, piece in enumerate(pieces)}
        self._tokenizer_json = llama_tokenizer(vocab, merges_of(vocab, vocab), "first").to_str()
        self.targets = {
            "torch zip": Target(self._write_torch_zip, _read_torch_zip, 24),
            "checkpoint": Target(self._write_checkpoint, self._read_checkpoint, 8),
            "params.json": Target(self._write_params, self._read_checkpoint, 4),
            "checkpoint folder": Target(self._write_folder, self._read_checkpoint, 4),
            "Hugging Face folder": Target(self._write_hugging_face, _read_hugging_face, 12),
            "LoRA folder": Target(self._write_lora, self._read_lora, 6),
            "lightning": Target(self._write_lightning, _read_lightning, 6),
            "manifest": Target(self._write_manifest, _read_bundle, 10),
            "weights": Target(self._write_weights, _read_store, 10),
            "report": Target(self._write_report, _read_report, 5),
            "recipe": Target(self._write_recipe, lambda path: resolve(path, {}), 8),
            "skip list": Target(_write_skip, self._read_skip, 5),
            "npz": Target(self._write_npz, self._read_npz, 8),
            "questions": Target(self._write_questions, self._read_questions, 6),
            "image": Target(self._write_image, self._read_image, 8),
            "tokenizer": Target(self._write_tokenizer, self._read_tokenizer, 8),
        }

    def shares(self, cases: int) -> dict[str, int]:
        """So many cases, dealt out to the targets."""
        parts = sum(target.share for target in self.targets.values())
        dealt = {name: cases * target.share // parts for name, target in self.targets.items()}
        return dealt | {"torch zip": dealt["torch zip"] + cases - sum(dealt.values())}

    def run(self, name: str, numbers: range) -> Tally:
        """A target's cases of these numbers."""
        tally = Tally()
        for number in numbers:
            seconds, refused, failure = self._run_case(name, number)
            tally.cases += 1
            tally.refused += refused
            tally.accepted += not refused and not failure
            tally.slowest_seconds = max(tally.slowest_seconds, seconds)
            tally.failures += [f"{name} {number}: {failure}"] if failure else []
        return tally

    def _run_case(self, name: str, number: int) -> tuple[float, bool, str | None]:
        """Seconds, whether it was refused, and what was wrong."""
        folder = self.scratch / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target, here = self.targets[name], os.getcwd()
        path = target.write(Random(f"{name} {number}"), folder)
        os.chdir(folder)  # where a command from a file would leave its trace
        refused, failure, before, start = False, None, _peak_bytes(), time.monotonic()
        try:
            with GUARD(folder):
                target.read(path)
        except UserError as error:
            refused = True
            failure = None if error.what and error.where and error.fix else f"it says too little: {error}"
        except Hang:
            failure = f"it took {HANG_SECONDS} s"
        except Exception as error:  # whatever it is, it is a failure
            failure = f"{type(error).__name__}: {error}"[:300]
        finally:
            os.chdir(here)
        seconds = time.monotonic() - start
        grown = _peak_bytes() - before
        if grown > MAX_GROWTH_BYTES:
            failure = f"it took {grown} bytes"
        if GUARD.seen or (folder / "it_ran").exists():
            failure = f"it did {GUARD.seen or 'run code'}"
        return seconds, refused and not failure, failure

    @cached_property
    def _zips(self) -> dict[Path, TorchZip]:
        """The checkpoint's own, by their place in its folder."""
        files = (path for path in self.checkpoint.files if path.suffix == ".pth")
        return {path.relative_to(CHECKPOINT): TorchZip(path.read_bytes()) for path in files}

    @cached_property
    def _small_zips(self) -> list[TorchZip]:
        from argparse import Namespace
        from collections import OrderedDict

        args = Namespace(
            skip_list="[1, 2]", temperature=10.0, adapter_scale=1.0, device=torch.device("cpu"), layers={1}
        )
        shared = torch.arange(24.0)
        saved = (
            {"model": OrderedDict(w=shared.reshape(4, 6), v=shared[3:9], n=torch.arange(5)), "epoch": 1, "args": args},
            {"a": torch.ones(2, 3).half(), "b": torch.zeros(0, 3), "c": torch.nn.Parameter(torch.ones(3).bfloat16())},
        )
        zips = []
        for value in saved:
            for protocol in (2, 4):
                packed = io.BytesIO()
                torch.save(value, packed, pickle_protocol=protocol)
                zips.append(TorchZip(packed.getvalue()))
        return zips

    def _write_torch_zip(self, rng: Random, folder: Path) -> Path:
        damaged = rng.choice(self._small_zips).damaged(rng, rng.choice(self._small_zips))
        return _written(folder / "file.pth", damaged)

    def _write_checkpoint(self, rng: Random, folder: Path) -> Path:
        name = rng.choice(list(self._zips))
        return _with_links(
            CHECKPOINT, folder, {name: self._zips[name].damaged(rng, rng.choice(list(self._zips.values())))}
        )

    @cached_property
    def _lightning_zips(self) -> list[TorchZip]:
        """A small checkpoint of METER's, with what training leaves in one, in two protocols."""
        whole = write_meter(self.scratch / "meter", METER_SHAPE)
        _read_lightning(whole)  # a module imported late would be code that is run
        saved = torch.load(whole, weights_only=True)
        saved |= {
            "callbacks": {Random: {"state": Random(1)}},
            "lr_schedulers": [partial(int, base=2)],
            "zip": [Fraction(1)],
        }
        zips = []
        for protocol in (2, 4):
            packed = io.BytesIO()
            torch.save(saved, packed, pickle_protocol=protocol)
            zips.append(TorchZip(packed.getvalue()))
        return zips

    def _write_lightning(self, rng: Random, folder: Path) -> Path:
        damaged = rng.choice(self._lightning_zips).damaged(rng, rng.choice(self._lightning_zips))
        return _written(folder / "last.ckpt", damaged)

    def _write_params(self, rng: Random, folder: Path) -> Path:
        name = self.checkpoint.files[1].relative_to(CHECKPOINT)
        return _with_links(CHECKPOINT, folder, {name: damaged_json(rng, self.checkpoint.files[1].read_text())})

    @cached_property
    def _llava(self) -> list[Path]:
        """One folder in each form of its weights, each read once: what is imported late is not held against a case."""
        forms = ("safetensors", "shards", "shards of bin")
        shapes = {form: LlavaShape(layers=3, skip=(1,), form=form) for form in forms}
        folders = [write_llava(self.scratch / f"llava {form}", shape) for form, shape in shapes.items()]
        for folder in folders:
            _read_hugging_face(folder)
        return folders

    @cached_property
    def _lora(self) -> Path:
        """Over the first LLaVA: a pair in each layer with an attention, some keys that few files have, and the projector beside."""
        folder = self.scratch / "lora"
        folder.mkdir()
        config = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 16.0,
            "use_rslora": False,
            "use_dora": False,
            "bias": "none",
        }
        config |= {"rank_pattern": {"layers.2.*q_proj": 2}, "alpha_pattern": {r"^model\.layers\.\d+\.mlp": 4}}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        names = [f"base_model.model.model.layers.{i}.self_attn.q_proj.lora" for i in (0, 2)]
        shapes = {"A": (2, 64), "B": (64, 2)}
        pairs = {f"{n}_{half}.weight": torch.ones(shape) for n in names for half, shape in shapes.items()}
        save_file(pairs, folder / "adapter_model.safetensors")
        norm = {"base_model.model.model.norm.weight": torch.ones(64)}
        torch.save(norm, folder / "non_lora_trainables.bin")
        self._read_lora(folder)
        return folder

    def _write_lora(self, rng: Random, folder: Path) -> Path:
        file = rng.choice(sorted(self._lora.iterdir()))
        data = file.read_bytes()
        as_json = file.suffix == ".json" and rng.random() < 0.8
        damaged = damaged_json(rng, data.decode()) if as_json else damaged_bytes(rng, data, data)
        return _with_links(self._lora, folder, {Path(file.name): damaged})

    def _read_lora(self, path: Path) -> None:
        _read_hugging_face(path, base_weights=self._llava[0])

    def _write_hugging_face(self, rng: Random, folder: Path) -> Path:
        whole = rng.choice(self._llava)
        file = rng.choice(sorted(path for path in whole.rglob("*") if path.is_file()))
        data = file.read_bytes()
        as_json = file.suffix == ".json" and rng.random() < 0.8
        damaged = damaged_json(rng, data.decode()) if as_json else damaged_bytes(rng, data, data)
        return _with_links(whole, folder, {file.relative_to(whole): damaged})

    def _write_folder(self, rng: Random, folder: Path) -> Path:
        """A checkpoint's folder with a file lost, replaced by something that is no file, or doubled."""
        path = _with_links(CHECKPOINT, folder, {})
        for _ in range(rng.choice((1, 1, 2))):
            name = path / rng.choice([file.relative_to(CHECKPOINT) for file in self.checkpoint.files])
            shutil.rmtree(name) if name.is_dir() else name.unlink(missing_ok=True)
            kind = rng.choice(("lost", "folder", "pipe", "circle", "dangling", "empty", "renamed", "doubled", "many"))
            if kind == "folder" and not name.exists():
                name.mkdir()
            elif kind == "pipe" and not name.exists():
                os.mkfifo(name)
            elif kind in ("circle", "dangling") and not name.exists():
                name.symlink_to(name if kind == "circle" else path / "nowhere")
            elif kind == "empty" and not name.exists():
                name.write_bytes(b"")
            elif kind == "renamed":
                _written(
                    name.with_name(rng.choice(("consolidated.1.pth", "checkpoint-x.pth", "a.pt", "\udcff.pth"))), b"x"
                )
            elif kind in ("doubled", "many"):
                for number in range(2 if kind == "doubled" else 120):
                    _written(name.with_name(f"{name.name.split('.')[0]}.{number:02d}{name.suffix}"), b"x")
        return path

    def _read_checkpoint(self, path: Path) -> None:
        """As `build` does before it writes."""
        checkpoint = detect(path).load(Sources(path))
        if checkpoint.tokenizer:
            make_tokenizer(checkpoint.tokenizer, checkpoint.config)
        plan = choose_plan(checkpoint.config.layers, checkpoint.evidence)
        account(checkpoint, plan, "float16")
        parameters = network_parameters(
            prune(checkpoint, plan), plan, PRECISIONS["fp32"], resolve(None, {}).options.limits
        )
        for name in list(parameters)[:: max(1, len(parameters) // 8)]:
            parameters[name].read()
        model_table(checkpoint.config, plan)

    def _write_manifest(self, rng: Random, folder: Path) -> Path:
        """Half of them with the digest of what they say."""
        damaged = damaged_json(rng, (self.bundle.path / "manifest.json").read_text())
        if rng.random() < 0.5:
            with suppress(ValueError, RecursionError, AttributeError):  # not a JSON object any more
                damaged = json.dumps(with_digest(json.loads(damaged))).encode()
        return _with_links(self.bundle.path, folder, {Path("manifest.json"): damaged})

    def _write_weights(self, rng: Random, folder: Path) -> Path:
        """Another header before zeros: the tensors themselves are read as they are."""
        whole = (self.bundle.path / "weights.safetensors").read_bytes()
        size = struct.unpack("<Q", whole[:8])[0]
        header = damaged_json(rng, whole[8 : 8 + size].decode().rstrip())
        length = len(header) if rng.random() < 0.9 else rng.choice((0, 1, 1 << 20, 1 << 31, (1 << 64) - 1))
        path = _written(folder / "weights.safetensors", struct.pack("<Q", length) + header)
        if rng.random() < 0.9:
            os.truncate(path, 8 + len(header) + len(whole) - 8 - size)
        return path

    def _write_report(self, rng: Random, folder: Path) -> Path:
        line = {"stage": "prefill", "error": 1e-6, "tolerance": 1e-4, "ok": True, "note": "at logits"}
        of = {"reference": "it", "precision": "fp32", "fold": "weights", "files": [{"name": "a", "ok": True}]}
        step = {"name": "onnxruntime", "what": "it", "before": "", "tolerance": 1e-4, "reason": "because"}
        cases = {"text": [line, line | {"ok": False}]}
        report = {"verdict": "differs", **of, "steps": [step | {"cases": cases}]}
        (folder / "reports").mkdir()
        _written(folder / "reports" / "verify.json", damaged_json(rng, json.dumps(report)))
        return folder

    def _write_recipe(self, rng: Random, folder: Path) -> Path:
        return _written(folder / "recipe.yaml", damaged_yaml(rng, RECIPE.read_text()))

    def _read_skip(self, path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        evidence = SkipEvidence(text=text, origin="args.skip_list")
        for recipe in (None, ("recipe.yaml", "1-3")):
            with suppress(UserError):
                choose_plan(self.config.layers, evidence, recipe=recipe)
        make_plan(self.config.layers, text, "--skip")

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        size, tokens = self.config.vision.image_size, self.config.vision.tokens
        ids = np.full((2, 6 + tokens), 5)
        ids[1, 2 : 2 + tokens] = 0
        return {
            "input_ids": ids,
            "prompt_lengths": np.array([4, 6 + tokens]),
            "pixel_values": np.zeros((1, 3, size, size), np.float32),
            "image_row": np.array([1]),
            "forced_tokens": np.full((3, 2), 7),
        }

    @cached_property
    def _npz(self) -> bytes:
        packed = io.BytesIO()
        np.savez(packed, **self._arrays)
        return packed.getvalue()

    @cached_property
    def _bombs(self) -> list[bytes]:
        """A megabyte that is a gigabyte and a half, as one array of tokens and as rows of one token."""
        size = 3 << 29
        heads = [
            npy(f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}, }}", b"")
            for shape in ((1, size), (size, 1))
        ]
        return [zeros_deflated("input_ids.npy", head, size) for head in heads]

    def _write_npz(self, rng: Random, folder: Path) -> Path:
        path, kind = folder / "inputs.npz", rng.random()
        if kind < 0.25:
            return _written(path, damaged_bytes(rng, self._npz, self._npz))
        if kind < 0.27:
            return _written(path, rng.choice(self._bombs))
        arrays = dict(self._arrays)
        name = rng.choice(list(arrays))
        if kind < 0.6:
            arrays[name] = _damaged_array(rng, arrays[name])
            arrays = {n: a for n, a in arrays.items() if n == name or rng.random() > 0.1}
            np.savez(path, **arrays)
            return path
        members = {f"{n}.npy": npy(_header(a.dtype.str, a.shape), a.tobytes()) for n, a in arrays.items()}
        shape = rng.choice(
            ("(1, 1099511627776)", "(1099511627776, 0)", "(-1, 4)", "(4611686018427387904, 4)", "()", "(2, 6")
        )
        kinds = (
            "<i8",
            "|i1",
            "|u1",
            ">u8",
            "|O",
            "|V1000000000",
            "<f8",
            "|b1",
            "<M8[ns]",
            "<c16",
            "<U100",
            "i8, f4",
            "<i99",
        )
        hostile = npy(_header(rng.choice(kinds), rng.choice((shape, arrays[name].shape))), arrays[name].tobytes())
        members[f"{name}.npy"] = hostile if kind < 0.85 else npy("__import__('os').system('touch it_ran')")
        if kind > 0.9:
            members[rng.choice(("../../x.npy", "/etc/passwd", "x.npy", "", "input_ids", "a/b.npy"))] = members.pop(
                f"{name}.npy"
            )
        with zipfile.ZipFile(path, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for member, content in members.items():
                archive.writestr(zipfile.ZipInfo(member), content)
        return path

    def _read_npz(self, path: Path) -> None:
        read_inputs(path, self.config, self.family)

    def _write_questions(self, rng: Random, folder: Path) -> Path:
        lines = (
            '{"prompt": "What is shown?", "image": "cat.png"}',
            '{"question": "Which is larger?", "context": "space", "options": ["the sun", "the moon"], "answer": "B"}',
            '{"prompt": "How many?", "answer": ["two", "2", "two"]}',
        )
        Image.new("RGB", (4, 4)).save(folder / "cat.png")
        damaged = [damaged_json(rng, rng.choice(lines)) for _ in range(rng.choice((1, 1, 3)))]
        return _written(
            folder / "questions.jsonl", rng.choice((b"\n", b"\r\n", b"\n\n", b"\n\xef\xbb\xbf")).join(damaged)
        )

    def _read_questions(self, path: Path) -> None:
        for question in read_questions(path):
            assert all(Path(name).parent.resolve().is_relative_to(path.parent) for name in question.image)
            encode_question(question, self.config, self.family, self.tokenizer)

    @cached_property
    def _images(self) -> list[bytes]:
        noise = Image.frombytes("RGB", (24, 16), Random(0).randbytes(24 * 16 * 3))
        forms = [("PNG", m) for m in ("RGB", "RGBA", "P", "L", "1", "LA", "I;16")]
        forms += [("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("BMP", "P"), ("GIF", "P")]
        forms += [("TIFF", mode) for mode in ("RGB", "F", "CMYK", "1")]
        images = []
        for name, mode in forms:
            packed = io.BytesIO()
            (Image.new("I;16", (9, 9)) if mode == "I;16" else noise.convert(mode)).save(packed, name)
            images.append(packed.getvalue())
        return images

    def _write_image(self, rng: Random, folder: Path) -> Path:
        data = rng.choice(self._images)
        width, height = (rng.choice((0, 1, 16, 8000, 65535, 1 << 31)) for _ in "wh")
        if data.startswith(b"\x89PNG") and rng.random() < 0.4:
            return _written(folder / "image", resized_png(data, width, height))
        if data.startswith(b"BM") and rng.random() < 0.4:
            return _written(folder / "image", data[:18] + struct.pack("<II", width, height) + data[26:])
        if data.startswith(b"GIF") and rng.random() < 0.4:
            return _written(
                folder / "image", data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
            )
        return _written(folder / "image", damaged_bytes(rng, data, rng.choice(self._images)))

    def _read_image(self, path: Path) -> None:
        self.family.prompts.pixels(self.config, read_image(path))

    def _write_tokenizer(self, rng: Random, folder: Path) -> Path:
        """A Hugging Face folder with a damaged JSON file, or tokenizer.model with bytes changed in place mostly: protobuf's own structure
        seldom lives through more."""
        data = self.checkpoint.tokenizer[0].read_bytes()
        if rng.random() < 0.3:
            for name, text in BESIDE_TOKENIZER.items():
                _written(folder / name, json.dumps(text).encode())
            _written(folder / TOKENIZER_JSON, damaged_json(rng, self._tokenizer_json))
            return folder
        if rng.random() < 0.6:
            _written(folder / "tokenizer.model", data)
            names = rng.sample(sorted(BESIDE_TOKENIZER), rng.randrange(1, len(BESIDE_TOKENIZER) + 1))
            for name in names:
                text = json.dumps(BESIDE_TOKENIZER[name])
                _written(folder / name, damaged_json(rng, text) if name == names[0] else text.encode())
            return folder
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            changed[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        whole = rng.random() < 0.3
        _written(folder / "tokenizer.model", damaged_bytes(rng, data, data) if whole else bytes(changed))
        return folder

    def _read_tokenizer(self, path: Path) -> None:
        for kind in (Tokenizer, HuggingFaceTokenizer):
            tokenizer = kind(find_tokenizer([path], None, beside=[*BESIDE_TOKENIZER]), self.config.vocab_size + 4)
            tokenizer.decode(tokenizer.encode("Which is <im> larger,</s> the sun? \u20ac \U0001f600"))
            tokenizer.decode([*range(self.config.vocab_size + 4), *tokenizer.ends])


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _read_hugging_face(path: Path, base_weights: Path | None = None) -> None:
    checkpoint = load_checkpoint(Sources(path, base_weights=base_weights))
    for tensor in prune(checkpoint, make_plan(checkpoint.config.sites, "1", "test")).tensors.values():
        tensor.read()


def _with_links(source: Path, folder: Path, changed: dict[Path, bytes]) -> Path:
    """A folder like `source`, its files links to those there, but for the changed ones."""
    for file in source.rglob("*"):
        name = file.relative_to(source)
        if file.is_dir():
            (folder / name).mkdir(parents=True, exist_ok=True)
        elif name not in changed:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(file)
    for name, data in changed.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _written(folder / name, data)
    return folder


def _header(descr: str, shape: object) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


class _Command:
    def __reduce__(self):
        return os.system, ("touch it_ran",)


def _damaged_array(rng: Random, array: np.ndarray) -> np.ndarray:
    kind = rng.random()
    if kind < 0.15:
        return np.array([[_Command()]], dtype=object)
    if kind < 0.4:
        dtypes = ("i1", "u8", ">i4", "f2", "f8", "g", "?", "c8", "S3", "U2", "M8[s]", "V3", "i4,f4")
        return np.zeros(array.shape, rng.choice(dtypes))
    if kind < 0.7:
        changed = array.copy()
        values = (-1, 1 << 62, -(1 << 63), 63, 64) if array.dtype.kind == "i" else (np.nan, np.inf, -1e38)
        changed.flat[rng.randrange(array.size)] = rng.choice(values)
        return changed
    return rng.choice(
        (array[..., :0], array[:0], array[None], array.ravel(), np.concatenate([array, array]), array.T, array[0])
    )


def _write_skip(rng: Random, folder: Path) -> Path:
    parts = (
        "0",
        "1-3",
        "7",
        "8",
        "-1",
        "3-1",
        "5,5",
        "[",
        "]",
        "[]",
        ",",
        " ",
        "none",
        "None",
        "9999",
        "0-9999",
        "1" * 5000,
    )
    odd = (
        "\u0663",
        "\n",
        "\0",
        "1e3",
        "0x1",
        "1.0",
        "\u2212",
        "all",
        "-",
        "--",
        "1 - 2",
        "[[1]]",
        "'1'",
        "1" * 100_000,
    )
    text = rng.choice((",", "", ", ")).join(rng.choice(parts + odd) for _ in range(rng.choice((1, 2, 3, 8))))
    data = text.encode() if rng.random() < 0.8 else damaged_bytes(rng, text.encode(), rng.choice(HOSTILE_JSON).encode())
    return _written(folder / "skip.txt", data)


def _read_torch_zip(path: Path) -> None:
    saved = read_torch_zip(path)
    named = state_dict_of(saved.get("model", saved) if isinstance(saved, dict) else saved, path)
    for tensor in named.values():
        tensor.map(lambda t: t.float(), dtype=torch.float32).read()


def _read_lightning(path: Path) -> None:
    """As `build` does before it writes; what it says of skips, or some."""
    checkpoint = load_checkpoint(Sources(path, text_heads=4))
    said = None if checkpoint.evidence.text else "0,3"
    plan = choose_plan(checkpoint.config.sites, checkpoint.evidence, said)
    limits = resolve(None, {}).options.limits
    parameters = network_parameters(prune(checkpoint, plan), plan, PRECISIONS["fp32"], limits)
    for name in list(parameters)[:: max(1, len(parameters) // 8)]:
        parameters[name].read()


def _read_bundle(path: Path) -> None:
    """As `inspect` and `run` do before anything is computed."""
    looks_like_bundle(path)
    bundle = open_bundle(path)
    m = bundle.manifest
    get_family(m.config.family)
    model_table(m.config, m.plan), accounts_table(m.accounts, m.precision)
    memory_table(request_memory(m.config, m.plan, PRECISIONS[m.precision]))
    require_own_graphs_and_weights(bundle)


def _read_store(path: Path) -> None:
    store = Store(path)
    for name in list(store.entries)[:8]:
        store.tensor(name).sum()


def _read_report(path: Path) -> None:
    from rich.console import Console

    report = _kept_report(Bundle(path, None))
    if report is None:
        raise UserError("there is no report that can be read", where=path, fix="verify the bundle again")
    print_report(report, Console(file=io.StringIO(), highlight=False, markup=False, width=120))
