"""The names of the files in a Hugging Face folder that are read, beside those of its weights."""

CONFIG_FILE, GENERATION_CONFIG = "config.json", "generation_config.json"
SENTENCEPIECE, TOKENIZER_JSON = "tokenizer.model", "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
TOKENIZERS = (SENTENCEPIECE, TOKENIZER_JSON)  # one of them is the tokenizer
BESIDE_TOKENIZER = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
CHAT_TEMPLATE = "chat_template.jinja"
OF_THE_MODEL = (GENERATION_CONFIG, CONFIG_FILE)
VOCAB, MERGES = "vocab.json", "merges.txt"  # RoBERTa's tokenizer, where it is not a tokenizer.json
# Possible files of a tokenizer in a bundle
TOKENIZER_FILES = (*TOKENIZERS, VOCAB, MERGES, *BESIDE_TOKENIZER, CHAT_TEMPLATE, *OF_THE_MODEL)
