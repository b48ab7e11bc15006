"""The probes read and multiply as much as they say."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from eas_export.bench import peak as rates
from eas_export.bench.peak import READERS, buffer_bytes, product_probes, read_probes

CPU = torch.device("cpu")


class Touched(TorchDispatchMode):
    """nbytes: of the tensors that operators were given"""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.nbytes += sum(a.nbytes for a in args if isinstance(a, torch.Tensor))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", READERS)
def test_readers_read_what_they_say(monkeypatch, device):
    """A GPU's too, on this processor."""
    monkeypatch.setitem(READERS, "cpu", READERS[device])
    probes = read_probes(CPU, nbytes=5 << 20)
    assert [probe.name for probe in probes] == [*READERS[device]]
    for probe in probes:
        assert probe.amount == 5 << 20 and probe.dtype == "float32"
        with Touched() as touched:
            probe.run()
        vector = touched.nbytes - probe.amount
        assert 0 <= vector <= 4 * rates.WIDTH


def test_a_copy_touches_every_byte():
    matrix = torch.arange(64.0).view(4, 16)
    READERS["cuda"]["copy"](matrix)()
    assert matrix.view(-1).equal(torch.arange(32.0).repeat(2))


def test_products_compute_what_they_say(monkeypatch):
    monkeypatch.setitem(rates.SIDE, "cpu", 64)
    assert [probe.dtype for probe in product_probes(CPU, "float32")] == ["float32"]
    probes = product_probes(CPU, "bfloat16")
    assert [probe.dtype for probe in probes] == ["bfloat16", "float32"]  # as a runtime may widen it
    for probe in probes:
        with FlopCounterMode(display=False) as counter:
            result = probe.run()
        assert probe.amount == counter.get_total_flops()
        assert str(result.dtype) == f"torch.{probe.dtype}" and result.isfinite().all()


def test_a_buffer_leaves_memory_free(monkeypatch):
    monkeypatch.setattr(rates, "free_memory", lambda: 80 << 20)
    assert buffer_bytes(CPU) == 10 << 20
    assert [probe.amount for probe in read_probes(CPU)] == [10 << 20] * 2
    monkeypatch.setattr(rates, "free_memory", lambda: 1 << 40)
    assert buffer_bytes(CPU) == 1 << 30
