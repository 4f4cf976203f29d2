#!/usr/bin/env python3
"""Write the golden fixtures of this folder with Hugging Face tokenizers and transformers.

`strings.json`     hard strings, the same for every tokenizer
`vocab-*.json`     a small vocabulary as a GGUF file carries it, and the ids of each string by the Python pipeline that is
                   published for the models whose rule it has
`chat.json`        chat templates, conversations, and what transformers renders

Run: python make.py   (tokenizers and transformers; the versions used are in VERSIONS.txt)
"""

import json
import random
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = Path(__file__).parent
SPACE = "\u2581"

PARTS = [
    "the", " the", " cat", "s", "'s", "'S", " don't", "WE'LL", "naïve", "café", "ü", "ß", "ﬁ", "Ünïcödé", "e\u0301\u0323",
    "日本語", "の", "テキスト", "。", "한국어", "العربية", "مرحبا", "שלום", "हिन्दी", "ไทย", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🙂", "1", "12", "123", "1234",
    "3.14", "½", "٣", "Ⅷ", "x²", "\n", "\r\n", "\n\n\n", "\t", " ", "  ", "    ", "\u00a0", "\u3000", "\u200b", "!", "?!", "...", "--", "==",
    "#include <stdio.h>", "def f(x):\n    return x", "http://a.b/c?d=e&f", "{\"k\": [1, 2]}", "<|x|>", "▁", "Ġ", "Ċ", "\ufeff", "\ufffd",
    "\x00", "\x7f", "I", "i'm", "It'd", "ʼn", "ǅ", "ⅳ", "CamelCase", "snake_case", "ALLCAPS", "a" * 40, "，", "“q”", "—", "𝒳", "𐐷",
]


def strings():
    r = random.Random(7)
    out = list(PARTS) + ["", "a", " a", "a ", " a ", "\na", "Hello, world! How are you?"]
    while len(out) < 1000:
        out.append("".join(r.choice(PARTS) for _ in range(r.randint(1, 4))))
    return out


CORPUS = [" ".join(random.Random(i).choice(PARTS[:60]) for _ in range(60)) for i in range(60)] + [
    "It was the best of times, it was the worst of times; we'll say it wasn't 1234 times.\n\n", "the cat's tail, the dog's bone",
    "def f(x):\n    return x + 1\n", "Numbers 2024 and 1999 and 7.",
] * 5

GPT2 = None
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# How the tokenizer.json of GPT-2, SmolLM2, Llama 3, Qwen2, Mistral NeMo and Falcon cut.
BYTE_LEVEL = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "tekken": split(TEKKEN),
}


def dump(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (HERE / name).write_text(text)
    print(f"{name}: {len(text) / 1024:.0f} KB")
    assert len(text) < 200_000, name


def byte_level(texts):
    for pre, cut in BYTE_LEVEL.items():
        t = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
        t.pre_tokenizer = cut
        t.decoder = decoders.ByteLevel()
        specials = ["<|end|>", "<|start|>"]
        t.train_from_iterator(CORPUS, trainers.BpeTrainer(
            vocab_size=420, special_tokens=specials, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False))
        model = json.loads(t.to_str())["model"]
        vocab = sorted(model["vocab"], key=model["vocab"].get)
        t.encode_special_tokens = True
        dump(f"vocab-{pre}.json", {
            "model": "gpt2", "pre": pre, "tokens": vocab, "types": [3, 3] + [1] * (len(vocab) - 2),
            "merges": [" ".join(m) for m in model["merges"]], "ends": [0], "bos": 1, "add_bos": False,
            "ids": [t.encode(s, add_special_tokens=False).ids for s in texts],
        })


def sentencepiece(texts):
    """Llama 2's pipeline: BPE over text with visible spaces, bytes to fall back on; scores fall with the rank."""
    for name, prefix in (("sentencepiece", True), ("sentencepiece-no-prefix", False)):
        space = [normalizers.Replace(" ", SPACE)]
        t = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        t.normalizer = normalizers.Sequence(([normalizers.Prepend(SPACE)] if prefix else []) + space)
        specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        t.train_from_iterator(CORPUS, trainers.BpeTrainer(
            vocab_size=700, special_tokens=specials, show_progress=False, max_token_length=16))
        model = json.loads(t.to_str())["model"]
        vocab = sorted(model["vocab"], key=model["vocab"].get)
        # SentencePiece's scores: minus the rank among pieces that are merges; characters come last.
        rank = {}
        for a, b in model["merges"]:
            rank.setdefault(a + b, len(rank))
        scores = [0.0 if t in specials else -float(rank.get(t, len(rank) + i)) for i, t in enumerate(vocab)]
        # The reference uses all merges that scores imply, as transformers' converter does.
        merges = [(l, r, scores[model["vocab"][w]]) for w in vocab if w not in specials
                  for i in range(1, len(w)) if (l := w[:i]) in model["vocab"] and (r := w[i:]) in model["vocab"]]
        merges.sort(key=lambda m: (-m[2], model["vocab"][m[0]], model["vocab"][m[1]]))
        t.model = models.BPE(model["vocab"], [(a, b) for a, b, _ in merges], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        dump(f"vocab-{name}.json", {
            "model": "llama", "tokens": vocab, "types": [2, 3, 3] + [6] * 256 + [1] * (len(vocab) - 259), "scores": scores,
            "ends": [2], "bos": 1, "unknown": 0, "add_space_prefix": prefix,
            "ids": [t.encode(s, add_special_tokens=False).ids for s in texts],
        })


def unigram(texts):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False))
    model = json.loads(t.to_str())["model"]
    dump("vocab-unigram.json", {
        "model": "t5", "tokens": [e[0] for e in model["vocab"]], "scores": [e[1] for e in model["vocab"]],
        "types": [3, 3, 2] + [1] * (len(model["vocab"]) - 3), "ends": [1], "unknown": 2, "add_bos": False,
        "ids": [t.encode(s, add_special_tokens=False).ids for s in texts],
    })


def wordpiece(texts):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=specials, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    model = json.loads(t.to_str())["model"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    # As llama.cpp's converter respells it: a mark in front of words instead of one in front of their rests.
    spelled = [w if w in specials else w[2:] if w.startswith("##") else SPACE + w for w in vocab]
    t.encode_special_tokens = True
    dump("vocab-wordpiece.json", {
        "model": "bert", "tokens": spelled, "types": [3] * 5 + [1] * (len(vocab) - 5), "bos": 2, "ends": [3], "unknown": 1,
        "separator": 3, "class": 2, "whole": True, "ids": [t.encode(s).ids for s in texts],
    })


# Templates of our own that use what published ones use.
TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
              "You are helpful.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
              "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "inst": """{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content.strip() + '\n\n' -%}
    {%- set messages = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
{%- endif -%}
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message.role == 'user' -%}
        [INST] {{ (system if loop.first else '') + message.content | trim }} [/INST]
    {%- elif message.role == 'assistant' -%}
        {{ ' ' ~ message.content.rstrip() ~ eos_token }}
    {%- endif -%}
{%- endfor %}
""",
    "tools": """{%- macro show(value, depth=0) -%}
    {{ '-' * depth }}{{ value | tojson }}
{%- endmacro %}
{% if tools %}
Tools:
{% for tool in tools %}
{{ show(tool, 1) }}
{{ tool | tojson(indent=4) }}
{% endfor %}
{% endif %}
{%- set ns = namespace(turns=0, last='') %}
{% for message in messages if message.role != 'system' %}
    {% set ns.turns = ns.turns + 1 %}
    {% if message.content is string and message.content.startswith('/skip') %}{% continue %}{% endif %}
    {% if message.tool_calls is defined and message.tool_calls %}
call {{ message.tool_calls | map(attribute='name') | join(', ') }} {{ message.tool_calls[0].arguments.items() | list | length }}
        {% for key, value in message.tool_calls[0].arguments.items() %}
  {{ key }}={{ value }}
        {% endfor %}
    {% elif message.content is iterable and message.content is not string %}
        {% for part in message.content %}{{ part.get('text', '?') | upper }}{% endfor +%}
    {% else %}
{{ message.role | capitalize }}: {{ message.content.split('|')[-1] | replace('a', 'A') }}
        {% generation %}{{ message.content | length }}{% endgeneration %}

    {% endif %}
    {% set ns.last = message.role %}
{% endfor %}
{{ ns.turns }} {{ ns.last }}{% if ns.turns > 100 %}{% break %}{% endif %}
{{ 'yes' if not tools is none else 'no' }} {{ missing is defined }} {{ [1, 2.5, none, true, 'é"<&>'] | tojson }}
{%- if add_generation_prompt %}

Assistant:{% endif %}
""".replace("{% if ns.turns > 100 %}{% break %}{% endif %}", ""),
}

CONVERSATIONS = {
    "question": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [{"role": "system", "content": "  Be brief. "}, {"role": "user", "content": " Hi there \n"}],
    "turns": [{"role": "user", "content": "a|banana"}, {"role": "assistant", "content": "Four. "},
              {"role": "user", "content": "/skip this"}, {"role": "assistant", "content": "日本 <b>&</b> \"q\""},
              {"role": "user", "content": ""}],
    "two users": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "calls": [{"role": "user", "content": [{"type": "text", "text": "weather?"}, {"type": "image"}]},
              {"role": "assistant", "content": "", "tool_calls": [
                  {"name": "weather", "arguments": {"city": "Paris", "days": 3, "exact": True}}, {"name": "time", "arguments": {}}]},
              {"role": "tool", "content": "{\"t\": 21.5}"}],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It's <the> weather & more",
          "parameters": {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "number"}}, "required": ["z"]}}}]


def chats():
    cases = []
    for name, template in TEMPLATES.items():
        for title, messages in CONVERSATIONS.items():
            if title == "calls" and name != "tools":
                continue
            for tools in ([None, TOOLS] if name == "tools" else [None]):
                for prompt in (True, False):
                    try:
                        text, _ = render_jinja_template(
                            [messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                            bos_token="<s>", eos_token="</s>")
                        text = text[0]
                    except Exception as e:  # noqa: BLE001 a template may refuse
                        text = None
                        assert "alternate" in str(e), (name, title, e)
                    # As text: the order of keys is part of what is rendered.
                    cases.append({"template": name, "messages": json.dumps(messages), "prompt": prompt, "text": text,
                                  "tools": json.dumps(tools) if tools else None})
    dump("chat.json", {"templates": TEMPLATES, "cases": cases})


def main():
    texts = strings()
    dump("strings.json", texts)
    byte_level(texts)
    sentencepiece(texts)
    unigram(texts)
    wordpiece(texts)
    chats()
    (HERE / "VERSIONS.txt").write_text(f"tokenizers {tokenizers.__version__}\ntransformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
