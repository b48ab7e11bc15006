"""Meta's LLaMA checkpoints: a folder with params.json and consolidated.NN.pth, one file or model-parallel shards."""

from pathlib import Path

from pydantic import Field

from ..core.errors import UserError
from ..core.record import Record
from .json_file import read_json
from .keys import Key, KeyTable, merge_shards
from .lazy_tensor import LazyTensor
from .state_dict import read_state

PARAMS_FILE = "params.json"

LLAMA_KEYS: KeyTable = {
    "tok_embeddings.weight": Key("embed.weight", ("vocab", "dim"), shard=1),
    "norm.weight": Key("norm.weight", ("dim",)),
    "output.weight": Key("head.weight", ("vocab", "dim"), shard=0),
    "layers.{i}.attention.wq.weight": Key("layers.{i}.attention.q.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wk.weight": Key("layers.{i}.attention.k.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wv.weight": Key("layers.{i}.attention.v.weight", ("dim", "dim"), shard=0),
    "layers.{i}.attention.wo.weight": Key("layers.{i}.attention.o.weight", ("dim", "dim"), shard=1),
    "layers.{i}.feed_forward.w1.weight": Key("layers.{i}.ffn.gate.weight", ("ffn", "dim"), shard=0),
    "layers.{i}.feed_forward.w2.weight": Key("layers.{i}.ffn.down.weight", ("dim", "ffn"), shard=1),
    "layers.{i}.feed_forward.w3.weight": Key("layers.{i}.ffn.up.weight", ("ffn", "dim"), shard=0),
    "layers.{i}.attention_norm.weight": Key("layers.{i}.norm.weight", ("dim",)),
    "layers.{i}.ffn_norm.weight": Key("layers.{i}.ffn_norm.weight", ("dim",)),
    "rope.freqs": None,  # rounded; computed from theta instead
    "layers.*.attention.inner_attention.rope.freqs": None,
}


class LlamaParams(Record):
    """params.json of a Meta-LLaMA checkpoint."""

    dim: int = Field(gt=0, le=1 << 20)
    n_layers: int = Field(gt=0, le=1000)
    n_heads: int = Field(gt=0, le=1 << 16)
    n_kv_heads: int | None = None
    multiple_of: int = Field(default=256, gt=0, le=1 << 20)
    norm_eps: float = Field(default=1e-5, gt=0, le=1)
    rope_theta: float = Field(default=10000.0, ge=1, le=1e12)
    vocab_size: int = -1  # not used: the embedding table says
    max_batch_size: int | None = None
    max_seq_len: int | None = None

    @property
    def ffn_dim(self) -> int:
        """2/3 of 4 dim, rounded up to a multiple of `multiple_of` (Meta's LLaMA)."""
        return -(-int(2 * 4 * self.dim / 3) // self.multiple_of) * self.multiple_of


def find_shards(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("consolidated.*.pth"))
    expected = [f"consolidated.{number:02d}.pth" for number in range(max(1, len(shards)))]
    if [path.name for path in shards] != expected:
        missing = [name for name in expected if name not in {path.name for path in shards}]
        what = f"shard {missing[0]} is missing" if missing else f"the folder has {len(shards)} shards, more than 100"
        raise UserError(what, where=folder, fix="give the folder of a Meta-LLaMA checkpoint with all its shards")
    return shards


def read_shards(shards: list[Path]) -> dict[str, LazyTensor]:
    """The tensors of the whole model under their published names."""
    return merge_shards([read_state(f, LLAMA_KEYS)[0] for f in shards], LLAMA_KEYS, [f.name for f in shards])


def read_params(path: Path) -> LlamaParams:
    params = read_json(path, LlamaParams, "the params.json of a LLaMA model", "copy it from the original weights")
    if params.n_kv_heads not in (None, params.n_heads):
        what = f"n_kv_heads is {params.n_kv_heads}, not n_heads {params.n_heads}"
        raise UserError(what, where=path, fix="give LLaMA-1 weights: LaVIN has no grouped-query attention")
    if params.dim % (2 * params.n_heads):
        what = f"dim {params.dim} does not divide into {params.n_heads} heads of even size"
        raise UserError(what, where=path, fix="copy it from the original weights")
    return params
