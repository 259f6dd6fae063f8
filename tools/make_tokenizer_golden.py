#!/usr/bin/env python3
"""Makes the goldens of tests/text: what the Python libraries make of strings.txt, and of every code point.

    tools/make_tokenizer_golden.py --tokenizer DIR --output tests/data/text/NAME_ids.txt
    tools/make_tokenizer_golden.py --tokenizer DIR --explain NUMBER     prints string NUMBER and its tokens
    tools/make_tokenizer_golden.py --unicode-differences                prints src/text/unicode_differences.h's lists

DIR holds tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json. The strings are made up here, always the
same ones, and written beside OUTPUT. Needs PyPI's tokenizers and transformers (tools/requirements.txt); the last use
needs libutf8proc and a Python whose unicodedata is of the version of PCRE2 10.42 (Unicode 14: Python 3.11).

strings.txt: a string a line; bytes that are no printable UTF-8, and backslashes, are written \\xHH.
NAME_ids.txt: a line for each string, then for each block of code points, then for each prompt:
    string HASH COUNT [ID...]            Tokenizer.encode; every 8th line spells out the ids
    block FIRST HASH COUNT               the ids of code_point_context(c), 1024 code points from FIRST (hexadecimal)
    prompt STRING HASH COUNT TRUNCATED   ZImagePipeline's ids of string number STRING: chat template, at most 512 tokens
HASH is FNV-1a over the ids, 64 bits at a time.
"""

import argparse
import ctypes
import random
import sys
import unicodedata
from pathlib import Path

STRINGS = 5600
PROMPTS_EVERY = 16
SPELLED_OUT_EVERY = 8
MAX_TOKENS = 512
BLOCK = 1024


# --- the strings ---

NOUNS = [
    "lion", "apple", "beach umbrella", "lighthouse", "tram", "old woman", "astronaut", "koi pond", "bamboo forest",
    "neon sign", "teapot", "violin",
]
LOOKS = [
    "red", "tiny", "gigantic", "half-eaten", "translucent", "rain-soaked", "art-deco", "low-poly", "photorealistic",
    "grey", "1950s", "ornate",
]
PLACES = [
    "on the moon", "under a bridge", "in Zürich", "at dawn", "by the sea", "in an 80's diner", "next to a café",
    "in 8K", "on a table",
]
HAN = [
    "一只", "红色的", "猫", "坐在", "海边", "沙滩上", "两个", "苹果", "和", "香蕉", "夜晚", "的", "城市", "霓虹灯", "水墨画风格", "，", "。", "、",
    "《山水》", "“你好”", "超高清", "８Ｋ", "雪山", "穿着汉服的女孩", "繁體字", "龍", "龘", "𠮷", "㐂", "！", "？", "…",
]
WORDS = [
    "Привет", "мир", "Ελληνικά", "שָׁלוֹם", "مرحبا", "بِكُم", "हिन्दी", "ไทย", "ภาษา", "한국어", "조선글", "日本語", "ひらがな",
    "カタカナ", "ｶﾀｶﾅ", "Tiếng Việt", "naïve", "Straße", "İstanbul", "ǅ", "አማርኛ", "ქართული", "தமிழ்", "ភាសាខ្មែរ",
]
EMOJI = [
    "😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇳", "🇩🇪🇫🇷", "1️⃣", "❤️", "❤", "👨🏿‍🚀", "🐈‍⬛", "☔", "🫠", "🧑‍🎄", "©", "™", "↔️",
    "\u200d", "\ufe0f", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
]
CODE = [
    "def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}",
    "SELECT * FROM t WHERE id='7';", '<div class="a">&nbsp;</div>', "#include <vector>\r\n",
    '{"key": [1, 2.5e-3, null]}', "C:\\Users\\x", "a != b && c", "https://example.org/a?b=c%20d#e",
    "`rm -rf /tmp/*`", "x->y::z<T>()", "// TODO: don't", "$PATH:${HOME}", "0x1F_FF",
]
CONTRACTIONS = [
    "'s", "'S", "'\u017f", "'t", "'RE", "'ve", "'M", "'ll", "'LL", "'d", "\u2019s", "'", "''", "'x", "'\u212a",
]
SPACES = [
    " ", "  ", "\t", "\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u180e", "\u2003",
    "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff",
]
MARKS = [
    chr(c)
    for c in (*range(0x300, 0x370), 0x5B0, 0x5BC, 0x64B, 0x651, 0x93C, 0x94D, 0xE38, 0xF71, 0xF72, 0x302A, 0x3099)
]
BASES = "aeioucnsAEOYZ"
BASES += "\u1100\u1161\u11a8가각かハ\u212b\u2126\u0344\u0958\u05e9\u0f40\ufb2c\u1e69\u01d5\u0f73\u2adc\U0001d15e"
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "<|fim_pad|>",
    "<|vision_start|>",
]
LOOK_ALIKES = [
    "<|im_start", "im_end|>", "<|IM_END|>", "<|im end|>", "<| im_end |>", "<|im_\u0301end|>", "<|endoftext|", "<|",
    "|>", "<<|im_end|>>", "<|<|im_end|>|>", "<Think>", "< think>", "＜|im_end|＞", "<|im_end|>\u0301", "</tool_",
]
PUNCTUATION = [
    "...", "--", "!!!", "(", ")", "[]", "*", "#", "@", "~", '"', "、", "。", "—", "·", "€", "±", "½", "²", "Ⅷ", "①",
    "٣",
]
BROKEN = [
    b"\xff", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\xe2\x82",
    b"\xc3", b"\x80", b"\xbf\xbf", b"\xf8\x88\x80\x80\x80", b"\xe4\xb8", b"\xf0\x80\x80\x80", b"\xef\xbf\xbe",
    b"\xfe\xff",
]


def make_strings() -> list[bytes]:
    """Returns the strings: the same ones each time, in twelve kinds that take turns."""
    draw = random.Random("nostos tokenizer goldens")

    def some(pieces, low, high, separator=""):
        return separator.join(draw.choice(pieces) for _ in range(draw.randint(low, high)))

    def english():
        return (
            f"{draw.choice(['A', 'a', 'The', 'An'])} {draw.choice(LOOKS)} {draw.choice(NOUNS)} {draw.choice(PLACES)}"
            + draw.choice(
                [".", "", ", " + draw.choice(LOOKS), "!", f"; {draw.randint(0, 10 ** draw.randint(1, 9))} of them"]
            )
        )

    def chinese():
        return some(HAN, 2, 12) + "".join(chr(draw.randint(0x4E00, 0x9FFF)) for _ in range(draw.randint(0, 6)))

    def mixed():
        return some(WORDS + HAN + NOUNS + CONTRACTIONS + PUNCTUATION, 2, 9, draw.choice(["", " ", " ", ", "]))

    def emoji():
        return some(EMOJI + EMOJI + NOUNS + [" "], 1, 8)

    def combining():
        letters = "".join(draw.choice(BASES) + some(MARKS, 0, 4) for _ in range(draw.randint(1, 5)))
        return draw.choice([letters, some(MARKS, 1, 3) + letters, unicodedata.normalize("NFD", some(WORDS, 1, 3, " "))])

    def code():
        return some(CODE, 1, 3, draw.choice(["", "\n", " ", "\n    "])) + draw.choice(["", english()])

    def runs():
        run = draw.choice(
            [" ", " ", "0", "7", "\n", "\t", "a", "!", "=", "字", " \n", "\r\n", "'s", "ab", "\u3000", "\u0301"]
        )
        return (
            draw.choice(["", "x", "12"])
            + run * draw.choice([2, 3, 4, 7, 8, 15, 16, 17, 33, 64, 100])
            + draw.choice(["", "y", "!", "9"])
        )

    def control():
        return "".join(
            draw.choice(SPACES + [chr(draw.randrange(0x20)), chr(draw.randrange(0x7F, 0xA0)), "a", "1", "!", "字"])
            for _ in range(draw.randint(1, 10))
        )

    def special():
        return some(SPECIAL + LOOK_ALIKES + LOOK_ALIKES + NOUNS + [" ", "\n"], 1, 7)

    def contractions():
        return some(
            [word + end for word in ("it", "I", "we", "cat", "猫", "7", "", "it ") for end in CONTRACTIONS], 1, 6, " "
        )

    def anything():
        top = draw.choice([0x250, 0x800, 0x3000, 0xD800, 0x20000, 0x110000])
        points = [draw.randrange(top) for _ in range(draw.randint(1, 10))]
        return "".join(chr(c) for c in points if not 0xD800 <= c < 0xE000)

    def broken():
        text = bytearray(draw.choice([english, chinese, emoji, mixed, special])().encode())
        for _ in range(draw.randint(1, 4)):
            at = draw.randint(0, len(text))
            text[at : at + draw.randint(0, 2)] = draw.choice(BROKEN)
        return bytes(text)

    kinds = [english, chinese, mixed, emoji, combining, code, runs, control, special, contractions, anything, broken]
    fixed = [
        "",
        " ",
        "\n",
        "\0",
        "a",
        "A cat",
        "<|im_end|>",
        "é",
        "e\u0301",
        "a " * 600,
        "一只猫" * 400,
        "7" * 700,
        " " * 5000,
    ]
    texts = fixed + [kinds[i % len(kinds)]() for i in range(STRINGS - len(fixed))]
    return [text if isinstance(text, bytes) else text.encode() for text in texts]


def decode(string: bytes) -> str:
    """What reaches the library: the rule for invalid UTF-8 that nostos follows."""
    return string.decode("utf-8", errors="replace")


def escape(string: bytes) -> str:
    def show(character: str) -> str:
        if character.isprintable() and character != "\\":
            return character
        return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))

    return "".join(map(show, string.decode("utf-8", "surrogateescape")))


def code_point_context(code_point: int) -> str:
    """Stands a code point beside letters, spaces, numbers, punctuation, line ends and marks that move over it."""
    x = chr(code_point)
    return f"a{x}b !{x}!{x}7{x} {x}\n{x}\n'{x} a{x}\u0327\u0301{x}\u0327 \U00011935{x}"


def code_point_blocks() -> list[range]:
    """The planes that have characters, without surrogates and private use."""
    planes = [*range(0x0, 0x40000, BLOCK), *range(0xE0000, 0xE1000, BLOCK)]
    return [range(first, first + BLOCK) for first in planes if not 0xD800 <= first < 0xF900 - BLOCK + 1]


# --- what the libraries make of them ---


def load(folder: Path):
    """Returns the tokenizer of the `tokenizers` library and the one of transformers, which the pipeline uses."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    pipeline_tokenizer = AutoTokenizer.from_pretrained(folder)
    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json")), pipeline_tokenizer
    return pipeline_tokenizer.backend_tokenizer, pipeline_tokenizer


def fnv1a(ids: list[int], state: int = 0xCBF29CE484222325) -> int:
    for token in ids:
        state = (state ^ token) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return state


def prompt_ids(tokenizer, prompt: str) -> tuple[list[int], bool]:
    """Follows diffusers' ZImagePipeline._encode_prompt. Returns the ids, and whether some were cut off."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    inputs = tokenizer([text], padding="max_length", max_length=MAX_TOKENS, truncation=True)
    ids = [token for token, kept in zip(inputs.input_ids[0], inputs.attention_mask[0]) if kept]
    return ids, len(tokenizer(text).input_ids) > MAX_TOKENS


def make_golden(folder: Path, output: Path) -> None:
    tokenizer, pipeline_tokenizer = load(folder)
    if pipeline_tokenizer.chat_template is None:  # without the checkpoint's own, Qwen3's for the one shape used
        pipeline_tokenizer.chat_template = (
            "{{ '<|im_start|>user\n' + messages[0].content + '<|im_end|>\n<|im_start|>assistant\n' }}"
        )
    strings = make_strings()
    lines = []
    texts = [decode(string) for string in strings]
    for number, (text, encoding) in enumerate(zip(texts, tokenizer.encode_batch(texts))):
        ids = encoding.ids
        if pipeline_tokenizer(text).input_ids != ids:
            sys.exit(f"error: tokenizers and transformers disagree on string {number}")
        spelled_out = ids if number % SPELLED_OUT_EVERY == 0 and len(ids) <= MAX_TOKENS else []
        lines.append(" ".join(["string", f"{fnv1a(ids):016x}", str(len(ids)), *map(str, spelled_out)]))
    for block in code_point_blocks():
        ids = [
            token
            for encoding in tokenizer.encode_batch([code_point_context(c) for c in block])
            for token in encoding.ids
        ]
        lines.append(f"block {block.start:x} {fnv1a(ids):016x} {len(ids)}")
    for number in [*range(16), *range(16, len(texts), PROMPTS_EVERY)]:
        ids, truncated = prompt_ids(pipeline_tokenizer, texts[number])
        lines.append(f"prompt {number} {fnv1a(ids):016x} {len(ids)} {int(truncated)}")
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output.parent / "strings.txt").write_text(
        "".join(escape(s) + "\n" for s in strings), encoding="utf-8", newline="\n"
    )


def explain(folder: Path, number: int) -> None:
    tokenizer, _ = load(folder)
    string = make_strings()[number]
    encoding = tokenizer.encode(decode(string))
    print(escape(string))
    for token, text in zip(encoding.ids, encoding.tokens):
        print(token, text)


# --- where the Unicode versions differ ---


def print_unicode_differences() -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    code_points = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]

    def known_to_library(pattern: str) -> set[int]:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        return {c for c in code_points if len(split.pre_tokenize_str(f"!{chr(c)}!")) == 3}

    def show(name: str, found: set[int]) -> None:
        ranges: list[list[int]] = []
        for c in sorted(found):
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
        print(name, ", ".join(f"{{0x{first:04X}, 0x{last:04X}}}" for first, last in ranges))

    for name, pattern, category in (("kNewerLetters", r"\p{L}", "L"), ("kNewerNumbers", r"\p{N}", "N")):
        show(name, known_to_library(pattern) ^ {c for c in code_points if unicodedata.category(chr(c))[0] == category})
    # PCRE2's \s: the separators, and what \h and \v add to them.
    pcre2_spaces = {c for c in code_points if unicodedata.category(chr(c))[0] == "Z"} | {*range(9, 14), 0x85, 0x180E}
    show("kFormerSpaces", known_to_library(r"\s") ^ pcre2_spaces)

    utf8proc = ctypes.CDLL("libutf8proc.so.2")
    utf8proc.utf8proc_NFC.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)
    normalize = normalizers.NFC().normalize_str

    def differs(text: str) -> bool:
        result = utf8proc.utf8proc_NFC(text.encode())
        normalized = ctypes.string_at(result).decode()
        libc.free(ctypes.c_void_p(result))
        return normalize(text) != normalized

    contexts = ("{}", "a\u0327{}\u0301", "a{}\u0327\u0301", "a\u0301{}\u0327", "a{}\u0301", "\u1100{}\u1161")
    newer = {c for c in code_points if any(differs(context.format(chr(c))) for context in contexts)}
    for c in code_points:
        pair = unicodedata.decomposition(chr(c)).split()
        if len(pair) == 2 and not pair[0].startswith("<") and differs("".join(chr(int(part, 16)) for part in pair)):
            newer.add(int(pair[1], 16))
    show("kNewerMarks", newer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a checkpoint's tokenizer folder")
    parser.add_argument("--output", type=Path, help="the file of ids to write; strings.txt is written beside it")
    parser.add_argument("--explain", type=int, metavar="NUMBER", help="print one string and its tokens")
    parser.add_argument("--unicode-differences", action="store_true")
    arguments = parser.parse_args()
    if arguments.unicode_differences:
        print_unicode_differences()
    elif arguments.tokenizer and arguments.explain is not None:
        explain(arguments.tokenizer, arguments.explain)
    elif arguments.tokenizer and arguments.output:
        make_golden(arguments.tokenizer, arguments.output)
    else:
        parser.error("give --tokenizer with --output or --explain, or --unicode-differences")


if __name__ == "__main__":
    main()
