"""Checks the manual pages and the completions of shells that are made of the command line.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos manual_test.py [TestCase ...]. Each shell and man that is installed is tried.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402

BINARY = Path(os.environ["NOSTOS_BINARY"])


class ManualCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.dir = Path(folder.name)
        subprocess.run([BINARY.parent / "nostos_manual", cls.dir], check=True)
        overview = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
        cls.commands = re.findall(r"^  (\w+) ", overview.split("Subcommands:")[1], re.MULTILINE)

    def flags(self, command: str) -> set[str]:
        text = subprocess.run([BINARY, command, "--help"], capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"^  (?:-\w,)?(--[\w-]+)", text, re.MULTILINE))


class Manual(ManualCase):
    def test_pages_name_every_command_and_flag(self):
        self.assertIn("pull", self.commands)
        overview = (self.dir / "nostos.1").read_text()
        for command in self.commands:
            self.assertIn(f"nostos\\-{command}", overview)
            page = (self.dir / f"nostos-{command}.1").read_text().replace("\\-", "-")
            for flag in self.flags(command):
                self.assertIn(f"\\fB{flag}\\fR", page, command)

    def completed(self, line: str) -> set[str]:
        script = ('source "$1"; read -ra COMP_WORDS <<<"$2"; [[ $2 == *" " ]] && COMP_WORDS+=("")\n'
                  'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _nostos; printf "%s\\n" "${COMPREPLY[@]}"')
        run = subprocess.run(["bash", "-c", script, "bash", self.dir / "nostos.bash", line], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return set(run.stdout.split())

    def test_bash_completes(self):
        self.assertLessEqual(set(self.commands), self.completed("nostos "))
        self.assertEqual(self.completed("nostos gen"), {"generate"})
        self.assertEqual(self.completed("nostos pull --"), self.flags("pull"))
        self.assertEqual(self.completed("nostos generate --negative"), {"--negative-prompt"})
        self.assertEqual(self.completed("nostos generate --output "), set())  # bash's own: files

    def test_zsh_and_fish_have_every_flag(self):
        for name, form in (("nostos.zsh", "{}"), ("nostos.fish", "-l {} ")):
            text = (self.dir / name).read_text()
            for command in self.commands:
                for flag in self.flags(command):
                    self.assertIn(form.format(flag if form == "{}" else flag[2:]), text)


class Groff(ManualCase):
    def test_man_prints_the_pages_without_a_warning(self):
        if shutil.which("groff") is None:
            self.skipTest("groff is not installed")
        for page in sorted(self.dir.glob("*.1")):
            run = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True)
            self.assertEqual((run.returncode, run.stderr), (0, ""), page.name)


class ShellCase(ManualCase):
    def run_shell(self, shell: str, *arguments) -> str:
        if shutil.which(shell) is None:
            self.skipTest(f"{shell} is not installed")
        run = subprocess.run([shell, *arguments], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return run.stdout


class Zsh(ShellCase):
    def test_reads_its_file(self):
        self.run_shell("zsh", "-n", self.dir / "nostos.zsh")


class Fish(ShellCase):
    def test_completes(self):
        self.run_shell("fish", "--no-execute", self.dir / "nostos.fish")
        script = f"source {self.dir / 'nostos.fish'}; complete -C 'nostos pull --rev'"
        self.assertIn("--revision", self.run_shell("fish", "--no-config", "-c", script))


if __name__ == "__main__":
    run_tests()
