"""Negative controls of a cross-encoder: known faults, each planted in a copy of its bundle. A new control is one row of CONTROLS."""

from collections.abc import Callable

import onnx_ir as ir

from ...bundle.manifest import Manifest
from ...core.errors import InternalError
from ...export.derived_bundle import DerivedBundle
from ..controls import Control, Place
from .network import PARTS
from .taps import GRAPH

STREAM = "text_layers"  # the one whose tokens are padded
COARSE = ("bf16",)  # precisions in which a few tokens too many, or half a mean, may be less than may round
MASK = 3  # which of Attention's inputs


def _middle_layer(m: Manifest) -> Place:
    return Place(GRAPH, m.config.layers // 2, PARTS[STREAM])


def _reads_padding(m: Manifest) -> Place | str:
    if m.precision in COARSE:
        return f"a few tokens of padding move less than what {m.precision} is allowed to round"
    skipped = m.config.attentions(m.plan.skipped)
    gone = {each.layer for each in skipped if (f"{each.stream}_layers", each.part) == (STREAM, "attention")}
    kept = [layer for layer in range(m.config.layers) if layer not in gone]
    if not kept:
        return "no layer of the text stream keeps its self-attention"
    if m.config.text_length < 2:
        return "a text of one token has no padding"
    return Place(GRAPH, kept[len(kept) // 2], PARTS[STREAM])


def _pooled(m: Manifest) -> Place | str:
    if m.precision in COARSE:
        return f"half a mean moves less than what {m.precision} is allowed to round"
    skipped = m.config.attentions(m.plan.skipped)
    here = sorted(each.layer for each in skipped if (f"{each.stream}_layers", each.part) == (STREAM, "attention"))
    return (
        Place(GRAPH, here[len(here) // 2], PARTS[STREAM]) if here else "no self-attention of the text stream is skipped"
    )


def _transposed(copy: DerivedBundle, place: Place) -> None:
    """W [out, in] of a layer's first feed-forward product, stored as if it were [in, out] and transposed"""
    name = f"{STREAM}.{place.layer}.ffn.fc1.weight"
    weight = copy.weight(name)
    copy.replace_weight(name, weight.reshape(weight.shape[::-1]).T.contiguous())


def _unmasked(copy: DerivedBundle, place: Place) -> None:
    """A self-attention without its mask: padding is read."""
    graph, name = copy.graph(place.graph), f"{STREAM}.{place.layer}.attention.o.weight"
    attention = _nearest(_maker_of(graph, name), ("Attention", "Softmax"))
    if attention.op_type == "Attention":
        attention.replace_input_with(MASK, None)
        return
    masked = _nearest(attention, ("Add",))  # written out, as in opset 21: scores + mask
    ir.convenience.replace_all_uses_with(masked.outputs[0], masked.inputs[0])
    graph.remove(masked, safe=True)


def _pooled_twice(copy: DerivedBundle, place: Place) -> None:
    """The pooled feature of a skipped attention counts twice: 0.5 was not folded into it."""
    for part in ("weight", "bias"):
        name = f"{STREAM}.{place.layer}.attention.pool.{part}"
        copy.replace_weight(name, 2 * copy.weight(name))


def _maker_of(graph: ir.Graph, weight: str) -> ir.Node:
    found = [node for node in graph for value in node.inputs if value is not None and value.name == weight]
    if len(found) != 1:
        raise InternalError(f"graph {graph.name}: {len(found)} nodes read {weight}")
    return found[0]


def _nearest(node: ir.Node, kinds: tuple[str, ...]) -> ir.Node:
    """The nearest of these operators among those that a node's inputs come from."""
    rank = [node]
    while rank:
        rank = [maker for each in rank for value in each.inputs if value is not None and (maker := value.producer())]
        for maker in rank:
            if maker.op_type in kinds:
                return maker
    raise InternalError(f"no {' or '.join(kinds)} stands before {node.name}")


def _row(
    name: str,
    what: str,
    place: Callable[[Manifest], Place | str],
    edit: Callable[[DerivedBundle, Place], None],
    *stages: str,
) -> tuple[str, Control]:
    return name, Control(name, what, place, edit, stages)


CONTROLS = dict(
    (
        _row(
            "transposed weight",
            "a linear layer's weight is stored transposed",
            _middle_layer,
            _transposed,
            "ffn.fc1",
        ),
        _row(
            "padding is read",
            "a self-attention of the text stream has no mask",
            _reads_padding,
            _unmasked,
            "attention.o",
        ),
        _row(
            "pooled feature counted twice",
            "the mean that stands for a skipped attention is added without its factor 0.5",
            _pooled,
            _pooled_twice,
            "attention.up",
        ),
    )
)
