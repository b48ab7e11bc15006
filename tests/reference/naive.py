"""What the product must load from the published files, by a second, naive loader that shares no code with it: the tensors under the
product's names in float32, and the numbers of its config. Keys that it does not know keep their names."""

import json
import re
from pathlib import Path

import torch

from .files import Weights, merge_lora, read_lavin, read_llava, read_meter

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "mode": "RGB"}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711), "mode": "RGB"}

# What is done to a published name, in order; and the names that no network needs
OPENAI = {"^(vit_model.)?visual": "vision", "transformer.resblocks": "blocks", "attn.in_proj_": "qkv."}
OPENAI |= {"attn.out_proj": "out", "ln_([12])": r"norm\1", "mlp.c_fc": "fc1", "mlp.c_proj": "fc2", "conv1": "patch"}
OPENAI |= {"positional_embedding": "position_embedding", "ln_pre": "norm", "ln_post": "last_norm"}
LAVIN = OPENAI | {"^tok_embeddings": "embed", "^output": "head", "attention.w": "attention.", "attention_norm": "norm"}
LAVIN |= {"feed_forward.w1": "ffn.gate", "feed_forward.w2": "ffn.down", "feed_forward.w3": "ffn.up"}
LAVIN |= {"^(layers.*)adapter_attn": r"\1kept_adapter", "^(vision.*)adapter_attn": r"\1adapter"}
LAVIN |= {"replaced_adapter": "skipped_adapter", "adapter_modality_embedding": "modality"}
LAVIN |= {"adapter_proj.conv_A": "vision.project1", "adapter_proj.conv_B": "vision.project2"}
LLAVA = {"^lm_head": "head", "^model.": "", "^vision_model.": "vision.", "embed_tokens": "embed"}
LLAVA |= {r"self_attn.(\w)_proj": r"attention.\1", r"mlp.(\w+)_proj": r"ffn.\1", "input_layernorm": "norm"}
LLAVA |= {"post_attention_layernorm": "ffn_norm", "adapter_attn": "kept_adapter", "replaced_adapter": "skipped_adapter"}
LLAVA |= {"mm_projector.0": "vision.project1", "mm_projector.2": "vision.project2", "embeddings.": ""}
LLAVA |= {"position_embedding.weight": "position_embedding", "patch_embedding": "patch", "pre_layrnorm": "norm"}
LLAVA |= {"encoder.layers": "blocks", r"(vision.*)attention\.(\w)": r"\1\2", "self_attn.out_proj": "out"}
LLAVA |= {"layer_norm": "norm", "mlp.fc": "fc"}
METER = OPENAI | {"^text_transformer.": "text.", "embeddings.word_embeddings": "words", "encoder.layer": "layers"}
METER |= {"embeddings.position_embeddings": "positions", "embeddings.LayerNorm": "norm"}
METER |= {"^text.embeddings.token_type_embeddings.weight": "text.first_type", "^token_type_embeddings.weight": "types"}
METER |= {"^token4classifier": "classifier_token", "cross_modal_(text|image)": r"\1", "pooler.dense": "pooler"}
METER |= {"crossattention": "cross_attention", r"attention.self.([qkv])\w+": r"attention.\1"}
METER |= {"attention.output.dense": "attention.o", "attention.output.LayerNorm": "attention_norm"}
METER |= {"attention.adapter": "attention_adapter", "intermediate.adapter": "ffn_adapter"}
METER |= {"intermediate.dense": "ffn.fc1", "output.dense": "ffn.fc2", "output.LayerNorm": "ffn_norm"}
METER |= {r"adapter_(\w+)_attn": r"skipped_\1_adapter", "skipped_self": "skipped_attention"}
METER |= {"skipped_cross": "skipped_cross_attention", "rank_output": "head", r"\w+_classifier.0": "head.fc1"}
METER |= {r"\w+_classifier.1": "head.norm", r"\w+_classifier.3": "head.fc2"}
METER |= {
    r"(cross_)?attention\.output\.adapter": r"adapters.\1attention",
    r"(layers\.\d+)\.adapter\.": r"\1.adapters.ffn.",
}
METER |= {r"adapter_list_l\.(\d+)\.0": r"text_layers.\1.skipped_adapter", "adapter_layer_norm_before": "norm"}
METER |= {r"adapter_list_v\.(\d+)\.0": r"image_layers.\1.skipped_adapter", "(down|up)_proj": r"\1"}
METER_ADAPTERS = [("before", "ffn_adapter.C"), ("beside", "adapters.attention.down.weight")]  # where each has its rank
METER_ADAPTERS += [("behind", "adapters.ffn.down.weight"), ("skipped", "skipped_attention_adapter.C")]
METER_ADAPTERS += [("skipped", "skipped_adapter.down.weight")]
PLAIN = dict.fromkeys(["qkv_bias", "o_bias", "ffn_bias", "norm_offset", "qk_norm", "sandwich_norms"], False)
PLAIN |= dict.fromkeys(["attention_scale", "attention_softcap", "logit_softcap"]) | {"activation": "silu"}
PLAIN |= dict.fromkeys(["embedding_scale", "residual_scale", "logit_scale"], 1.0) | {"layer_attention": ()}
PLAIN |= {"kind": "decoder", "first_position": 0, "site": "attention"}
UNUSED = r"(.*\.)?rope\.freqs|visual\.(proj|ln_post.*)|.*adapter_mlp.*|.*rotary_emb.*|.*position_ids"
UNUSED += r"|vision_model\.(post_layernorm|text_|visual_projection|logit_scale).*|model\.vision_tower.*"
UNUSED += r"|vit_model\.(?!visual\.).*|text_transformer\.pooler.*|(itm|mlm)_score.*|[nd]as_gate|skip_num"


def rename(weights: Weights, steps: dict[str, str]) -> Weights:
    """By the product's names, float32; adapters' matrices as the paper's letters, B and D as two blocks [dim, h]."""
    renamed: Weights = {}
    for name, value in weights.items():
        if re.fullmatch(UNUSED, name):
            continue
        for step, by in steps.items():
            name = re.sub(step, by, name)
        if match := re.fullmatch(r"(.*adapter)\.(?:conv_(\w)|expert_weights)\.(weight|bias)", name):
            letter = match[2] or "E"
            name = f"{match[1]}.{letter if match[3] == 'weight' else letter.lower()}"
            value = value[:, :, 0] if value.ndim == 3 else value
            if name[-1] in "BD":
                (rows, columns), (first, second) = value.shape, value.chunk(2)
                value = torch.zeros(rows, 2 * columns, dtype=value.dtype)
                value[: rows // 2, :columns], value[rows // 2 :, columns:] = first, second
        renamed[name] = value.float()
    return renamed


def openai(tensors: Weights) -> dict:
    """OpenAI's ViT, whose heads are 64 wide."""
    (width, _, patch, _), positions = tensors["vision.patch.weight"].shape, len(tensors["vision.position_embedding"])
    blocks = len([name for name in tensors if re.fullmatch(r"vision\.blocks\.\d+\.norm1\.weight", name)])
    sizes = {"image_size": round((positions - 1) ** 0.5) * patch, "patch_size": patch, "width": width, "blocks": blocks}
    sizes |= {"heads": width // 64, "ffn_dim": len(tensors["vision.blocks.0.fc1.weight"])}
    return sizes | {"activation": "quick_gelu", "norm_eps": 1e-5}


def decoder(tensors: Weights, heads: int, theta: float) -> dict:
    rows, dim = tensors["embed.weight"].shape
    sizes = {"vocab_size": rows, "dim": dim, "heads": heads, "head_dim": dim // heads}
    return sizes | {
        "ffn_dim": len(tensors["layers.0.ffn.gate.weight"]),
        "ropes": ({"theta": theta, "dims": None, "scaling": None},),
        "tied_head": "head.weight" not in tensors,
        **PLAIN,
    }


def adapter(tensors: Weights, name: str, scale: float, temperature: float, router: str = "prompt") -> dict | None:
    """An adapter's config, its rank from the first that there is."""
    ranks = [len(value) for key, value in tensors.items() if re.search(rf"{name}\.A$", key)]
    return {"rank": ranks[0], "scale": scale, "temperature": temperature, "router": router} if ranks else None


def lavin(folder: Path) -> tuple[Weights, dict]:
    weights, args, params = read_lavin(folder)
    tensors, heads = rename(merge_lora(weights), LAVIN), params["n_heads"]
    token = not any("lora_A" in name for name in weights)  # nobody looks at LoRA's modality token
    if not token:
        del tensors["modality.weight"]
    eas = any(
        "replaced_adapter.conv_C" in name for name in weights
    )  # else LaVIN-DAS or, without replaced_adapter, LaVIN
    kept, skipped, visual = (
        adapter(tensors, name, args.adapter_scale, args.temperature, "prompt" if eas else router)
        for name, router in (("kept_adapter", "modality"), ("skipped_adapter", "modality"), (r"\d\.adapter", "token"))
    )
    tower = openai(tensors) | {"features": "class", "feature_every": 4, "image": {"square": "squash"} | IMAGENET}
    tower |= {
        "projector_width": len(tensors["vision.project1.weight"]),
        "projector_activation": "silu",
        "adapter": visual,
    }
    config = {"family": "lavin", "layers": params["n_layers"], "kv_heads": heads, "vision": tower}
    config |= {"norm_eps": params.get("norm_eps", 1e-5), "rope_interleaved": True}
    config |= {"modality_token": token, "kept_adapter": kept, "skipped_adapter": skipped}
    config |= {"first_position": int(not token), "site": "layer" if skipped and not eas else "attention"}
    return tensors, decoder(tensors, heads, 1e4) | config


def llava(folder: Path) -> tuple[Weights, dict]:
    weights, said, clip = read_llava(folder)
    tensors = rename(weights, LLAVA)
    tensors |= {name[:-1] + "e": torch.zeros(2) for name in tensors if name.endswith("kept_adapter.E")}  # has no bias
    tower, last = openai(tensors), said["mm_vision_select_layer"]
    blocks = last if last >= 0 else clip.get("num_hidden_layers", tower["blocks"]) + 1 + last
    for i in range(tower["blocks"]):
        for part in ("weight", "bias"):
            qkv = [tensors.pop(f"vision.blocks.{i}.{letter}.{part}") for letter in "qkv"]
            tensors[f"vision.blocks.{i}.qkv.{part}"] = torch.cat(qkv)
    beyond = tuple(f"vision.blocks.{i}." for i in range(blocks, tower["blocks"]))
    tensors = {name: value for name, value in tensors.items() if not name.startswith(beyond)}
    names = {"hidden_act": "activation", "layer_norm_eps": "norm_eps", "num_attention_heads": "heads"}
    tower |= {ours: clip[name] for name, ours in names.items() if name in clip} | {"blocks": blocks}
    seen = {"square": "pad" if said.get("image_aspect_ratio") == "pad" else "crop"} | CLIP
    for name in ("preprocessor_config.json", "processor_config.json"):  # the second wins, where it has the settings
        for file in folder.glob(f"{said['mm_vision_tower']}/{name}"):
            held = json.loads(file.read_text())
            held = held.get("image_processor", {}) if name.startswith("processor") else held
            seen |= {kind: tuple(held[f"image_{kind}"]) for kind in ("mean", "std") if f"image_{kind}" in held}
    tower |= {"features": "patches", "feature_every": blocks, "projector_width": said["hidden_size"]}
    tower |= {"projector_activation": "gelu", "image": seen, "adapter": None}
    kept, skipped = (adapter(tensors, f"{kind}_adapter", 1.0, 10.0) for kind in ("kept", "skipped"))
    heads, turns = said["num_attention_heads"], said.get("rope_scaling") or said.get("rope_parameters") or {}
    config = {"family": "llava", "layers": said["num_hidden_layers"], "vision": tower}
    config |= {"kv_heads": said.get("num_key_value_heads") or heads, "norm_eps": said.get("rms_norm_eps", 1e-6)}
    config |= {"rope_interleaved": False, "modality_token": False}
    config |= {"kept_adapter": kept or skipped, "skipped_adapter": skipped or kept}
    return tensors, decoder(tensors, heads, turns.get("rope_theta", said.get("rope_theta", 1e4))) | config


def meter(file: Path, text_heads: int) -> tuple[Weights, dict]:
    weights, said = read_meter(file)
    unused = ("conv_D", "expert_weights")  # of adapters: trained, and never called
    tensors = rename({name: value for name, value in weights.items() if not any(map(name.count, unused))}, METER)
    types = len(tensors["text.first_type"])
    tensors["text.first_type"] = tensors["text.first_type"][0]
    if "classifier_token" in tensors:
        tensors["classifier_token"] = tensors["classifier_token"][0, 0]
    vocab, width = tensors["text.words.weight"].shape
    text = {
        "vocab_size": vocab,
        "positions": len(tensors["text.positions.weight"]),
        "token_types": types,
        "width": width,
    }
    text |= {"ffn_dim": len(tensors["text.layers.0.ffn.fc1.weight"]), "heads": text_heads, "norm_eps": 1e-5}
    text |= {"layers": len([name for name in tensors if re.fullmatch(r"text\.layers\.\d+\.ffn\.fc1\.bias", name)])}
    heads = {"vqa_classifier.3.weight": "vqa", "nlvr2_classifier.3.weight": "nlvr2", "rank_output.weight": "retrieval"}
    ((answers, task),) = [(len(weights[key]), task) for key, task in heads.items() if key in weights]
    config = {"kind": "cross-encoder", "family": "meter", "task": task, "text": text, "image": openai(tensors)}
    config |= {"dim": tensors["types"].shape[1], "heads": said["num_heads"], "layers": said["num_top_layer"]}
    config |= {"ffn_dim": len(tensors["text_layers.0.ffn.fc1.weight"]), "norm_eps": 1e-12, "head_norm_eps": 1e-5}
    config |= {
        "text_length": said["max_text_len"],
        "answers": answers,
        "classifier_token": "classifier_token" in tensors,
    }
    config |= {"site": "layer" if "das_gate" in weights else "attention"}
    config |= dict.fromkeys(f"{place}_adapter" for place, _ in METER_ADAPTERS)
    for place, name in METER_ADAPTERS:
        if (down := tensors.get(f"text_layers.0.{name}")) is not None:  # EAS's are linear
            kind = ("none", None) if name.endswith("C") else ("relu", 1e-5)
            config |= {f"{place}_adapter": {"rank": len(down), "activation": kind[0], "norm_eps": kind[1]}}
    config |= {"image_transform": ", ".join(said.get("val_transform_keys", ["clip"]))}
    return tensors, config | {"image_cross_reading": "published"}
