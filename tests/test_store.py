"""The weight store: one valid safetensors file, checked as it is written and as it is opened."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eas_export.bundle.store import Parameter, Store, write_store
from eas_export.core.errors import InternalError, UserError
from eas_export.system.hashing import sha256_of


def parameter(name: str, tensor: torch.Tensor) -> Parameter:
    return Parameter(
        name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), f"source of {name}", lambda: tensor
    )


SHAPES = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 700)), max_size=8)


@settings(deadline=None, max_examples=30)
@given(shapes=SHAPES, half=st.booleans())
def test_what_is_written_is_read_in_place(tmp_path_factory, shapes, half):
    from safetensors.torch import load_file

    tensors = {
        f"t{i}": torch.randn(shape, dtype=torch.float16 if half and i % 2 else torch.float32)
        for i, shape in enumerate(shapes)
    }
    path = tmp_path_factory.mktemp("store") / "w.safetensors"
    seen = []
    digest = write_store(path, [parameter(name, t) for name, t in tensors.items()], seen.append)
    store = Store(path)
    assert digest == sha256_of(path)
    assert sum(seen) == store.nbytes == sum(t.nbytes for t in tensors.values())
    theirs = load_file(path)
    for name, tensor in tensors.items():
        assert theirs[name].equal(tensor)
        if tensor.numel():
            assert store.tensor(name).equal(tensor)
            assert store.entries[name].offset % min(tensor.nbytes & -tensor.nbytes, 4096) == 0


@pytest.mark.parametrize(
    "value, dtype, said, wider",
    [
        (float("nan"), torch.float16, "holds NaN", False),
        (float("inf"), torch.float16, "holds infinity, or values too large for float16", True),
        (float("nan"), torch.float32, "holds NaN", False),
        (float("inf"), torch.float32, "holds infinity", False),
    ],
)
def test_a_value_that_is_not_finite_names_its_tensor(tmp_path, value, dtype, said, wider):
    """And what could help: a wider precision does not make a number of NaN."""
    tensor = torch.ones(3, dtype=dtype)
    tensor[1] = value
    with pytest.raises(UserError, match=rf"tensor w {said} \(source of w\)") as error:
        write_store(tmp_path / "w", [parameter("w", tensor)], lambda n: None)
    assert ("--precision fp32" in error.value.fix) == wider


def test_a_reader_that_breaks_its_word_is_our_bug(tmp_path):
    lying = Parameter("w", "float32", (3,), "x", lambda: torch.ones(4))
    with pytest.raises(InternalError):
        write_store(tmp_path / "w", [lying], lambda n: None)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_store(path, [parameter("w", torch.ones(5000))], lambda n: None)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:7],
        whole[:100],
        whole[:-1],
        b"\xff" * 8 + whole[8:],
        whole.replace(b'"F32"', b'"F99"'),
        whole.replace(b"[5000]", b"[-500]"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            Store(path)
    with pytest.raises(UserError, match="no weights"):
        Store(tmp_path / "absent")
