"""METER's encoders in transformers: RobertaModel and CLIPVisionModel. Their blocks have no adapters; the streams behind them are METER's own."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...checkpoint.lightning import read_lightning
from ...system.files import only_file
from ..contract import Sources
from ..meter.keys import EVERY_KEY
from ..meter.load import ROBERTA_HEADS
from . import Witnessed, from_tensors, import_transformers, outputs_of, translated

TEXT, IMAGE = "text_transformer.", "vit_model.visual."
BLOCK_NAMES = {  # OpenAI's CLIP -> transformers'
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class MeterWitness:
    without_attention: tuple[int, ...] = ()

    def __init__(self, roberta: torch.nn.Module, clip: torch.nn.Module):
        self._roberta, self._clip = roberta.eval(), clip.eval()

    @torch.no_grad()
    def read(self, text_ids: Tensor, text_masks: Tensor, images: Tensor) -> Witnessed:
        """See EncodersWitness."""
        text = {("text encoder", i): layer for i, layer in enumerate(self._roberta.encoder.layer)}
        vision = {("image encoder", i): layer for i, layer in enumerate(self._clip.encoder.layers)}
        with outputs_of(text | vision) as blocks:
            self._roberta(text_ids, attention_mask=text_masks)
            last = self._clip(images).last_hidden_state
        return Witnessed(blocks, {"image": self._clip.post_layernorm(last)[0]})


def open_witness(sources: Sources) -> MeterWitness:
    """Raises UserError where transformers is not installed or cannot use the tensors."""
    transformers = import_transformers()
    file = (
        sources.ckpt if sources.ckpt.is_file() else only_file(sources.ckpt, ("*.ckpt",), "--ckpt FILE", "--ckpt FILE")
    )
    tensors = {key: tensor.read().float() for key, tensor in read_lightning(file, EVERY_KEY)[0].items()}
    text = {key.removeprefix(TEXT): t for key, t in tensors.items() if key.startswith(TEXT)}
    image = _clip({key.removeprefix(IMAGE): t for key, t in tensors.items() if key.startswith(IMAGE)})
    with translated(file):
        words, places = text["embeddings.word_embeddings.weight"], text["embeddings.position_embeddings.weight"]
        roberta = transformers.RobertaConfig(
            vocab_size=len(words),
            hidden_size=words.shape[1],
            num_hidden_layers=_count(text, "encoder.layer."),
            num_attention_heads=sources.text_heads or ROBERTA_HEADS[words.shape[1]],
            intermediate_size=len(text["encoder.layer.0.intermediate.dense.weight"]),
            max_position_embeddings=len(places),
            type_vocab_size=len(text["embeddings.token_type_embeddings.weight"]),
            layer_norm_eps=1e-5,  # of the published RoBERTa; its class has another default
        )
        width, _, patch, _ = image["embeddings.patch_embedding.weight"].shape
        side = round((len(image["embeddings.position_embedding.weight"]) - 1) ** 0.5)
        clip = transformers.CLIPVisionConfig(
            hidden_size=width,
            num_hidden_layers=_count(image, "encoder.layers."),
            num_attention_heads=width // 64,  # in OpenAI's code
            intermediate_size=len(image["encoder.layers.0.mlp.fc1.weight"]),
            image_size=side * patch,
            patch_size=patch,
        )
        return MeterWitness(
            from_tensors(transformers.RobertaModel, roberta, text, add_pooling_layer=False),
            from_tensors(transformers.CLIPVisionModel, clip, image),
        )


def _clip(openai: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names to transformers'; q, k and v are one matrix there."""
    tensors = {
        "embeddings.class_embedding": openai["class_embedding"],
        "embeddings.position_embedding.weight": openai["positional_embedding"],
        "embeddings.patch_embedding.weight": openai["conv1.weight"],
    }
    for key, tensor in openai.items():
        part = key.rpartition(".")[0]
        kind = key.rpartition(".")[2]
        if part in ("ln_pre", "ln_post"):
            tensors[f"{'pre_layrnorm' if part == 'ln_pre' else 'post_layernorm'}.{kind}"] = tensor
        if not key.startswith("transformer.resblocks."):
            continue
        _, _, number, inside = key.split(".", 3)
        block = f"encoder.layers.{number}"
        if inside.startswith("attn.in_proj_"):
            for name, rows in zip("qkv", tensor.chunk(3)):
                tensors[f"{block}.self_attn.{name}_proj.{inside.removeprefix('attn.in_proj_')}"] = rows
        else:
            tensors[f"{block}.{BLOCK_NAMES[inside.rpartition('.')[0]]}.{kind}"] = tensor
    return tensors


def _count(tensors: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(int(key.removeprefix(start).split(".")[0]) for key in tensors if key.startswith(start))
