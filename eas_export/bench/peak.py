"""How fast this machine reads memory and multiplies: probes of known size, timed in the same rounds as what is held against them.

The bandwidth is the best reader's. On a Xeon with two cores, AVX-512 and 260 MB of L3, PyTorch 2.13 and two threads read 1 GiB of
float32 at 32.7 GB/s in a product of a transposed matrix with a vector, 32.3 in one of the matrix itself, 29.6 in a dot product, 28.4
in a sum and 18.9 in a maximum; a copy reads and writes 26.1. The first two are the probes on a CPU. Products reach 333 GFLOP/s in
float32, 319 in float16 and 169 in bfloat16: a runtime that widens bfloat16 does better than one that does not, so on a CPU float32 is
tried too.

Probes use as many threads as torch does (torch.set_num_threads, OMP_NUM_THREADS): on that machine one thread reads half of what two do.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..system.machine import free_memory

WIDTH = 1 << 14  # columns of the matrix that is read: a row is 64 KiB


@dataclass(frozen=True)
class Probe:
    """A piece of work of known size, with its buffers.

    amount  bytes, or floating-point operations, of one run
    dtype   of what it works on
    run     does it once; on a GPU it is enqueued, and the caller synchronizes
    """

    name: str
    amount: int
    dtype: str
    run: Callable[[], object]


def read_probes(device: torch.device, nbytes: int | None = None) -> tuple[Probe, ...]:
    """Ways to read one float32 matrix of about `nbytes`, `buffer_bytes` by default; a small one stays in the caches."""
    rows = max(2, (buffer_bytes(device) if nbytes is None else nbytes) // (4 * WIDTH))
    matrix = torch.ones(rows, WIDTH, device=device)  # written: pages that were never written are not in memory
    return tuple(Probe(name, matrix.nbytes, "float32", make(matrix)) for name, make in READERS[device.type].items())


def buffer_bytes(device: torch.device) -> int:
    """Bytes of the matrix that is read: well beyond any cache, and at most an eighth of the free memory."""
    return min(LARGEST[device.type], FREE[device.type](device) // 8)


LARGEST = {"cpu": 1 << 30, "cuda": 1 << 32}
FREE: Mapping[str, Callable[[torch.device], int]] = {
    "cpu": lambda device: free_memory(),
    "cuda": lambda device: torch.cuda.mem_get_info(device)[0],
}


def _by_vector(matrix: Tensor) -> Callable[[], object]:
    vector, result = matrix.new_ones(matrix.shape[1]), matrix.new_empty(matrix.shape[0])
    return lambda: torch.mv(matrix, vector, out=result)


def _copy(matrix: Tensor) -> Callable[[], object]:
    """One half onto the other: every byte is read or written."""
    half = matrix.numel() // 2
    source, target = matrix.view(-1)[:half], matrix.view(-1)[half:]
    return lambda: target.copy_(source)


# Device's type -> name -> matrix -> work that reads it once
READERS: Mapping[str, Mapping[str, Callable[[Tensor], Callable[[], object]]]] = {
    "cpu": {"matrix by vector": _by_vector, "transposed matrix by vector": lambda matrix: _by_vector(matrix.T)},
    "cuda": {"sum": lambda matrix: matrix.sum, "copy": _copy},
}

SIDE = {"cpu": 1 << 11, "cuda": 1 << 13}  # of the square matrices that are multiplied


def product_probes(device: torch.device, dtype: str) -> tuple[Probe, ...]:
    """Products of two square matrices in the dtype and, on a CPU, in the dtype that runtimes may widen it to."""
    wider = ("float32",) if device.type == "cpu" else ()
    return tuple(_product(device, each) for each in dict.fromkeys((dtype, *wider)))


def _product(device: torch.device, dtype: str) -> Probe:
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2))
    result = torch.empty_like(a)
    return Probe(f"product in {dtype}", 2 * side**3, dtype, lambda: torch.mm(a, b, out=result))
