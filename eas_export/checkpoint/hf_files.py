"""The names of the files in a Hugging Face folder that are read, beside those of its weights."""

CONFIG_FILE, GENERATION_CONFIG = "config.json", "generation_config.json"
SENTENCEPIECE, TOKENIZER_CONFIG = "tokenizer.model", "tokenizer_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
# Possible files of a tokenizer, in a checkpoint and in a bundle; without the first there is none
TOKENIZER_FILES = (SENTENCEPIECE, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, GENERATION_CONFIG, CONFIG_FILE)
