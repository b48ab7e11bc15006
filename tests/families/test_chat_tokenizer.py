"""Tokenizers and chat templates of text models: ids of transformers' AutoTokenizer and apply_chat_template, for what other models' files are like."""

import io
import json
import sys
from pathlib import Path

import pytest
import tokenizers
from conftest import TINY
from hf_models import make_folder
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, Qwen2Tokenizer

from eas_export import Question
from eas_export.core.errors import UserError
from eas_export.families import get_family
from eas_export.families.processing.chat_template import REWRITES, ChatTemplate, message
from eas_export.families.processing.chat_tokenizer import NO_TEMPLATE, ChatTokenizer
from eas_export.generation.text_model import TextModel, open_model
from eas_export.pipeline import build

PROMPTS = get_family("hf").prompts
CORPUS = ["the cat sat on the mat, don't you think? 1234 5678", "user assistant system\n\nthe hen  and the cow"] * 9
WORDS = (
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # in the style of Llama 3
)
TEXTS = (
    *(
        "",
        " ",
        "the cat",
        " the  cat ",
        "\n\nthe\n",
        "don't 12345",
        "\u00e9 \u65e5\u672c\U0001f600 e\u0301",
        "\u2581the",
    ),
    *("<|im_end|>the <|im_end|> <s>a</s> b</s>", "<bos><end_of_turn>\n<start_of_turn>user", "<|im_start|>", "<|eot"),
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if not date is defined %}{% set date = strftime_now("%Y") %}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}
    {%- if loop.index > 100 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n\n' }}{%- endif %}
"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
{{ '<start_of_turn>' + (m['role'] if m['role'] == 'user' else 'model') + '\n' + m['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\n' }}
{%- endif %}"""
MISTRAL = """{{- bos_token }}
{%- set system = messages[0]["content"] if messages[0]["role"] == "system" else none %}
{%- set turns = messages[1:] if system is not none else messages %}
{%- for m in turns %}
    {%- if m["role"] == "user" %}
        {{- "[INST] " + (system + "\n\n" if loop.last and system is not none else "") + m["content"] + "[/INST]" }}
    {%- else %}{{- " " + m["content"] | trim + eos_token }}{%- endif %}
{%- endfor %}"""
THINKING = """{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == "assistant" and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- generation %}{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


def trained(
    model: models.Model, trainer: trainers.Trainer, pre: object, normalizer: object = None, decoder: object = None
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoder
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level(*special: str, split: object = None, normalizer: object = None, bos: str | None = None) -> Tokenizer:
    """bos: a token that the post-processor puts first"""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is not SPLIT)
    pre = split if split is QWEN else pre_tokenizers.Sequence([split, letters])
    tokenizer = trained(models.BPE(), trainer, pre, normalizer, decoders.ByteLevel())
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in special])
    if bos:
        first = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), first])
    return tokenizer


def pieces(*special: str, pre: object, normalizer: object = None, bos: str) -> Tokenizer:
    """With bytes for unknown characters, as sentencepiece's"""
    whole = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=whole, show_progress=False)
    shown = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = trained(model, trainer, pre, normalizer, shown)
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [each for each in raw["added_tokens"] if not each["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    number = tokenizer.token_to_id(bos)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return tokenizer


def unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always")
    return trained(models.Unigram(), trainer, metaspace, normalizers.NFKC(), decoders.Metaspace())


IM = ("<|im_start|>", "<|im_end|>")
QWEN = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
SPLIT = pre_tokenizers.Split(Regex(WORDS), "isolated")
METASPACE = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS = {  # what makes tokenizer.json, tokenizer_config.json, model_type, the template
    "smollm2": (
        lambda: byte_level(*IM, split=pre_tokenizers.Digits(individual_digits=True)),
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": IM[0], "eos_token": IM[1], "unk_token": IM[0]},
        *("llama", CHATML),
    ),
    "llama 3": (
        lambda: byte_level("<s>", *IM, split=SPLIT, bos="<s>"),
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": IM[1]},
        *("llama", LLAMA3),
    ),
    "qwen": (
        lambda: byte_level("<|endoftext|>", *IM, split=QWEN, normalizer=normalizers.NFC()),
        {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "eos_token": IM[1], "add_bos_token": False},
        *("qwen3", THINKING),
    ),
    "gemma": (
        lambda: pieces(
            *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"),
            pre=pre_tokenizers.Split(" ", "merged_with_previous"),
            normalizer=normalizers.Replace(" ", "\u2581"),
            bos="<bos>",
        ),
        {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        | {"pad_token": "<pad>", "mask_token": "<mask>"},
        *("gemma2", GEMMA),
    ),
    "llama 2": (
        lambda: pieces("<unk>", "<s>", "</s>", pre=METASPACE, bos="<s>"),
        NAMES | {"tokenizer_class": "LlamaTokenizer", "legacy": False},
        *("llama", MISTRAL),
    ),
    "mistral": (
        lambda: pieces("<unk>", "<s>", "</s>", "[INST]", "[/INST]", pre=METASPACE, bos="<s>"),
        NAMES | {"tokenizer_class": "LlamaTokenizerFast", "legacy": False},
        *("mistral", MISTRAL),
    ),
    "unigram": (unigram, NAMES | {"tokenizer_class": "PreTrainedTokenizerFast"}, "granite", MISTRAL),
}


def write(folder: Path, kind: str, **files: object) -> Path:
    make, config, model_type, template = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    make().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(template)
    contents = {"tokenizer_config": config, "config": {"model_type": model_type}} | files
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def read(folder: Path) -> ChatTokenizer:
    return ChatTokenizer(sorted(folder.iterdir()), 2000)


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("kind"), request.param)
    return read(folder), AutoTokenizer.from_pretrained(folder), request.param


def test_ids_and_texts_are_those_of_transformers(both):
    ours, theirs, _ = both
    assert (ours.bos, ours.eos) == (theirs.bos_token_id, theirs.eos_token_id)
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert PROMPTS.ids(None, ours, Question(prompt=text)) == theirs.encode(text)


def test_a_conversation_is_what_the_template_makes_of_it(both):
    """Three turns, the answers as the model gave them: the ids fed so far are those of the whole conversation."""
    ours, theirs, kind = both
    system = {} if kind in ("gemma", "mistral", "llama 2", "unigram") else {"system": "Be the cat."}
    question = Question(question="Which?", context="the mat", options=("cat", "hen"), **system)
    said = "Context: the mat\nWhich?\nA. cat\nB. hen\nAnswer with the option's letter from the given choices directly."
    messages = PROMPTS.messages(question)
    assert messages == [*(message("system", text) for text in system.values()), message("user", said)]
    whole = lambda turns: theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    ids = PROMPTS.ids(None, ours, question)
    assert ids == whole(messages)
    for answer, asked in (("the cat", "Why {{ 1 }}?"), ("don't think", "\u00e9")):
        turn = PROMPTS.turn(ours, Question(question=asked), messages)
        messages = [*messages, message("assistant", answer), message("user", asked)]
        want = whole(messages)
        middle = want[len(ids) : len(want) - len(turn)]
        assert want == [*ids, *middle, *turn]
        assert ours.decode(middle).strip() == answer
        ids = want


@pytest.mark.parametrize(
    "template, files, want",
    [
        ("file", {"chat_template": "{{ 'config' }}"}, "file"),
        (None, {"chat_template": "{{ 'config' }}"}, "config"),
        (None, {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}, "d"),
    ],
)
def test_where_a_template_is(tmp_path, template, files, want):
    folder = write(tmp_path, "qwen", tokenizer_config=KINDS["qwen"][1] | files)
    path = folder / "chat_template.jinja"
    path.write_text(template) if template else path.unlink()
    theirs, messages = AutoTokenizer.from_pretrained(folder), [message("user", "a")]
    assert read(folder).chat.render(messages) == theirs.apply_chat_template(messages, tokenize=False) == want


def test_what_is_said_without_a_template_and_of_one_that_rewrites(tmp_path):
    folder = write(tmp_path, "smollm2")
    assert read(folder).chat_notes() == ()
    (folder / "chat_template.jinja").unlink()
    ours = read(folder)
    assert ours.chat_notes() == (NO_TEMPLATE,)
    assert PROMPTS.ids(None, ours, Question(question="the cat")) == ours.encode("the cat")
    assert PROMPTS.turn(ours, Question(question="the hen")) == [ours.eos, *ours.encode("the hen")]
    with pytest.raises(UserError, match=r"has no chat template with a place for it .*: put it into the question"):
        PROMPTS.ids(None, ours, Question(question="a", system="b"))
    for template, notes in ((THINKING, (REWRITES,)), (MISTRAL, (REWRITES,)), (LLAMA3, ()), ("{% if", None)):
        said = ChatTemplate(tmp_path, template, {"bos_token": "<s>", "eos_token": "</s>"}).notes()
        assert said == notes if notes is not None else "the chat template fails (TemplateSyntaxError" in said[0]


def test_ends_are_those_of_the_generation_config_too(tmp_path):
    names = KINDS["qwen"][1] | {"eos_token": None}
    assert read(write(tmp_path, "qwen", generation_config={"eos_token_id": [5, 7]})).ends[1:] == (5, 7)
    assert read(write(tmp_path, "qwen", tokenizer_config=names, generation_config={"eos_token_id": 7})).ends == (7,)
    with pytest.raises(UserError, match="no file says what ends an answer"):
        read(write(tmp_path, "qwen", tokenizer_config=names, generation_config={}))


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
REFUSED = {
    "forever": (LOOP, "it takes too long"),
    "memory": ("{{ 'x' * 10**9 }}", "more than 512 MB"),
    "long text": ("{{ 'x' * 10**7 }}", "its text has 10000000 characters"),
    "attributes": ("{{ ''.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
    "a namespace's own attributes": (
        "{% set n = namespace(__class__=1) %}",
        "SecurityError: a namespace has no __class__",
    ),
    "setting them": ("{% set n = namespace() %}{% set n._x = 1 %}", "SecurityError: a namespace has no _x"),
    "change": ("{{ messages.append(1) }}", "SecurityError"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "syntax": ("{% if %}", "TemplateSyntaxError"),
    "its own words": ("{{ raise_exception('Roles\nmust alternate') }}", "refuses the messages: Roles must alternate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_fails_ends_in_one_line(tmp_path, name):
    template, said = REFUSED[name]
    chat = ChatTemplate(tmp_path / "chat_template.jinja", template, {})
    for _ in range(1 if name == "forever" else 2):
        with pytest.raises(UserError, match=f"{said}.*chat_template.jinja.*: ") as error:
            chat.render([message("user", "a")])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content, said",
    [(b"x" * 1_000_000, "has 1000000 characters, at most 131072"), (b"\xff", "not UTF-8 text")],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, content, said):
    folder = write(tmp_path, "smollm2")
    (folder / "chat_template.jinja").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(folder)


def test_of_named_templates_one_is_the_default(tmp_path):
    config = KINDS["qwen"][1] | {"chat_template": [{"name": "rag", "template": "r"}]}
    folder = write(tmp_path, "qwen", tokenizer_config=config)
    assert read(folder).chat is not None, "a file of its own counts"
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="none of the 1 chat templates has the name default"):
        read(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model of random weights with Llama 3's way to chat."""
    folder, out = tmp_path_factory.mktemp("chat"), tmp_path_factory.mktemp("bundle") / "chat.bundle"
    make_folder(folder, "llama", vocab_size=400, num_hidden_layers=1)
    write(folder, "llama 3", config=json.loads((folder / "config.json").read_text()))
    build(folder, out, verify=False, max_prompt=128, max_tokens=256)
    return out, AutoTokenizer.from_pretrained(folder)


def test_a_conversation_feeds_what_transformers_makes_of_it(bundle, monkeypatch):
    """Also where an answer ended by length, and is no message's whole text."""
    path, theirs = bundle
    model, fed = open_model(path), []
    conversation = model.start([Question(question="the cat?", system="Be kind.")])
    list(model.stream(conversation, 3))
    (answer,) = [list(tokens) for tokens in conversation.answers]
    extend = type(conversation).extend
    monkeypatch.setattr(type(conversation), "extend", lambda self, turns: (fed.append(turns[0]), extend(self, turns)))
    model.ask(conversation, ["And the hen?"])
    begin = [message("system", "Be kind."), message("user", "the cat?")]
    assert conversation.messages == [
        [*begin, message("assistant", theirs.decode(answer)), message("user", "And the hen?")]
    ]
    placed = [*begin, message("assistant", "X"), message("user", "And the hen?")]
    want = theirs.apply_chat_template(placed, add_generation_prompt=True, return_dict=False)
    before = theirs.apply_chat_template(begin, add_generation_prompt=True, return_dict=False)
    assert want == [*before, *theirs.encode("X", add_special_tokens=False), *fed[0]]
    assert conversation.lengths.tolist() == [len(before) + len(answer) + len(fed[0])]
    with pytest.raises(UserError, match="a system message can only begin a conversation"):
        model.ask(conversation, [Question(question="a", system="b")])


def test_system_messages_on_the_command_line(bundle, command, refused, bundle_of, monkeypatch):
    path, _ = bundle
    asked, start = [], TextModel.start
    monkeypatch.setattr(
        TextModel,
        "start",
        lambda self, questions, *more, **others: (asked.append(questions), start(self, questions, *more, **others))[1],
    )
    sent = "the cat?\n/reset\nthe hen?\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent.encode())))
    code, _, err = command("run", path, "--chat", "--system", "Be kind.", "--max-new-tokens", 2)
    assert (code, [each.system for each in asked]) == (0, ["Be kind."] * 2) and "error" not in err
    assert command("run", path, "--question", "a", "--system", "b", "--max-new-tokens", 2)[0] == 0
    assert asked[2][0].system == "b"
    assert "a system message goes with question, not with prompt" in refused(
        "run", path, "--prompt", "a", "--system", "b"
    )
    plain = bundle_of(TINY, fold="lowrank").path
    assert "no chat template with a place for it" in refused("run", plain, "--question", "a", "--system", "b")
    code, _, err = command("run", plain, "--chat", "--system", "b")
    assert code and "no chat template with a place for it" in err


def test_a_later_turn_has_the_whole_conversation_before_it(tmp_path):
    chat = ChatTemplate(tmp_path, "{% for m in messages %}[{{ loop.index }}{{ m.content }}]{% endfor %}", {})
    assert chat.turn([message("system", "S"), message("user", "Q")], message("user", "R")) == "][4R]"
