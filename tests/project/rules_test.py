"""Holds the rules of CONTRIBUTING.md over C++ and CUDA sources: columns, parameters, lengths of functions and files.

Usage: rules_test.py [unittest arguments], from anywhere; --list prints what breaks a rule. Needs Python 3.11 alone.
"""

import functools
import re
import sys
import unittest
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MOST_COLUMNS = 120
MOST_PARAMETERS = 6
MOST_FUNCTION_LINES = 59
MOST_FILE_LINES = 500
MOST_KERNEL_FILE_LINES = 600
KERNEL_SUFFIXES = {".cu", ".cuh"}
CXX_SUFFIXES = {".h", ".cc"} | KERNEL_SUFFIXES

TOKEN = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
    |(?P<raw>\bu?8?[LUR]*R"(?P<mark>[^()\\\s]*)\(.*?\)(?P=mark)")
    |(?P<text>"(?:\\.|[^"\\\n])*")
    |(?P<number>\.?\b\d(?:[eEpP][+-]|'?[\w.])*)
    |(?P<char>'(?:\\.|[^'\\\n])+')
    |(?P<word>[A-Za-z_]\w*)
    |(?P<directive>^[ \t]*\#(?:\\\n|[^\n])*)
    |(?P<space>\s+)
    |(?P<sign>::|->|<<=|==|!=|<=|>=|&&|\|\||\+=|-=|\+\+|--|\.\.\.|.)""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
OPERATOR_SO_FAR = re.compile(r"operator[\[<>=!+\-*/&|]")
OPENING = {"(": ")", "[": "]", "{": "}"}
# Words before a parenthesis that is no parameter list.
NOT_A_NAME = {"alignas", "decltype", "noexcept", "requires", "static_assert", "__launch_bounds__", "__attribute__"}
# Types of a first parameter that only names the op which a function defines (ops/device_op.h).
OP_TAGS = {"OnCpu", "OnCuda"}


@dataclass(frozen=True)
class Token:
    text: str
    line: int


@dataclass(frozen=True)
class Function:
    """A function that is declared or defined. `lines` is 0 without a body."""

    name: str
    line: int
    parameters: int
    lines: int
    is_for_gpu: bool


def tokens_of(text: str) -> list[Token]:
    """Returns the tokens of C++ `text` without comments, directives and space. Of #if ... #else ... #endif the first
    branch counts, so that braces match. Texts become "" and characters ''; an operator's name is one token."""
    tokens: list[Token] = []
    branches: list[bool] = []  # of each #if around: whether its first branch is over
    line = 1
    for match in TOKEN.finditer(text):
        kind, word = match.lastgroup, match.group()
        if kind == "mark":
            kind = "raw"
        if kind == "directive":
            name = re.match(r"\s*#\s*(\w*)", word).group(1)
            if name.startswith("if"):
                branches.append(False)
            elif name.startswith("el") and branches:
                branches[-1] = True
            elif name == "endif" and branches:
                branches.pop()
        elif kind not in ("comment", "space") and not any(branches):
            word = {"text": '""', "raw": '""', "char": "''"}.get(kind, word)
            if tokens and tokens[-1].text == "operator" and kind == "sign" and word != "::":
                tokens[-1] = Token("operator" + word, tokens[-1].line)
            elif tokens and tokens[-1].text == "operator(" and word == ")":
                tokens[-1] = Token("operator()", tokens[-1].line)
            elif tokens and OPERATOR_SO_FAR.fullmatch(tokens[-1].text) and word in "]=<>+-&|":
                tokens[-1] = Token(tokens[-1].text + word, tokens[-1].line)
            else:
                tokens.append(Token(word, line))
        line += match.group().count("\n")
    return tokens


def is_word(text: str) -> bool:
    return bool(re.match(r"[A-Za-z_]", text))


def text_at(tokens: list[Token], place: int) -> str:
    return tokens[place].text if place < len(tokens) else ""


def after_angles(tokens: list[Token], at: int) -> int:
    """Returns the place after the > that ends the < at `at`, or the one after `at` where it is a comparison."""
    depth, place = 0, at
    while place < len(tokens):
        text = tokens[place].text
        if text == "<":
            depth += 1
        elif text == ">":
            depth -= 1
            if depth == 0:
                return place + 1
        elif text in OPENING:
            place = after_bracket(tokens, place)
            continue
        elif text == ";":
            break
        place += 1
    return at + 1


def after_bracket(tokens: list[Token], at: int) -> int:
    """Returns the place after the bracket that ends the one at `at`."""
    open_, close, depth = tokens[at].text, OPENING[tokens[at].text], 0
    for place in range(at, len(tokens)):
        depth += (tokens[place].text == open_) - (tokens[place].text == close)
        if depth == 0:
            return place + 1
    return len(tokens)


def count_parameters(tokens: list[Token], at: int) -> int:
    """Returns how many parameters stand in the parenthesis at `at`."""
    end = after_bracket(tokens, at) - 1
    if end == at + 1 or [token.text for token in tokens[at + 1:end]] == ["void"]:
        return 0
    count, place = 1, at + 1
    while place < end:
        text = tokens[place].text
        if text in OPENING:
            place = after_bracket(tokens, place)
        elif text == "<" and is_word(tokens[place - 1].text):
            place = after_angles(tokens, place)
        else:
            count += text == ","
            place += 1
    return count


@dataclass(frozen=True)
class Head:
    """What stands before a { or ; between functions: a function's, a scope's, or of something else."""

    kind: str  # "function", "scope", "other"
    name: str = ""
    parameters: int = 0
    has_initialisers: bool = False  # a constructor's, behind a colon


def read_head(tokens: list[Token]) -> Head:
    place = 0
    while place < len(tokens) and tokens[place].text == "template":
        place = after_angles(tokens, place + 1) if text_at(tokens, place + 1) == "<" else place + 1
    words = [token.text for token in tokens[place:]]
    if "namespace" in words or words[:2] == ["extern", '""'] and len(words) == 2:
        return Head("scope")
    found = None
    is_type = False
    while place < len(tokens):
        text = tokens[place].text
        before = tokens[place - 1].text if place > 0 else ""
        if found and text == ":":
            return Head("function", *found, has_initialisers=True)
        if not found and text in ("class", "struct", "union", "enum"):
            is_type = True
        if text == "=" and not found:
            return Head("other")
        if text == "(":
            is_pointer = text_at(tokens, place + 1) == "*"
            if not found and not is_pointer and (is_word(before) or before in (">", ")")) and before not in NOT_A_NAME:
                found = (name_before(tokens, place), count_parameters(tokens, place))
                if text_at(tokens, place + 1) in OP_TAGS:
                    found = (text_at(tokens, place + 3), found[1] - 1)
            place = after_bracket(tokens, place)
        elif text == "[":
            place = after_bracket(tokens, place)
        elif text == "<" and is_word(before) and not before.startswith("operator"):
            place = after_angles(tokens, place)
        else:
            place += 1
    if found:
        return Head("function", *found)
    return Head("scope" if is_type else "other")


def name_before(tokens: list[Token], at: int) -> str:
    """Returns the name in front of the parenthesis at `at`, with the classes that it names."""
    name, place = tokens[at - 1].text, at - 2
    if name in (">", ")"):
        words = [token.text for token in tokens[:at] if is_word(token.text)]
        return words[-1] if words else name
    while place >= 0 and tokens[place].text in ("::", "~"):
        if tokens[place].text == "~":
            name, place = "~" + name, place - 1
        elif place >= 1 and is_word(tokens[place - 1].text):
            name, place = f"{tokens[place - 1].text}::{name}", place - 2
        else:
            break
    return name


@functools.cache
def functions_of(text: str) -> list[Function]:
    """Returns the functions that `text` declares or defines in namespaces and classes. What a body holds is part of it.
    Raises ValueError where braces do not match."""
    tokens = tokens_of(text)
    found: list[Function] = []
    depth, begin, place = 0, 0, 0
    while place < len(tokens):
        text_here = tokens[place].text
        head = tokens[begin:place]
        if text_here in ("(", "["):
            place = after_bracket(tokens, place)
            continue
        if text_here == ":" and len(head) == 1 and head[0].text in ("public", "private", "protected"):
            begin = place + 1
        elif text_here == "}":
            depth -= 1
            begin = place + 1
        elif text_here == ";":
            read = read_head(head)
            if read.kind == "function":
                found.append(Function(read.name, head[0].line, read.parameters, 0, is_for_gpu(head)))
            begin = place + 1
        elif text_here == "{":
            read = read_head(head)
            is_initialiser = read.has_initialisers and (is_word(head[-1].text) or head[-1].text == ">")
            if read.kind == "scope":
                depth += 1
                begin = place + 1
            elif read.kind == "function" and not is_initialiser:
                end = after_bracket(tokens, place)
                lines = tokens[end - 1].line - head[0].line + 1
                found.append(Function(read.name, head[0].line, read.parameters, lines, is_for_gpu(head)))
                place = begin = end
                continue
            else:
                place = after_bracket(tokens, place)
                continue
        if depth < 0:
            raise ValueError(f"line {tokens[place].line}: a brace too many")
        place += 1
    if depth != 0:
        raise ValueError(f"{depth} braces are not closed")
    return found


def lambdas_of(text: str) -> list[Function]:
    """Returns the lambdas of `text`, wherever they stand; their lines are those of the function around them."""
    tokens = tokens_of(text)
    found = []
    for place, token in enumerate(tokens):
        before = tokens[place - 1].text if place > 0 else ";"
        if token.text != "[" or before in (")", "]", "[") or is_word(before) and before != "return":
            continue
        end = after_bracket(tokens, place)
        if end < len(tokens) and tokens[end].text == "<":
            end = after_angles(tokens, end)
        if end < len(tokens) and tokens[end].text == "(":
            found.append(Function("lambda", token.line, count_parameters(tokens, end), 0, "__device__" in before))
    return found


def is_for_gpu(head: list[Token]) -> bool:
    return any(token.text in ("__global__", "__device__") for token in head)


def long_lines_of(text: str) -> list[int]:
    """Returns the numbers of the lines that are longer than MOST_COLUMNS characters."""
    return [number for number, line in enumerate(text.split("\n"), 1) if len(line) > MOST_COLUMNS]


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in CXX_SUFFIXES)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def long_lines() -> dict[str, int]:
    counts = {name_of(path): len(long_lines_of(path.read_text())) for path in sources("src", "tests")}
    return {name: count for name, count in counts.items() if count > 0}


def long_files() -> dict[str, int]:
    counts = {path: path.read_text().count("\n") for path in sources("src")}
    return {name_of(path): count for path, count in counts.items()
            if count > (MOST_KERNEL_FILE_LINES if path.suffix in KERNEL_SUFFIXES else MOST_FILE_LINES)}


def host_functions(figure, most: int) -> dict[str, int]:
    """Returns figure(function) of the host's functions that are beyond `most`, of overloads the largest."""
    found: dict[str, int] = {}
    for path in sources("src"):
        text = path.read_text()
        for function in functions_of(text) + lambdas_of(text):
            name = f"{name_of(path)} {function.name}"
            if not function.is_for_gpu and figure(function) > most:
                found[name] = max(found.get(name, 0), figure(function))
    return found


def many_parameters() -> dict[str, int]:
    return host_functions(lambda function: function.parameters, MOST_PARAMETERS)


def long_functions() -> dict[str, int]:
    return host_functions(lambda function: function.lines, MOST_FUNCTION_LINES)


class Rules(unittest.TestCase):
    def test_lines_have_at_most_120_columns(self):
        self.assertEqual(long_lines(), {})

    def test_functions_have_at_most_6_parameters(self):
        self.assertEqual(many_parameters(), {})

    def test_functions_have_less_than_60_lines(self):
        self.assertEqual(long_functions(), {})

    def test_files_have_at_most_500_lines_and_kernels_600(self):
        self.assertEqual(long_files(), {})

    def test_every_source_is_understood(self):
        files = sources("src")
        self.assertGreater(len(files), 100)
        found = 0
        for path in files:
            with self.subTest(file=name_of(path)):
                found += len(functions_of(path.read_text()))
        self.assertGreater(found, 1500)


class Scanner(unittest.TestCase):
    """The rules' own tests: planted breaches are found, and what only looks like one is not."""

    def names(self, text: str) -> list[tuple[str, int, int]]:
        return [(function.name, function.parameters, function.lines) for function in functions_of(text)]

    def test_functions_and_their_parameters_are_found(self):
        self.assertEqual(self.names("int f();\nvoid g(int a, int b) {\n  f();\n}\n"), [("f", 0, 0), ("g", 2, 3)])
        self.assertEqual(self.names("void f(int a,\n  int b, int c, int d,\n int e, int g, int h) {\n}"), [("f", 7, 4)])
        self.assertEqual(self.names("int f(void);"), [("f", 0, 0)])
        self.assertEqual(self.names("namespace n {\nnamespace {\nint A::B::f(int a) const noexcept {\n}\n}\n}"),
                         [("A::B::f", 1, 2)])
        self.assertEqual(self.names('extern "C" void f(int);\nextern "C" {\nvoid g(int);\n}'),
                         [("f", 1, 0), ("g", 1, 0)])

    def test_a_tag_that_names_an_op_is_no_parameter(self):
        self.assertEqual(self.names("void run(OnCpu<rms_norm>, Context& ctx, int a) {\n}"), [("rms_norm", 2, 2)])

    def test_commas_in_types_and_defaults_are_no_parameters(self):
        self.assertEqual(self.names("void f(std::map<int, int> a, int b = g(1, 2), X c = {1, 2}, F<int(int, int)> d);"),
                         [("f", 4, 0)])
        self.assertEqual(self.names("A<std::pair<int, int>, 2> f(void (*g)(int, int), const int (&h)[2]);"),
                         [("f", 2, 0)])
        self.assertEqual(self.names("template <class T, class... Args>\nauto f(T a, Args&&... args) -> g<T, T>;"),
                         [("f", 2, 0)])

    def test_classes_and_constructors_are_followed(self):
        text = """
struct A : B {
 public:
  explicit A(int x, int y) : B(x), y_{y}, z_(std::vector<int>{1}) {
    y_ = 2;
  }
  ~A();
  bool operator()(int a, int b) const { return a < b; }
  bool operator==(const A& other) const = default;
  A& operator=(A&& other) noexcept;
  operator View() const { return view(); }
  std::function<void(int, int, int, int, int, int, int)> hook = [](int, int, int, int, int, int, int) {};
  std::atomic<bool> flag{false};
  int y_ = 0, z_[2] = {1, 2};
  enum class E { a, b };
};
"""
        self.assertEqual(self.names(text), [("A", 2, 3), ("~A", 0, 0), ("operator()", 2, 1), ("operator==", 1, 0),
                                            ("operator=", 1, 0), ("View", 0, 1)])

    def test_variables_are_no_functions(self):
        self.assertEqual(self.names("constexpr std::array kX{1, 2};\nconst int kY = f(1, 2, 3, 4, 5, 6, 7);\nint z;\n"
                                    "struct S { int a; } s = {1};\nusing F = void (*)(int);"), [])

    def test_comments_texts_and_characters_hide_nothing_and_add_nothing(self):
        text = 'void f(int a /* , int b */) {  // }\n  g("}{", \'}\', 1\'000\'000, R"x(}")x");\n}\nvoid h(int a);'
        self.assertEqual(self.names(text), [("f", 1, 3), ("h", 1, 0)])
        self.assertEqual(self.names("#define X(a) {\n#define Y \\\n  {\nvoid f() {\n}"), [("f", 0, 2)])
        self.assertEqual(self.names("#ifdef A\nvoid f() {\n#else\nvoid f(int a) {\n#endif\n}"), [("f", 0, 5)])

    def test_lambdas_are_found(self):
        text = ("void f() {\n  g([&](int a, int b) {}, [] {}, x[1](2, 3), []<class T>(T a) {});\n"
                "  return [=, this](int a) { h[0](1); };\n}")
        self.assertEqual([function.parameters for function in lambdas_of(text)], [2, 1, 1])

    def test_kernels_are_known(self):
        found = functions_of("__global__ void __launch_bounds__(128, 2) k(int a, int b) {\n}\nvoid f();\n")
        self.assertEqual([(f.name, f.parameters, f.is_for_gpu) for f in found], [("k", 2, True), ("f", 0, False)])

    def test_braces_that_do_not_match_are_an_error(self):
        for text in ("namespace n {", "}", "namespace n {\nvoid f() {\n}"):
            with self.assertRaises(ValueError):
                functions_of(text)

    def test_long_functions_are_measured(self):
        body = "  f();\n" * 57
        self.assertEqual(self.names("void f() {\n" + body + "}\n"), [("f", 0, 59)])
        self.assertEqual(self.names("void f() {\n" + body + "  f();\n}\n"), [("f", 0, 60)])

    def test_long_lines_are_found(self):
        self.assertEqual(long_lines_of("x" * 120 + "\n" + "y" * 121 + "\n" + "\u00e9" * 120), [2])


def print_breaches() -> None:
    for title, figures in (("long lines", long_lines()), ("parameters", many_parameters()),
                           ("lines of functions", long_functions()), ("lines of files", long_files())):
        for name, figure in sorted(figures.items()):
            print(f"{name}: {figure} {title}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print_breaches()
    else:
        unittest.main()
