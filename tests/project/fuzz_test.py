"""Holds that every parser has a fuzz target: tests/fuzz/parsers.txt names them, the headers and the targets must agree with it.

Usage: fuzz_test.py [unittest arguments], from anywhere. Needs Python 3.11 alone.
"""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What is named so reads a text or bytes; parsers of other names are on the list because somebody put them there.
PARSER = re.compile(r"\b((?:parse|decode)_\w+)\(")
COMMENT = re.compile(r"//.*")


def listed(text: str) -> dict[str, list[str]]:
    """Returns the targets of each parser on the list."""
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {row[0]: row[1:] for row in rows}


def parsers(header: str) -> set[str]:
    """Returns the parsers that a header declares."""
    return set(PARSER.findall(COMMENT.sub("", header)))


class Fuzz(unittest.TestCase):
    def setUp(self):
        self.list = listed((ROOT / "tests/fuzz/parsers.txt").read_text())
        self.headers = [path.read_text() for path in sorted((ROOT / "src").rglob("*.h"))]

    def test_every_parser_is_on_the_list(self):
        declared = set().union(*map(parsers, self.headers))
        self.assertGreater(len(declared), 10)
        self.assertEqual(declared - set(self.list), set(), "add it to tests/fuzz/parsers.txt with the target that reaches it")

    def test_what_is_on_the_list_is_declared(self):
        for parser in self.list:
            with self.subTest(parser=parser):
                self.assertTrue(any(re.search(rf"\b{parser}\(", header) for header in self.headers))

    def test_targets_are_those_of_the_list(self):
        for parser, targets in self.list.items():
            self.assertNotEqual(targets, [], parser)
        named = {target for targets in self.list.values() for target in targets} - {"-"}
        built = {path.stem.removeprefix("fuzz_") for path in (ROOT / "tests/fuzz").glob("fuzz_*.cc")}
        self.assertEqual(named, built)

    def test_every_target_has_inputs_to_start_from(self):
        for target in {target for targets in self.list.values() for target in targets} - {"-"}:
            with self.subTest(target=target):
                self.assertTrue(any((ROOT / "tests/fuzz/corpus" / target).iterdir()))

    def test_a_parser_is_found(self):
        self.assertEqual(parsers("/// parse_x() does\nint parse_y(std::string_view text);\nA decode_z(B b);  // parse_c(\n"),
                         {"parse_y", "decode_z"})
        self.assertEqual(listed("# a b\n\nf  x y\ng -\n"), {"f": ["x", "y"], "g": ["-"]})


if __name__ == "__main__":
    unittest.main()
