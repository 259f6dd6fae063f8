"""Tests that a test program in which nothing could run says so by its exit code."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
HEAD = f"import sys, unittest\nsys.path.insert(0, {str(TESTS)!r})\nfrom run_tests import run_tests\n"
PASSING = "class Passing(unittest.TestCase):\n  def test(self): pass\n"
FAILING = "class Failing(unittest.TestCase):\n  def test(self): self.fail()\n"
SKIPPED = "class Skipped(unittest.TestCase):\n  def test(self): self.skipTest('')\n  def test_too(self): self.skipTest('')\n"
BY_DECORATOR = "@unittest.skip('')\nclass Decorated(unittest.TestCase):\n  def test(self): pass\n"
BY_SET_UP = "class SetUp(unittest.TestCase):\n  def setUpClass(): raise unittest.SkipTest('')\n  def test(self): pass\n"


class ExitCode(unittest.TestCase):
    def expect(self, code: int, *cases: str):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program.py"
            program.write_text(HEAD + "".join(cases) + "run_tests()\n")
            done = subprocess.run([sys.executable, program], capture_output=True, text=True)
        self.assertEqual(done.returncode, code, done.stderr)

    def test_everything_skipped(self):
        for case in (SKIPPED, BY_DECORATOR, BY_SET_UP):
            self.expect(77, case)
        self.expect(77, SKIPPED, BY_DECORATOR, BY_SET_UP)

    def test_one_that_ran_counts(self):
        self.expect(0, PASSING)
        for case in (SKIPPED, BY_DECORATOR, BY_SET_UP):
            self.expect(0, case, PASSING)
            self.expect(1, case, FAILING)


if __name__ == "__main__":
    unittest.main()
