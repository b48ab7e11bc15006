"""What benchmarks/gpu.py measures of a runtime: first whether it computes the right thing, then how fast.

Parity    the prompts that `eas-export verify` makes up, and tokens fed after them, against the float32 reference on the CPU
          (parity/reference.py), with the tolerances of precision.py. Twice: graphs run once each, and a bound step run again and again,
          which is what is timed.
Times     CUDA events around every single piece of work, recorded on the stream without waiting in between; the device is synchronised
          before the first and after the last. Three pieces of work before them warm up and do not count. On a CPU: the clock.
Bytes     what a decode step has to read at least: the weights of its graph (of the embedding and the RoPE tables a row), the weights that
          were folded for this prompt, and the slots of the caches.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from eas_export.backends.onnxruntime.cuda import Refused
from eas_export.backends.runtime import Bound, Runtime
from eas_export.bundle.bundle import Bundle
from eas_export.core.errors import UserError
from eas_export.core.limits import Limits
from eas_export.core.precision import DTYPES, PRECISIONS
from eas_export.generation.conversation import Conversation, decode_inputs, empty_caches, encode_images, prefill
from eas_export.generation.generate import Generation, generate, join_generations
from eas_export.networks.decoder.decode import folded_decode_reads, unfolded_decode_reads
from eas_export.networks.decoder.prompts import Prompts, join_prompts
from eas_export.verify.metrics import Line, compare, compare_tokens, spread, worst
from eas_export.verify.reference import Reference
from eas_export.verify.samples import sample_prompts

WARM = 3
FED = 8  # tokens after each prompt in the parity check


@dataclass(frozen=True)
class Sizes:
    """prompts: lengths of prompts to prefill, the first one also before decoding; slots: of the caches that a step reads; batches: rows;
    steps: timed of each kind; copied: bytes of the tensor that is copied to see the memory's bandwidth"""

    prompts: tuple[int, ...]
    slots: int
    batches: tuple[int, ...]
    steps: int
    copied: int

    @property
    def limits(self) -> Limits:
        """The lowrank bundles'."""
        longest = max(self.prompts)
        return Limits(max_batch=max(self.batches), max_prompt=longest, max_tokens=max(longest + 128, self.slots))


SIZES = {
    "full": Sizes(prompts=(64, 512), slots=128, batches=(1, 8, 32, 64), steps=40, copied=1 << 32),
    "tiny": Sizes(prompts=(8, 32), slots=16, batches=(1, 3), steps=20, copied=1 << 24),
}


@dataclass(frozen=True)
class Case:
    """Prompts, the tokens fed after them [steps, B], and what the reference gives."""

    prompts: Prompts
    forced: Tensor
    want: Generation


def write_reference(bundle: Bundle, path: Path) -> None:
    """What the bundle's own weights give in float32, block by block; on the CPU."""
    m = bundle.manifest
    readers = {name: lambda name=name: bundle.store.tensor(name).float() for name in bundle.store.entries}
    samples = sample_prompts(m.config, m.limits, FED)
    wants = Reference(m.config, m.plan, m.limits, readers).read([*samples.prompts.values()], [*samples.forced.values()])
    content = [{"logits": w.logits, "image_features": w.image_features, "state": w.state} for w in wants]
    unfinished = path.with_suffix(".partial")
    torch.save(dict(zip(samples.prompts, content)), unfinished)
    unfinished.replace(path)


def read_cases(bundle: Bundle, path: Path, rows: int) -> dict[str, Case]:
    """Each sample alone and, where there is room for several rows, as many of them in one batch."""
    m = bundle.manifest
    samples = sample_prompts(m.config, m.limits, FED)
    cases = {}
    for name, got in torch.load(path, weights_only=True).items():
        want = Generation(got["logits"], got["logits"].argmax(-1), got["image_features"], got["state"])
        cases[name] = Case(samples.prompts[name], samples.forced[name], want)
    some = list(cases.values())[:rows]
    if len(some) > 1:
        cases["in one batch"] = Case(
            join_prompts([case.prompts for case in some]),
            torch.cat([case.forced for case in some], 1),
            join_generations([case.want for case in some]),
        )
    return cases


def check_parity(runtime: Runtime, cases: dict[str, Case], precision: str) -> dict:
    """ok, and of every case its largest error as a share of what is tolerated. Raises Refused where a graph does not run."""
    found: dict = {"ok": True, "cases": {}}
    for name, case in cases.items():
        try:
            line = worst(name, _compare(runtime, case, precision))
        except Refused:
            raise
        except UserError as error:  # numbers that are not finite
            found["ok"], found["cases"][name] = False, str(error)
            continue
        share = line.used
        found["cases"][name] = {"share_of_tolerance": share if math.isfinite(share) else str(share), "note": line.note}
        found["ok"] = found["ok"] and line.ok
    return found


def _compare(runtime: Runtime, case: Case, precision_name: str) -> list[Line]:
    precision, want = PRECISIONS[precision_name], case.want
    got = generate(runtime, case.prompts, forced=case.forced)
    conversation = Conversation(runtime, case.prompts, room=len(case.forced))
    bound = []
    for tokens in case.forced:
        conversation.feed(tokens)
        bound.append(conversation.logits.cpu().clone())

    def line(stage: str, got: Tensor, want: Tensor) -> Line:
        return compare(stage, got, want, max(precision.tolerance * spread(want), precision.floor))

    lines = [] if want.image_features is None else [line("vision", got.image_features, want.image_features)]
    for name, value in want.state.items():
        lines.append(compare(name, got.state[name], value, precision.state * max(1.0, spread(value))))
    lines += [line(f"decode {n}" if n else "prefill", got.logits[n], want.logits[n]) for n in range(len(want.logits))]
    lines += [line(f"bound decode {n}", logits, want.logits[n]) for n, logits in enumerate(bound, start=1)]
    return [*lines, compare_tokens("tokens", got.tokens, want.logits, precision.tolerance * spread(want.logits))]


def timed(device: torch.device, work: Callable[[], object], count: int, warm: int = WARM) -> list[float]:
    """Seconds of each of `count` pieces of work, after `warm` that do not count."""
    for _ in range(warm):
        work()
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for _ in range(count):
            work()
            marks.append(time.perf_counter())
        return [end - start for start, end in pairwise(marks)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairwise(events)]


def summary(seconds: list[float]) -> dict:
    ordered = sorted(seconds)
    return {
        "p50_seconds": statistics.median(ordered),
        "p90_seconds": ordered[len(ordered) * 9 // 10],
        "timed": len(ordered),
    }


def copy_rate(device: torch.device, nbytes: int) -> float:
    """Bytes per second, read and written, of a large copy on the device."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / statistics.median(timed(device, lambda: target.copy_(source), 20))


def speeds(
    runtime: Runtime, bundle: Bundle, mode: str, sizes: Sizes, rate: float, decode_only: bool
) -> Iterator[tuple[tuple[str, ...], dict]]:
    """One figure after the other: where it belongs, and what it is. rate: bytes per second of the memory"""
    device, count = runtime.device, sizes.steps
    if not decode_only and "vision" in runtime.sessions:
        spec, size = runtime.sessions["vision"].spec, runtime.config.vision.image_size
        pixels = torch.randn(1, 3, size, size).to(device, getattr(torch, spec.inputs[0].dtype))
        yield ("vision",), summary(timed(device, lambda: runtime.run("vision", {"pixel_values": pixels}), count))
        for length in sizes.prompts:
            prompts, caches = _prompts(runtime, 1, length), empty_caches(runtime, 1, length)
            there = replace(
                prompts,
                input_ids=prompts.input_ids.to(device),
                image_index=prompts.image_index.to(device),
                prompt_lengths=prompts.prompt_lengths.to(device),
            )
            features = encode_images(runtime, prompts).to(device)
            took = summary(timed(device, partial(prefill, runtime, there, features, caches), count))
            yield ("prefill", str(length)), took | {"tokens_per_second": length / took["p50_seconds"]}
    if not decode_only and "fold" in runtime.sessions:
        state = Conversation(runtime, _prompts(runtime, 1, sizes.prompts[0])).state
        yield ("fold",), summary(timed(device, lambda: runtime.run("fold", state), count))
    for rows in sizes.batches:
        if rows <= runtime.limits.max_batch:
            try:
                figure = _decode(runtime, bundle, mode, sizes, rows, rate)
            except (UserError, torch.OutOfMemoryError) as error:
                figure = {"not_run": str(error)}
            yield ("decode", str(rows)), figure


def _decode(runtime: Runtime, bundle: Bundle, mode: str, sizes: Sizes, rows: int, rate: float) -> dict:
    step = _bind_step(runtime, rows, sizes)
    first = timed(runtime.device, step.run, 1, warm=0)[0]  # what a runtime does once for new tensors is in it
    took = summary(timed(runtime.device, step.run, sizes.steps))
    p50, nbytes = took["p50_seconds"], step_bytes(runtime, bundle, mode, rows, sizes.slots)
    reached = {"bytes_per_second": nbytes / p50, "share_of_copy": nbytes / p50 / rate}
    return took | {"first_step_seconds": first, "tokens_per_second": rows / p50, "bytes": nbytes} | reached


def _bind_step(runtime: Runtime, rows: int, sizes: Sizes) -> Bound:
    """The same step again and again, into the last slot, after other prompts in every row."""
    caches, adapters = empty_caches(runtime, rows, sizes.slots), {}
    if "prefill" in runtime.sessions:  # the floor has no state
        prompts = _prompts(runtime, rows, sizes.prompts[0])
        after = prefill(runtime, prompts, encode_images(runtime, prompts), caches)
        state = {name: after[name] for name in ("router", "pooled") if name in after}
        adapters = runtime.run("fold", state) if "fold" in runtime.sessions else state
    lengths = torch.full((rows,), sizes.slots - 1)
    return runtime.bind("decode", decode_inputs(torch.ones(rows, dtype=torch.int64), lengths, caches, adapters))


def step_bytes(runtime: Runtime, bundle: Bundle, mode: str, rows: int, slots: int) -> int:
    spec, plan = runtime.sessions["decode"].spec, runtime.plan
    folded = [tensor for tensor in spec.inputs if tensor.name.startswith("folded.")]
    reads = folded_decode_reads if folded else unfolded_decode_reads
    weights = sum(
        entry.nbytes
        for name, entry in bundle.store.entries.items()
        if reads(plan, name)
        and not name.startswith(("embed.", "rope."))
        and not (mode.startswith("floor") and ".adapter." in name)
    )
    own = sum(prod(tensor.shape) * DTYPES[tensor.dtype].size for tensor in folded)
    caches = [tensor for tensor in spec.inputs if tensor.name in spec.aliases.values()]
    return weights + own + sum(rows * slots * t.shape[1] * t.shape[3] * DTYPES[t.dtype].size for t in caches)


def _prompts(runtime: Runtime, rows: int, length: int) -> Prompts:
    ids = torch.randint(runtime.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return Prompts(ids, torch.full((rows,), length), torch.full_like(ids, -1))
