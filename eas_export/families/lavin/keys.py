"""The keys of LaVIN-EAS's adapter checkpoint."""

from ...checkpoint.eas_adapter import adapter_keys
from ...checkpoint.keys import Key, KeyTable

LAYER_ADAPTER_KEYS: KeyTable = {
    **adapter_keys("layers.{i}.adapter_attn", "layers.{i}.kept_adapter", "dim", "kept", "A"),
    **adapter_keys("layers.{i}.replaced_adapter", "layers.{i}.skipped_adapter", "dim", "skipped", "AC"),
    "adapter_modality_embedding.weight": Key("modality.weight", (2, "dim")),
    "adapter_proj.conv_A.weight": Key("vision.project1.weight", ("projector", "width")),
    "adapter_proj.conv_A.bias": Key("vision.project1.bias", ("projector",)),
    "adapter_proj.conv_B.weight": Key("vision.project2.weight", ("dim", "projector")),
    "adapter_proj.conv_B.bias": Key("vision.project2.bias", ("dim",)),
    "backbone.visual.*": None,  # read with the next table
}

VISION_ADAPTER_KEYS: KeyTable = {
    **adapter_keys(
        "backbone.visual.transformer.resblocks.{i}.adapter_attn", "vision.blocks.{i}.adapter", "width", "visual", "A"
    ),
    "backbone.visual.transformer.resblocks.*.adapter_mlp.*": None,  # type 'normal' trains them and never calls them
    "layers.*": None,  # read with the table before
    "adapter_*": None,
}
ADAPTER_KEYS = LAYER_ADAPTER_KEYS | VISION_ADAPTER_KEYS  # of the file; each table has rows for a part
