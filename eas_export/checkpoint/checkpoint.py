"""A loaded checkpoint: what every family's loader returns."""

from dataclasses import dataclass
from pathlib import Path

from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.plan import SkipEvidence
from ..system.hashing import FilePrint, file_print
from .lazy_tensor import LazyTensor


@dataclass(frozen=True)
class Checkpoint:
    """A model's tensors under our names, not read yet.

    tensors    our name -> LazyTensor. The decoder: embed.weight, norm.weight, head.weight (unless it is tied to
               the embedding), modality.weight (where the model has a modality token) and, per layer i,
               layers.{i}.norm.weight, .ffn_norm.weight, .attention.{q,k,v,o}.weight, .ffn.{gate,up,down}.weight and the
               adapters .kept_adapter.{A,a,B,b,D,d,E,e}, .skipped_adapter.{A,a,C,c,B,b,D,d,E,e}
               (letters as in the paper; B and D as block-diagonal [dim, rank] matrices; E, e the router's).
               Tensors that the files' own skip list makes useless may be missing: then another list is refused (networks/prune.py).
               Its tower, under vision.: class_embedding, position_embedding, patch.weight, norm, project1, project2 and, per block,
               blocks.{i}.{norm1,qkv,out,norm2,fc1,fc2} and, where it has adapters, blocks.{i}.adapter.{A,a,B,b,D,d,E,e}.
               A cross-encoder: the parameters of networks/cross_encoder/modules.py by their names, except its adapters: per layer of a stream,
               {text,image}_layers.{i}.{attention,cross_attention,ffn}_adapter.{B,b,C,c} before these parts,
               .adapters.{attention,cross_attention,ffn}.{norm,down,up}.{weight,bias} beside the attentions and behind the feed-forward network,
               .skipped_{attention,cross_attention}_adapter.{A,a,B,b,C,c} in place of an attention, and
               .skipped_adapter.{norm,down,up}.{weight,bias} of the layer.
    evidence   the skip list that the files record
    files      every file that was opened, in a fixed order
    notes      what the user should know about the files, a sentence each
    tokenizer  its files, which bundles carry under their own names; empty without one
    labels     a classifier's answers in the order of its logits, which bundles carry; empty where no file has them
    prints     each file's print when it was opened, to notice changes
    system     the published system that the model is, "LaVIN-EAS"
    known_by   what told: "layers.*.replaced_adapter.conv_C.weight in checkpoint-19.pth"
    """

    config: AnyConfig
    tensors: dict[str, LazyTensor]
    evidence: SkipEvidence
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    tokenizer: tuple[Path, ...] = ()
    labels: tuple[str, ...] = ()
    prints: tuple[FilePrint, ...] = ()
    system: str = ""
    known_by: str = ""

    def __post_init__(self):
        if not self.prints:
            object.__setattr__(self, "prints", tuple(map(file_print, self.files)))

    def require_unchanged(self) -> None:
        """Raise UserError for a file that was replaced or written since it was opened: tensors are read from the mapped files."""
        for path, before in zip(self.files, self.prints):
            if not path.exists() or file_print(path) != before:
                what = "the file changed while it was read"
                raise UserError(what, where=path, fix="run the command again when nothing writes to the file")
