"""Number formats, weight formats (how a matrix is stored, and the layer that multiplies by it) and precisions (dtype and tolerances): a row
each of three tables. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One tensor element type: its torch and numpy name is the key in DTYPES.

    size         bytes per element
    safetensors  its code in a safetensors header
    onnx         its number in onnx.TensorProto.DataType
    """

    size: int
    safetensors: str
    onnx: int


DTYPES = {
    "float32": DType(4, "F32", 1),
    "float16": DType(2, "F16", 10),
    "bfloat16": DType(2, "BF16", 16),
    "int64": DType(8, "I64", 7),
}


@dataclass(frozen=True)
class WeightFormat:
    """How weights are stored, whatever is computed in.

    pack    ".module:function": (a parameter's name, its tensor, precision) -> the tensors that it is stored as, by name
    linear  "module:Class" of the linear layers that compute with them
    """

    pack: str
    linear: str


WEIGHT_FORMATS = {"plain": WeightFormat(pack=".networks.parameters:plain", linear="torch.nn:Linear")}


@dataclass(frozen=True)
class Precision:
    """What `--precision` means.

    dtype      of activations and caches
    tolerance  largest error against the fp32 reference in units of the reference's standard deviation
               (logits, features, folded weights); the reason for each value stands beside its row
    state      the same for router weights and pooled features, but with a unit of at least 1: router weights are
               probabilities that may lie close together
    floor      errors below it are the rounding of values near zero
    block      largest error of one block alone, given what the bundle's own block was given: to find where a fault is
    weights    their row of WEIGHT_FORMATS
    """

    dtype: str
    tolerance: float
    state: float
    floor: float
    block: float
    weights: str = "plain"


PRECISIONS = {
    # fp32: both sides round every sum in another order; the published code agrees with float64 to 2e-6 on logits of order 1
    "fp32": Precision("float32", tolerance=1e-4, state=1e-5, floor=1e-12, block=2e-5),
    # fp16: 11 significant bits; the PyTorch modules themselves move by up to 4.3e-2 of the logits' spread, the graphs by up to 3.2e-2
    # (benchmarks/results/rounding_fp16.json). Near zero its steps are 6e-8 wide, and a folded bias sums rank + 1 products of values that were rounded to them
    "fp16": Precision("float16", tolerance=5e-2, state=1e-2, floor=5e-7, block=2e-2),
    # bf16: 8 significant bits; the PyTorch modules themselves move by up to 0.21 of the logits' spread, and rounding the weights alone
    # by up to 0.14 (benchmarks/results/rounding_bf16.json)
    "bf16": Precision("bfloat16", tolerance=2.4e-1, state=8e-2, floor=5e-7, block=1.6e-1),
}

# Parameters that stay in float32 in every precision, by the module they belong to: they are tiny, they are read once
# per prompt, and everything after them depends on what they give.
FLOAT32_MODULES = ("router", "pool")


def parameter_dtype(name: str, precision: Precision) -> str:
    """The dtype of the network parameter `name` ("layers.3.router.weight") in this precision."""
    return "float32" if any(part in FLOAT32_MODULES for part in name.split(".")) else precision.dtype
