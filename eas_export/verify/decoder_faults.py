"""Faults that an exporter of decoders could make: each edits one layer of a graph, or of the store, in place.

A place is found by the names of values and weights, and by what operators do. Raises InternalError where a graph is not as expected.
"""

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ..bundle.manifest import Manifest
from ..core.plan import SkipPlan
from ..export.derived_bundle import DerivedBundle
from ..networks.decoder.blocks import KeptBlock, SkippedBlock, SkippedLayer
from ..networks.decoder.specs import folded_sets
from .controls import Control, Place, given_by, maker, named, transposed_weight, unexpected

FOLDS = tuple(
    f"fold of {part}.{kind}"
    for part in (*KeptBlock.folds, *SkippedBlock.folds, *SkippedLayer.folds)
    for kind in ("weight", "bias")
)

NOTHING_KEPT = "no layer keeps its attention"

# Operator that writes into a cache -> which of its inputs is the position, and one slot in that: a number for slots [B], the last of
# (row, head, slot) for places [B, H, 1, 3]
WRITERS = {"TensorScatter": (2, 1), "ScatterND": (1, [0, 0, 1])}


def bias_from_folded_weight(copy: DerivedBundle, place: Place) -> None:
    """b' = (W U) m1   ->   b' = W' (U m1), where W' is the folded weight; a bias of the linear layer's own is added to either"""
    name = first_folded(copy.manifest.plan, place.layer)
    edited = copy.graph(place.graph)
    bias, weight = (named(edited, edited.outputs, f"folded.{name}.{kind}") for kind in ("bias", "weight"))
    node = maker(edited, bias, "MatMul", "Add")
    if node.op_type == "Add":
        node = maker(edited, node.inputs[1], "MatMul")
    product, inner_bias = node.inputs
    original, outer = maker(edited, product, "MatMul").inputs
    if original.name != f"{name}.weight":
        raise unexpected(edited, f"folded.{name}.bias is made of {original.name}")
    tape = ir.tape.Tape()
    mixed = tape.op("MatMul", [outer, inner_bias])  # U m1 [dim]
    edited.insert_before(node, tape.nodes)
    node.replace_input_with(0, weight)
    node.replace_input_with(1, mixed)


def scaled_router(copy: DerivedBundle, place: Place) -> None:
    """router   ->   router * [1, .. 1.01, .. 1] with the other number at the layer: router [B, layers, 2] float32"""
    edited, layers = copy.graph(place.graph), copy.manifest.config.layers
    router = named(edited, edited.inputs, "router")
    factors = [[[1.01 if i == place.layer else 1.0] * 2 for i in range(layers)]]
    tape = ir.tape.Tape()
    scaled = tape.op("Mul", [router, _constant(tape, factors, ir.DataType.FLOAT)])
    _read_instead({router: scaled}, [use.node for use in router.uses() if use.node not in tape.nodes])
    edited.insert_before(edited[0], tape.nodes)


def later_position(copy: DerivedBundle, place: Place) -> None:
    """RoPE of the layer's q and k   ->   of the next position: the layer reads copies of the values that depend on position_ids alone"""
    edited = copy.graph(place.graph)
    linear = {part: given_by(edited, f"layers.{place.layer}.attention.{part}", "Gemm") for part in ("q", "k")}
    position = named(edited, edited.inputs, "position_ids")
    tape = ir.tape.Tape()
    later = {position: tape.op("Add", [position, _constant(tape, 1, ir.DataType.INT64)])}
    for node in list(edited):  # written out, RoPE looks up its angles first, once for all layers
        if any(value in later for value in node.inputs) and all(v in later or v.is_initializer() for v in node.inputs):
            later[node.outputs[0]] = tape.op(node.op_type, [later.get(v, v) for v in node.inputs], node.attributes)
    for part, node in linear.items():
        if not _read_instead(later, _until_next_linear(node)):
            raise unexpected(edited, f"{part} of layer {place.layer} has no position")
    edited.insert_before(edited[0], tape.nodes)


def earlier_slot(copy: DerivedBundle, place: Place) -> None:
    """The layer's key is written one slot too early, where there is one; its own slot keeps its old content."""
    edited = copy.graph(place.graph)
    scatter = maker(edited, named(edited, edited.outputs, f"present.{place.layer}.key"), *WRITERS)
    at, one = WRITERS[scatter.op_type]
    tape = ir.tape.Tape()
    before = tape.op("Sub", [scatter.inputs[at], _constant(tape, one, ir.DataType.INT64)])
    slot = tape.op("Max", [before, _constant(tape, 0, ir.DataType.INT64)])
    edited.insert_before(scatter, tape.nodes)
    scatter.replace_input_with(at, slot)


def transposed(copy: DerivedBundle, place: Place) -> None:
    """The first linear layer behind the layer's adapter; where it has several sets of weights, all of them."""
    m, name = copy.manifest, first_folded(copy.manifest.plan, place.layer)
    sets = [names[f"folded.{name}.weight"] for names in folded_sets(m.config, m.plan).values()]
    for stored in sets or [f"{name}.weight"]:
        transposed_weight(copy, stored)


def other_modality(copy: DerivedBundle, place: Place) -> None:
    """The layer's folded weights, or its router's weights, of both modalities, exchanged."""
    m = copy.manifest
    sets = [*folded_sets(m.config, m.plan).values()]
    for name in sets[0] if sets else ():
        if name.startswith(f"folded.layers.{place.layer}."):
            first, second = (copy.weight(of[name]).clone() for of in sets)
            copy.replace_weight(sets[0][name], second)
            copy.replace_weight(sets[1][name], first)
    if not sets:
        table = f"layers.{place.layer}.router.table"
        copy.replace_weight(table, copy.weight(table).flip(0))


def first_folded(plan: SkipPlan, layer: int) -> str:
    """The first linear layer behind a layer's adapter: ffn.gate of a skipped layer, attention.q of a kept one."""
    return f"layers.{layer}.{(SkippedBlock if layer in plan.skipped else KeptBlock).folds[0]}"


def _read_instead(others: dict[ir.Value, ir.Value], nodes: Iterable[ir.Node]) -> int:
    """Let these nodes read other values. Returns how many inputs were replaced."""
    places = [(node, at, value) for node in nodes for at, value in enumerate(node.inputs) if value in others]
    for node, at, value in places:
        node.replace_input_with(at, others[value])
    return len(places)


def _until_next_linear(linear: ir.Node) -> list[ir.Node]:
    """The nodes that depend on a linear layer's output, up to the next linear layers."""
    reached: dict[ir.Node, None] = {}
    ahead = [linear]
    while ahead:
        for node in {use.node: None for value in ahead.pop().outputs for use in value.uses()}:
            if node.op_type != "Gemm" and node not in reached:
                reached[node] = None
                ahead.append(node)
    return list(reached)


def _constant(tape: ir.tape.Tape, numbers: int | list, dtype: ir.DataType) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(numbers, dtype)})


def _in_fold(m: Manifest) -> Place | str:
    if "fold" not in m.graphs:
        return "the bundle has no fold graph"
    return Place("fold", _middle(m.plan.kept or m.plan.skipped))


def _where_routers_are_used(m: Manifest) -> Place | str:
    if m.precision != "fp32":
        return f"1 % of a router weight changes less than {m.precision} rounding may"
    if m.config.router in (None, "folded"):
        return "the graphs have no routers"
    return Place("fold" if "fold" in m.graphs else "decode", _middle(range(m.plan.sites)))


def _in_prompt(m: Manifest) -> Place | str:
    if m.limits.max_prompt < 2:
        return "in a prompt of one token the query has no effect"
    layers = m.plan.kept or (() if m.config.site == "layer" else m.plan.skipped)
    return Place("fold" if folded_sets(m.config, m.plan) else "prefill", _middle(layers)) if layers else NOTHING_KEPT


def _where_modality_is_used(m: Manifest) -> Place | str:
    if m.config.router not in ("constant", "folded"):
        return "no weights depend on a prompt's modality alone"
    if m.precision != "fp32":
        return f"the constants of both modalities may differ less than {m.precision} rounding: build with --precision fp32 to plant it"
    return Place("fold" if m.config.router == "folded" else "prefill", _middle(range(m.plan.sites)))


def _where_positions_are_used(m: Manifest) -> Place | str:
    if not m.plan.kept:
        return NOTHING_KEPT
    rotated = [i for i in m.plan.kept if m.config.attention_of(i).rope is not None]
    return Place("decode", _middle(rotated)) if rotated else "no kept attention knows positions"


def _in_kept_decode(m: Manifest) -> Place | str:
    return Place("decode", _middle(m.plan.kept)) if m.plan.kept else NOTHING_KEPT


def _middle(layers: Sequence[int]) -> int:
    return layers[len(layers) // 2]


CONTROLS = {
    control.name: control
    for control in (
        Control(
            "published bias",
            "a folded bias is computed from the weight that was just folded, as the published code does, instead of from the original",
            _in_fold,
            bias_from_folded_weight,
            ("fold of ffn.gate.bias", "fold of attention.q.bias"),
        ),
        Control(
            "router weights off by 1 %",
            "a layer's frozen router weights are 1 % too large where they are used",
            _where_routers_are_used,
            scaled_router,
            (*FOLDS, "adapter"),
        ),
        Control(
            "transposed weight",
            "a linear layer's weight is stored transposed",
            _in_prompt,
            transposed,
            ("q", "gate", "fold of attention.q.weight"),
        ),
        Control(
            "weights of the other modality",
            "prompts without an image get a layer's constants of prompts with one, and the reverse",
            _where_modality_is_used,
            other_modality,
            (*FOLDS, "router"),
        ),
        Control(
            "position off by one",
            "a layer's query and key of a new token are rotated to the position after its own",
            _where_positions_are_used,
            later_position,
            ("key cache",),
        ),
        Control(
            "stale cache slot",
            "a layer's new key is written one slot too early, and its own slot holds what was there before",
            _in_kept_decode,
            earlier_slot,
            ("key cache",),
        ),
    )
}
