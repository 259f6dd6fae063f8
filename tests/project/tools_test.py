"""Tests that every tool answers --help, and refuses what it does not know, before it does or imports anything."""

import os
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def is_program(path: Path) -> bool:
    """Returns whether the file has a part that runs when it is started."""
    return 'if __name__ == "__main__":' in path.read_text()


class ToolsTest(unittest.TestCase):
    def run_tool(self, tool: Path, *arguments: str) -> subprocess.CompletedProcess:
        """Runs a tool in an empty folder, which must stay empty."""
        with tempfile.TemporaryDirectory() as folder:
            run = subprocess.run([sys.executable, "-IB", str(tool), *arguments], cwd=folder, capture_output=True, text=True,
                                 timeout=60, stdin=subprocess.DEVNULL)
            self.assertEqual(os.listdir(folder), [])
        return run

    def test_every_tool_answers_help_and_refuses_the_unknown(self):
        programs = [path for path in sorted(TOOLS.rglob("*.py")) if is_program(path)]
        self.assertGreater(len(programs), 10)
        with ThreadPoolExecutor(4) as pool:
            helped = list(pool.map(lambda tool: self.run_tool(tool, "--help"), programs))
            refused = list(pool.map(lambda tool: self.run_tool(tool, "--no-such-flag"), programs))
        for tool, run, bad in zip(programs, helped, refused):
            with self.subTest(tool=str(tool.relative_to(TOOLS))):
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertIn("usage:", run.stdout)
                self.assertEqual(bad.returncode, 2, bad.stderr)
                self.assertIn("usage:", bad.stderr)

    def test_sizes_that_are_none_are_refused(self):
        for size in ("1024", "axb", "1024x", "1x2x3", "-5x5", "0x0"):
            with self.subTest(size=size):
                self.assertEqual(self.run_tool(TOOLS / "cost_model.py", "--", size).returncode, 2)
        self.assertIn("| 256x256 |", self.run_tool(TOOLS / "cost_model.py", "256x256").stdout)


if __name__ == "__main__":
    unittest.main()
