"""Published names of METER's tensors, and ours."""

from collections.abc import Mapping
from functools import reduce
from operator import or_

from ...checkpoint.eas_adapter import block_diagonal
from ...checkpoint.keys import Key, KeyTable
from ...checkpoint.openai_clip import CLIP_KEYS

TASKS = {"vqa_classifier.3.weight": "vqa", "nlvr2_classifier.3.weight": "nlvr2", "rank_output.weight": "retrieval"}


def _linear(published: str, ours: str, out: str, into: str) -> KeyTable:
    return {f"{published}.weight": Key(f"{ours}.weight", (out, into)), f"{published}.bias": Key(f"{ours}.bias", (out,))}


def _norm(published: str, ours: str, width: str) -> KeyTable:
    return {f"{published}.{part}": Key(f"{ours}.{part}", (width,)) for part in ("weight", "bias")}


def _attention(published: str, ours: str, width: str) -> KeyTable:
    """BERT's names of one attention and of the norm after it."""
    names = {"self.query": "q", "self.key": "k", "self.value": "v", "output.dense": "o"}
    table = _norm(f"{published}.output.LayerNorm", f"{ours}_norm", width)
    for theirs, letter in names.items():
        table |= _linear(f"{published}.{theirs}", f"{ours}.{letter}", width, width)
    return table


def _feed_forward(published: str, ours: str, width: str, inner: str) -> KeyTable:
    return {
        **_linear(f"{published}.intermediate.dense", f"{ours}ffn.fc1", inner, width),
        **_linear(f"{published}.output.dense", f"{ours}ffn.fc2", width, inner),
        **_norm(f"{published}.output.LayerNorm", f"{ours}ffn_norm", width),
    }


def _adapter(published: str, ours: str, rank: str, inner: str) -> KeyTable:
    """One adapter without a router: conv_B, and conv_C or conv_A and conv_C."""
    table: dict[str, Key | None] = {
        f"{published}.conv_B.weight": Key(
            f"{ours}.B", ("dim", f"{rank}_per_group", 1), convert=block_diagonal, becomes=("dim", rank)
        ),
        f"{published}.conv_B.bias": Key(f"{ours}.b", ("dim",)),
        f"{published}.conv_D.*": None,  # the second branch and its router: trained, never called
        f"{published}.expert_weights.*": None,
    }
    for letter in inner:
        matrix = Key(f"{ours}.{letter}", (rank, "dim", 1), convert=lambda w: w.squeeze(-1), becomes=(rank, "dim"))
        table |= {
            f"{published}.conv_{letter}.weight": matrix,
            f"{published}.conv_{letter}.bias": Key(f"{ours}.{letter.lower()}", (rank,)),
        }
    return {pattern.replace("{i}", "*") if key is None else pattern: key for pattern, key in table.items()}


def _bottleneck(published: str, ours: str, rank: str) -> KeyTable:
    """One adapter of DAS: a norm, down and up."""
    return {
        **_norm(f"{published}.adapter_layer_norm_before", f"{ours}.norm", "dim"),
        **_linear(f"{published}.down_proj", f"{ours}.down", rank, "dim"),
        **_linear(f"{published}.up_proj", f"{ours}.up", "dim", rank),
    }


def _cross_modal(stream: str) -> KeyTable:
    theirs, ours = f"cross_modal_{stream}_layers.{{i}}", f"{stream}_layers.{{i}}."
    return {
        **_attention(f"{theirs}.attention", f"{ours}attention", "dim"),
        **_attention(f"{theirs}.crossattention", f"{ours}cross_attention", "dim"),
        **_feed_forward(theirs, ours, "dim", "ffn"),
        **_linear(f"cross_modal_{stream}_pooler.dense", f"{stream}_pooler", "dim", "dim"),
    }


def _eas_adapters(stream: str) -> KeyTable:
    theirs, ours = f"cross_modal_{stream}_layers.{{i}}", f"{stream}_layers.{{i}}."
    return {
        **_adapter(f"{theirs}.attention.adapter", f"{ours}attention_adapter", "before", "C"),
        **_adapter(f"{theirs}.crossattention.adapter", f"{ours}cross_attention_adapter", "before", "C"),
        **_adapter(f"{theirs}.intermediate.adapter", f"{ours}ffn_adapter", "before", "C"),
        **_adapter(f"{theirs}.adapter_self_attn", f"{ours}skipped_attention_adapter", "skipped", "AC"),
        **_adapter(f"{theirs}.adapter_cross_attn", f"{ours}skipped_cross_attention_adapter", "skipped", "AC"),
    }


def _das_adapters(stream: str, letter: str) -> KeyTable:
    theirs, ours = f"cross_modal_{stream}_layers.{{i}}", f"{stream}_layers.{{i}}."
    return {
        **_bottleneck(f"{theirs}.attention.output.adapter", f"{ours}adapters.attention", "beside"),
        **_bottleneck(f"{theirs}.crossattention.output.adapter", f"{ours}adapters.cross_attention", "beside"),
        **_bottleneck(f"{theirs}.adapter", f"{ours}adapters.ffn", "behind"),
        **_bottleneck(f"adapter_list_{letter}.{{i}}.0", f"{ours}skipped_adapter", "skipped"),
    }


def _classifier(published: str, into: str) -> KeyTable:
    return {
        **_linear(f"{published}.0", "head.fc1", "2*dim", into),
        **_norm(f"{published}.1", "head.norm", "2*dim"),
        **_linear(f"{published}.3", "head.fc2", "answers", "2*dim"),
    }


TEXT, LAYER = "text_transformer", "text_transformer.encoder.layer.{i}"

TEXT_KEYS: KeyTable = {
    f"{TEXT}.embeddings.word_embeddings.weight": Key("text.words.weight", ("vocab", "text_width")),
    f"{TEXT}.embeddings.position_embeddings.weight": Key("text.positions.weight", ("text_positions", "text_width")),
    f"{TEXT}.embeddings.token_type_embeddings.weight": Key(
        "text.first_type", ("text_types", "text_width"), convert=lambda table: table[0], becomes=("text_width",)
    ),
    **_norm(f"{TEXT}.embeddings.LayerNorm", "text.norm", "text_width"),
    **_attention(f"{LAYER}.attention", "text.layers.{i}.attention", "text_width"),
    **_feed_forward(LAYER, "text.layers.{i}.", "text_width", "text_ffn"),
    f"{TEXT}.embeddings.position_ids": None,
    f"{TEXT}.pooler.*": None,
}

VISION_KEYS: KeyTable = {
    **{f"vit_model.{pattern}": key for pattern, key in CLIP_KEYS.items() if pattern != "visual.ln_post.*"},
    **_norm("vit_model.visual.ln_post", "vision.last_norm", "width"),
}

CROSS_KEYS: KeyTable = {
    "token_type_embeddings.weight": Key("types", ("types", "dim")),
    **_linear("cross_modal_text_transform", "text_transform", "dim", "text_width"),
    **_linear("cross_modal_image_transform", "image_transform", "dim", "width"),
    **_cross_modal("text"),
    **_cross_modal("image"),
    "itm_score.*": None,  # heads of pre-training
    "mlm_score.*": None,
}

_TOKEN: KeyTable = {
    "token4classifier": Key("classifier_token", (1, 1, "dim"), convert=lambda token: token[0, 0], becomes=("dim",)),
}
EAS_KEYS: KeyTable = {
    **_TOKEN,
    **_eas_adapters("text"),
    **_eas_adapters("image"),
    "nas_gate": None,  # read for the skip list
    "skip_num": None,
}
DAS_KEYS: KeyTable = {
    **_TOKEN,
    **_das_adapters("text", "l"),
    **_das_adapters("image", "v"),
    "das_gate": None,
    "skip_num": None,
}

HEAD_KEYS: Mapping[str, KeyTable] = {
    "vqa": _classifier("vqa_classifier", "2*dim"),
    "nlvr2": _classifier("nlvr2_classifier", "4*dim"),
    "retrieval": _linear("rank_output", "head", "answers", "2*dim"),
}
EVERY_KEY: KeyTable = reduce(
    or_, HEAD_KEYS.values(), TEXT_KEYS | VISION_KEYS | CROSS_KEYS | EAS_KEYS | DAS_KEYS
)  # of any task and system
