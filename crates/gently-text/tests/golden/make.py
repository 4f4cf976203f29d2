#!/usr/bin/env python3
"""Write the golden fixtures of this folder with Hugging Face tokenizers and transformers.

`strings.json`     hard strings, the same for every tokenizer
`vocab-*.json`     a small vocabulary as a GGUF file carries it, and the ids of each string by the Python pipeline that is
                   published for the models whose rule it has
`chat.json`        chat templates, conversations, and what transformers renders
`expressions.json` small templates, and what transformers renders

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
    # To SentencePiece spaces alone are extra, and a text that begins with its mark gets another in front.
    t.normalizer = normalizers.Sequence([
        normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A | \z"), ""),
        normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    t.pre_tokenizer = None
    t.encode_special_tokens = True
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


# One template each: what Python and Jinja make of small things. Lines of their own; `↵` is a line's end within one.
EXPRESSIONS = r"""
{{ [1e-5, 1e16, 0.1, -0.0, 1e22, 123456789012345.6, 1e15, 1.5e300, 2.0] }} {{ 1e16 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1.0 }}
{{ [1e-7] | string }} {{ [1e-7, 2, none, true] | join(',') }} {% set x = 1e-7 %}{{ 'a' ~ x ~ [x] ~ none }}{{ x | string }}
{{ [{'a': 1}, {'a': 1e-9}, {}] | join(', ', attribute='a') }} {{ [[1], [2]] | join('|') }} {{ 'abc' | join('-') }} {{ [] | join }}
{{ ['\x1f', '\x7f', '\x85', '\xa0', '\xad', '\u200b', '\u2028', '\ue000', '\U000e0001', '\U0001f600', '\u0378', '\u0301', 'é'] }}
{{ ["a'b", 'a"b', 'a\'b"c', '\\', '\n\r\t', '\0'] }} {{ {'a': (1,), "b'": [(), (1, 'x')]} }} {{ [missing, none, true] }}
{{ messages | groupby('role') }} {{ {1: 'a', none: 2.5, 'x': {}} }}
{{ {1: 2, none: 3, true: 4, 1.5: 5, 'k': 6} | tojson }} {{ {1e-7: 1} | tojson }} {{ {false: none} | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ {'b': 1, 'a': [1, {'d': 2, 'c': 3}]} | tojson(sort_keys=true) }} {{ {3: 1, 1.5: 2, true: 0} | tojson(sort_keys=True) }}
{{ {'b': 1, 2: 1} | tojson(sort_keys=true) }}
{{ {'a': [1, 2], 'b': {}} | tojson(separators=(',', ':')) }} {{ [1, [2]] | tojson(separators=(';', '='), indent=1) }}
{{ 'é€😀\x7f\x1f"\\/' | tojson(ensure_ascii=true) }} {{ 'é€😀\x7f\x1f"\\/\b\f' | tojson }} {{ 'é' | tojson(true) }} {{ [1] | tojson(0, 2) }}
{{ [1, [2, []], {}] | tojson(indent=0) }} {{ [1, {'a': 2}] | tojson(indent='--') }} {{ [1] | tojson(indent=true) }} {{ [1] | tojson(indent=-3) }}
{{ [1] | tojson(indent=none, ensure_ascii=False, sort_keys=False, separators=None) }} {{ [1e999, -1e999, 1e16, 1e-5] | tojson }}
{{ [1] | tojson(separators='x') }}
{{ [1] | tojson(indent=1.5) }}
{{ 'abc' is sequence }} {{ {} is sequence }} {{ [] is sequence }} {{ () is sequence }} {{ 5 is sequence }} {{ missing is sequence }} {{ none is sequence }}
{{ none is iterable }} {{ missing is iterable }} {{ 'a' is iterable }} {{ {} is iterable }} {{ [] is iterable }} {{ 5 is iterable }} {{ true is iterable }}
{{ range is callable }} {{ missing is callable }} {{ 5 is callable }} {{ {} is callable }} {{ joiner() is callable }} {{ cycler(1) is callable }} {{ strftime_now is callable }}
{% macro m() %}{% endmacro %}{{ m is callable }} {{ {}.items is callable }} {{ 'a' is callable }} {{ none is callable }} {{ namespace is callable }}
{{ '\x1c\x1fa\x85\u00a0\u200b ' | trim | tojson }} {{ '\x1c\x1fa\x85\u2003\u3000'.strip() | tojson }} {{ '\x1ca\x1d'.lstrip() | tojson }} {{ '\x1ea\x1f'.rstrip() | tojson }}
{{ 'xxaxx' | trim('x') }} {{ 'xya' | trim(chars='yx') }} {{ 5 | trim }} {{ 'abcb'.strip('cb') }} {{ ' a '.strip(none) }}| {{ 'xa'.lstrip('x') }} {{ 'ax'.rstrip('x') }}
{{ 'a\x1cb\x85c\u00a0d\u200be'.split() }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.split(maxsplit=2) }} {{ ' a b '.split(none, 0) }} {{ 'a b'.split(' ', -1) }} {{ ''.split() }} {{ ''.split(',') }}
{{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.split(sep=',', maxsplit=1) }} {{ ' a b '.split(' ') }} {{ 'a,b'.split(',', 0) }}
{{ 'a'.split('') }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ 'aaa'.rsplit('aa') }} {{ ' a  b c '.rsplit(none, 1) }} {{ ' a b '.rsplit() }} {{ 'a b c'.rsplit(maxsplit=1) }} {{ ' a b '.rsplit(none, 0) }} {{ 'a-b'.rsplit('-', 5) }}
{{ 'a\x1cb\x0bc\x85d\u2028e\u2029f\x0cg\x1dh\x1ei\x1fj'.splitlines() }} {{ 'a\r\nb\n\nc\r'.splitlines() }} {{ 'a\r\nb\n'.splitlines(true) }} {{ ''.splitlines() }} {{ '\n'.splitlines() }} {{ 'a\n\rb'.splitlines(keepends=True) }}
{{ 'a=b=c'.partition('=') }} {{ 'abc'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.rpartition('=') }} {{ 'a--b'.partition('--')[2] }}
{{ 'a'.partition('') }}
{{ 'abcab'.removeprefix('ab') }} {{ 'abcab'.removesuffix('ab') }} {{ 'abc'.removeprefix('x') }} {{ 'abc'.removesuffix('') }} {{ 'aa'.removeprefix('a') }}
{{ 'aéabc'.find('a') }} {{ 'aéabc'.find('a', 1) }} {{ 'aéabc'.rfind('a') }} {{ 'abc'.find('z') }} {{ 'abc'.find('', 3) }} {{ 'abc'.find('', 4) }} {{ 'abc'.find('c', -1) }} {{ 'abcabc'.find('c', 0, -1) }} {{ 'abc'.find('a', 2, 1) }} {{ 'abc'.rfind('') }} {{ 'abc'.find('b', none, 2) }} {{ 'abcabc'.rfind('a', 0, 3) }}
{{ 'abcabc'.index('c') }} {{ 'abcabc'.rindex('c') }} {{ 'éb'.index('b') }} {{ 'abcabc'.index('c', 3) }} {{ [1, 2].index(2) }}
{{ 'abc'.index('z') }}
{{ 'abc'.rindex('z') }}
{{ 'aaaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'abc'.count('', 4) }} {{ 'abcabc'.count('b', 2) }} {{ 'éé'.count('é', 0, 1) }}
{{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.startswith('', 4) }} {{ 'abc'.startswith('bc', -2) }} {{ 'abc'.endswith(('c', 'd')) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.endswith('') }} {{ 'abc'.startswith(()) }}
{{ 'ab'.zfill(5) }} {{ '-4'.zfill(5) }} {{ '+4'.zfill(3) }} {{ '4'.zfill(-1) }} {{ ''.zfill(2) }} {{ 'é'.zfill(3) }} {{ '--1'.zfill(5) }}
{{ 'a'.ljust(3) }}| {{ 'a'.rjust(3) }} {{ 'a'.rjust(4, '日') }} {{ 'abc'.ljust(2) }} {{ 'é'.ljust(3, '.') }}
{{ 'a'.ljust(3, 'xx') }}
{{ 'a'.center(4, '*') }} {{ 'ab'.center(5, '*') }} {{ 'a'.center(5) }}| {{ 'abc'.center(1) }} {{ 'ab'.center(7, '日') }} {{ 'abc'.center(6, '*') }}
{{ 'Straße ΣΑΣ ŉ ﬁ ẞ ı ꭰᏸ'.casefold() }} {{ 'ΑΣ Ab1 ß ǅ ﬁ'.swapcase() }} {{ 'ABC'.casefold() }}
{{ "they're bill's".title() }} {{ 'ǆabc ßx ﬁn ΑΣ ΑΣ. a1b2 x-y ძა ᾲ'.title() }} {{ 'hello wORLD'.title() }} {{ 'aBC ΑΣ'.capitalize() }} {{ 'ǆ'.capitalize() }}
{{ ' \x1c\u00a0'.isspace() }} {{ ''.isspace() }} {{ 'a '.isspace() }} {{ '\u200b'.isspace() }}
{{ ','.join(['a', 'b']) }} {{ ''.join([]) }} {{ '-'.join('abc') }} {{ '-'.join({'a': 1, 'b': 2}) }}
{{ ','.join(['a', 1]) }}
{{ 'a %s b %d' % ('x', 3) }} {{ '%s' % 'x' }} {{ '%05.2f' % 3.14159 }} {{ '%s' % [1, 'a'] }} {{ '%s' % none }} {{ '%(x)s %(y)05d' % {'x': 1, 'y': 2} }} {{ '%r %a' % ('é', 'é\n') }} {{ '%s' % ((1, 2),) }} {{ '100%%' % () }} {{ 'x' % {} }} {{ 'x' % [1] }}
{% set f = 1e-7 %}{{ '%s %s' % (f, [f]) }} {{ '%s %s' | format(f, true) }} {{ '%(a)s' | format(a=f) }} {{ 7 | format }} {{ '%s%%' | format(5) }} {{ '%-5s|%5s|' | format('a', 'é') }} {{ '%.2s|%5.1s|' % ('abc', 'xyz') }}
{{ '%d %i %u' % (3.9, -3.9, true) }} {{ '%5d|%-5d|%05d|%+d|% d|%+05d' % (42, 42, -42, 42, 42, 42) }} {{ '%.3d|%8.3d|%08.3d' % (5, -5, 5) }} {{ '%x %X %o %#x %#X %#o %#010x' % (255, 255, 8, 255, 255, 8, 255) }} {{ '%x' % -255 }}
{{ '%e %E %g %G %f %F' % (1.5, 0.00001, 0.00001, 1e20, 1.005, 2.0) }} {{ '%.0f %#.0f %.0e %#.3g %g %g %g' % (2.5, 2.0, 1.5, 1.0, 100000.0, 1e6, 0.0) }} {{ '%5.1f|%-8.2f|%+08.2f' % (1.25, 1.255, -1.005) }} {{ '%f %05f %+g %G' % (1e999, -1e999, 1e999, 1e999) }} {{ '%.3f' % 2 }} {{ '%f' % true }}
{{ '%c%c%3c|%-3c|' % (65, 'b', 'é', 8364) }} {{ '%*d|%-*d|%.*f' % (5, 42, 5, 42, 2, 1.239) }} {{ '%*d|' % (-4, 7) }} {{ '%ld %hs' % (1, 'a') }}
{{ '%s %s' % 'a' }}
{{ '%s' % (1, 2) }}
{{ 'x' % 1 }}
{{ '%d' % 'a' }}
{{ '%x' % 1.5 }}
{{ '%q' % 1 }}
{{ '%' % 1 }}
{{ '%(x)s' % 1 }}
{{ '%f' % 'a' }}
{{ '%c' % 'ab' }}
{% set n = 7 %}{{ n % 3 }} {{ -n % 3 }} {{ n % -3 }} {{ n % 2.5 }} {{ n % 7 }} {{ true % 2 }}
{{ '{} {}'.format(1, 'a') }} {{ '{1} {0} {1}'.format('a', 'b') }} {{ '{a}{b}'.format(a=1, b=none) }} {{ '{{}}{}'.format(2.5) }} {{ '{0}{x}'.format(1, x=[1e-7, 'é']) }} {{ '{!r} {0!s:}'.format('a') if false else '{!r}|{!s}|{!a}'.format('é', 'é', 'é') }} {{ '{:}'.format(1) }} {{ 'x'.format() }} {{ '{}'.format(true) }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{} {1}'.format(1, 2) }}
{{ '{1}'.format(1) }}
{{ '{x}'.format(1) }}
{{ '{}'.format() }}
{{ 'hello world_foo  bar-baz é1' | wordcount }} {{ '' | wordcount }} {{ 'a' | wordcount }}
{{ 'abcdefghij' | truncate(5) }} {{ 'abcdefghij klm nop' | truncate(9, true, '..') }} {{ 'foo bar baz qux' | truncate(9) }} {{ 'foo bar baz qux' | truncate(9, leeway=0) }} {{ 'foo bar baz qux' | truncate(length=11, leeway=0, end='') }} {{ 'foo bar baz' | truncate(9, false, '...', 0) if false else '' }}{{ 'éééééééééééé' | truncate(4, true, '…', leeway=0) }}
{{ 'foo bar' | truncate(2) }}
{{ 'a b c d e' | wordwrap(3) }} {{ 'the quick-brown fox -- jumped over' | wordwrap(7) }} {{ 'abcdefghij klm' | wordwrap(4, false) }} {{ 'abcdefgh' | wordwrap(3, true, '|') }} {{ 'one two\n\nthree  four\n' | wordwrap(5, wrapstring='/') }} {{ 'well-known--good, self-e-steem x-y' | wordwrap(6, wrapstring='|') }} {{ 'a-b-c-d ab-cd-ef' | wordwrap(4, wrapstring='|', break_on_hyphens=false) }} {{ 'short' | wordwrap }}
{{ 'a b' | wordwrap(0) }}
{{ 'a' | center(5) }}| {{ 'ab' | center(width=5) }}| {{ 'x' | center }}| {{ 5 | center(3) }}|
{{ '<b>x</b> &amp; <!-- a > b --> y\n  z &lt;i&gt; &#65;&#x42;&#150;&#0; &nope; AT&T &copy <' | striptags }} {{ 'a <br' | striptags }} {{ 5 | striptags }} {{ '<!-- x' | striptags }} {{ '&#x110000;&#1;&quot;&#39;&apos;|&nbsp;|' | striptags | tojson }}
{{ 'a b/c?d=é&~' | urlencode }} {{ {'a b': 'c/d', 'x': 1} | urlencode }} {{ [('a', 'b c'), ('d', '&')] | urlencode }} {{ 5 | urlencode }} {{ none | urlencode }} {{ '' | urlencode }}
{% set c = cycler('a', 'b', 3) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.next() }}{% do_nothing %}
{% set c = cycler('a', 'b', 3) %}{{ c.current }}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}
{{ cycler() }}
{% set j = joiner() %}{% for i in [1, 2, 3] %}{{ j() }}{{ i }}{% endfor %}{% set k = joiner('|') %}[{{ k() }}][{{ k() }}][{{ k() }}]{% set l = joiner(sep='+') %}{{ l() }}{{ l() }}
{{ {'items': {'x': 1}}.items is mapping }} {{ {'items': 1}['items'] }} {{ {'update': 1}.update is defined }} {{ {}.get is defined }} {{ {'pop': 1}.pop }}| {{ {'items': {'x': 1}}.items.x }}| {{ {'a': 1}.items() | list }} {{ {'values': 1}.values() | list }}
{% set f = {'a': 1}.items %}{{ f() | list }} {% set ns = namespace(items=5) %}{{ ns.items }} {% set ns.keys = 6 %}{{ ns.keys }} {% set m = {'get': 7} %}{{ m.get('get') }} {{ m['get'] }} {{ missing is defined }}
{{ missing.items }}
{{ '\é\€\😀' }} {{ '\a\v\/\q\0\101\x41\u00e9\U0001f600' | tojson }} {{ 'a\777' }} {{ '\'"\\' }} {{ "\"'" }} {{ '\8' }} {{ '\08' | tojson }}
{{ 'a\↵b' }} {{ '\\↵' | tojson }}
{{ '\x4' }}
{{ '\U00110000' }}
{% raw %}↵ x↵{% endraw %}↵y
{%- raw -%}  x  {%- endraw -%} y
  {% raw %}↵ {{ x }} '\a{% endraw %}↵ z
a↵  {%- raw %}↵{{ x↵{% endraw %}↵{% raw %}b{% endraw %}
{# {% raw %} #}{{ '{% raw %}' }}{{ '{#' }}{{ {'a': {'b': '}}'}} }}{# ' #}{{ '\a' | tojson }}{#}#}{{ 1 }}
{% if true %}↵  a↵{% endif %}↵↵b{# c #}↵{% for i in [1] %}{{ i }}{% endfor %}↵
{{ 'x' ~ 1 ~ 2.5 ~ none ~ true ~ missing ~ 'é' }} {{ (1, 2) ~ [] }} {{ 1 ~ 1 }}
"""


def expressions():
    """What each of them is; `None` where Python refuses."""
    out = []
    for source in EXPRESSIONS.strip("\n").split("\n"):
        source = source.replace("↵", "\n")
        for source in (source, source.replace("\n", "\r\n"), source.replace("\n", "\r"))[: 3 if "\n" in source else 1]:
            try:
                text, _ = render_jinja_template(
                    [[{"role": "user", "content": " Hi\n"}]], chat_template=source, add_generation_prompt=True,
                    bos_token="<s>", eos_token="</s>")
                out.append([source, text[0]])
            except Exception:  # noqa: BLE001 a refusal is an answer
                out.append([source, None])
    dump("expressions.json", out)


def main():
    texts = strings()
    dump("strings.json", texts)
    byte_level(texts)
    sentencepiece(texts)
    unigram(texts)
    wordpiece(texts)
    chats()
    expressions()
    (HERE / "VERSIONS.txt").write_text(f"tokenizers {tokenizers.__version__}\ntransformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
