"""Three tables: number formats, weight formats (how a matrix is stored, and the layer that multiplies by it) and precisions (dtype and
tolerances). No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One tensor element type; its key in DTYPES is its name in torch and numpy.

    size         bytes per element
    safetensors  code in a safetensors header
    onnx         number in onnx.TensorProto.DataType
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
    """How weights are stored, apart from the dtype of activations.

    pack    ".module:function": (a parameter's name, its tensor, precision) -> the tensors that it is stored as, by name
    linear  "module:Class" of the linear layers that read them
    """

    pack: str
    linear: str


WEIGHT_FORMATS = {"plain": WeightFormat(pack=".networks.parameters:plain", linear="torch.nn:Linear")}


@dataclass(frozen=True)
class Precision:
    """What `--precision` means.

    dtype      of activations and caches
    tolerance  largest error against the fp32 reference in units of the reference's standard deviation
               (logits, features, folded weights); each row has a comment with the reason
    state      the same for router weights and pooled features, but with a unit of at least 1: router weights are
               probabilities that may lie close together
    floor      errors below it are rounding of values near zero
    block      largest error of a single block on the input that it had in the bundle, for locating a fault
    weights    key of WEIGHT_FORMATS
    """

    dtype: str
    tolerance: float
    state: float
    floor: float
    block: float
    weights: str = "plain"


PRECISIONS = {
    # fp32: both sides sum in different orders; the published code agrees with float64 to 2e-6 on logits of order 1
    "fp32": Precision("float32", tolerance=1e-4, state=1e-5, floor=1e-12, block=2e-5),
    # fp16: 11 significant bits; the PyTorch modules themselves move by up to 4.3e-2 of the logits' spread, the graphs by up to 3.2e-2
    # (benchmarks/results/rounding_fp16.json). Near zero fp16 has steps of 6e-8, and a folded bias sums rank + 1 products of values rounded to them
    "fp16": Precision("float16", tolerance=5e-2, state=1e-2, floor=5e-7, block=2e-2),
    # bf16: 8 significant bits; the PyTorch modules themselves move by up to 0.21 of the logits' spread, and rounding the weights alone
    # by up to 0.14 (benchmarks/results/rounding_bf16.json)
    "bf16": Precision("bfloat16", tolerance=2.4e-1, state=8e-2, floor=5e-7, block=1.6e-1),
}

# Parts of the names of parameters that stay in float32 in every precision: they are tiny, run once per prompt, and everything after them
# depends on their output; and the gains of norms that are sums (networks/decoder/blocks.OffsetNorm).
FLOAT32_PARTS = ("router", "pool", "gain")


def parameter_dtype(name: str, precision: Precision) -> str:
    """The dtype of the network parameter `name` ("layers.3.router.weight") in this precision."""
    return "float32" if any(part in FLOAT32_PARTS for part in name.split(".")) else precision.dtype
