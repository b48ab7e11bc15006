"""Faults that an exporter of cross-encoders could make, in the text stream, whose tokens are padded."""

import onnx_ir as ir

from ..bundle.manifest import Manifest
from ..core.errors import InternalError
from ..export.derived_bundle import DerivedBundle
from .controls import Control, Place, given_by, transposed_weight
from .cross_encoder import GRAPH, PARTS

STREAM = "text_layers"
COARSE = ("bf16",)  # precisions whose rounding may hide a few extra tokens, or half a mean
MASK = 3  # which of Attention's inputs


def unmasked(copy: DerivedBundle, place: Place) -> None:
    """A self-attention without its mask: padding is read."""
    graph = copy.graph(place.graph)
    attention = _nearest(given_by(graph, f"{STREAM}.{place.layer}.attention.o", "Gemm"), ("Attention", "Softmax"))
    if attention.op_type == "Attention":
        attention.replace_input_with(MASK, None)
        return
    masked = _nearest(attention, ("Add",))  # written out, as in opset 21: scores + mask
    ir.convenience.replace_all_uses_with(masked.outputs[0], masked.inputs[0])
    graph.remove(masked, safe=True)


def pooled_twice(copy: DerivedBundle, place: Place) -> None:
    """The pooled feature of a skipped attention counts twice: 0.5 was not folded into it."""
    for part in ("weight", "bias"):
        name = f"{STREAM}.{place.layer}.attention.pool.{part}"
        copy.replace_weight(name, 2 * copy.weight(name))


def _nearest(node: ir.Node, kinds: tuple[str, ...]) -> ir.Node:
    """The nearest of these operators upstream of a node."""
    rank = [node]
    while rank:
        rank = [maker for each in rank for value in each.inputs if value is not None and (maker := value.producer())]
        for maker in rank:
            if maker.op_type in kinds:
                return maker
    raise InternalError(f"there is no {' or '.join(kinds)} upstream of {node.name}")


def no_activation(copy: DerivedBundle, place: Place) -> None:
    """An adapter without its activation."""
    graph, adapter = copy.graph(place.graph), _activated(copy.manifest)[place.layer]
    node = given_by(graph, f"{STREAM}.{place.layer}.{adapter}.activation", "Relu")
    ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
    graph.remove(node, safe=True)


def _middle_layer(m: Manifest) -> Place | str:
    gone = _skipped(m) if m.config.site == "layer" else []
    kept = [layer for layer in range(m.config.layers) if layer not in gone]
    return _middle(kept) if kept else "no layer of the text stream is kept"


def _reads_padding(m: Manifest) -> Place | str:
    if m.precision in COARSE:
        return f"reading a few tokens of padding changes less than {m.precision} rounding may"
    skipped = _skipped(m)
    kept = [layer for layer in range(m.config.layers) if layer not in skipped]
    if not kept:
        return "no layer of the text stream keeps its self-attention"
    if m.config.text_length < 2:
        return "a text of one token has no padding"
    return Place(GRAPH, kept[0], PARTS[STREAM])  # where tokens differ most


def _pooled(m: Manifest) -> Place | str:
    if m.config.site == "layer":
        return "what stands for a skipped layer pools nothing"
    if m.precision in COARSE:
        return f"half a mean changes less than {m.precision} rounding may"
    skipped = _skipped(m)
    return _middle(skipped) if skipped else "no self-attention of the text stream is skipped"


def _not_linear(m: Manifest) -> Place | str:
    layers = sorted(_activated(m))
    return _middle(layers) if layers else "no adapter of the text stream has an activation"


def _activated(m: Manifest) -> dict[int, str]:
    """Layers of the text stream with an adapter that has an activation -> its name there."""
    gone = _skipped(m) if m.config.site == "layer" else []
    skipped, kept = (m.config.skipped_adapter, "skipped_adapter"), (m.config.beside_adapter, "adapters.attention")
    found = {layer: skipped if layer in gone else kept for layer in range(m.config.layers)}
    return {layer: name for layer, (each, name) in found.items() if each and each.activation != "none"}


def _middle(layers: list[int]) -> Place:
    return Place(GRAPH, layers[len(layers) // 2], PARTS[STREAM])


def _skipped(m: Manifest) -> list[int]:
    """Layers of the text stream whose self-attention is skipped, alone or with the layer."""
    attentions = m.config.attentions(m.plan.skipped)
    here = (STREAM, "attention")
    return sorted(each.layer for each in attentions if (f"{each.stream}_layers", each.part) == here)


CONTROLS = {
    control.name: control
    for control in (
        Control(
            "transposed weight",
            "a linear layer's weight is stored transposed",
            _middle_layer,
            lambda copy, place: transposed_weight(copy, f"{STREAM}.{place.layer}.ffn.fc1.weight"),
            ("ffn.fc1",),
        ),
        Control(
            "padding is read",
            "a self-attention of the text stream has no mask",
            _reads_padding,
            unmasked,
            ("attention.o",),
        ),
        Control(
            "pooled feature counted twice",
            "the mean that stands for a skipped attention is added without its factor 0.5",
            _pooled,
            pooled_twice,
            ("attention.up",),
        ),
        Control(
            "adapter without its activation",
            "ReLU is left out of an adapter, as if it were linear",
            _not_linear,
            no_activation,
            ("skipped_adapter.up", "adapters.attention.up"),
        ),
    )
}
