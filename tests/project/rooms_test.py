"""Checks what no compiler does: the room table, file-opening comments, and that no machine's paths stand in the tree.

Usage: rooms_test.py [unittest arguments], from anywhere. Needs Python 3.11 alone.
"""

import os
import re
import shutil
import subprocess
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The room table of CONTRIBUTING.md: each room and the rooms that it may include beside itself.
ROOMS = {
    "base": set(),
    "device": {"base"},
    "tensor": {"base", "device"},
    "io": {"base", "device", "tensor"},
    "text": {"base", "io"},
    "hub": {"base", "io", "text"},
    "ops": {"base", "device", "tensor"},
    "parallel": {"base", "device", "tensor"},
    "nn": {"base", "device", "tensor", "ops", "parallel"},
    "models": {"base", "device", "tensor", "io", "ops", "nn"},
    "adapters": {"base", "device", "tensor", "io", "models"},
    "families": {"base", "device", "tensor", "io", "text", "ops", "parallel", "nn", "models", "adapters"},
    "checkpoints": {"base", "device", "tensor", "io", "text", "ops", "models", "adapters", "families"},
    "pipeline": {"base", "device", "tensor", "io", "ops", "parallel", "nn", "adapters", "families"},
    "quantisation": {"base", "device", "tensor", "io", "ops", "models", "families", "checkpoints", "pipeline"},
    "scheduling": {"base"},
    "api": {"base", "tensor", "io", "families", "pipeline"},
    "apps/cli": {"base", "io", "hub", "parallel", "checkpoints", "pipeline", "quantisation", "scheduling", "api"},
    "apps/server": {"base", "io", "pipeline", "scheduling"},
    "apps": {"base", "io", "parallel", "pipeline", "scheduling", "api", "apps/cli", "apps/server"},
}
CXX_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)
# Absolute paths that exist on one machine only: home folders and the like. Web addresses do not match.
MACHINE_PATH = re.compile(r"(?<![\w./~:-])/(?:home|root|work|farm|Users|mnt|media)/[\w.-]+")


def room_of(path: str) -> str:
    """Returns the innermost room that a path under src/ lies in, or its first folder where that is none."""
    rooms = [room for room in ROOMS if path.startswith(room + "/")]
    return max(rooms, key=len, default=path.split("/")[0])


def foreign_edges(room: str, text: str) -> list[str]:
    """Returns the includes of `text`, a source of `room`, that the room table does not allow."""
    wrong = []
    for quote, path in INCLUDE.findall(text):
        target = room_of(path)
        if quote == '"' and target not in ROOMS:
            wrong.append(f'"{path}" (include project headers as "room/file.h")')
        elif target in ROOMS and target != room and target not in ROOMS[room]:
            wrong.append(f'"{path}"')
    return wrong


def cmake_rooms(text: str) -> set[str]:
    """Returns the rooms that a nostos_room(...) call links."""
    call = re.search(r"nostos_room\((.*?)\)", text, re.DOTALL)
    listed = re.search(r"\bROOMS\s+([a-z\s]+)", call.group(1)) if call else None
    return set(listed.group(1).split()) if listed else set()


def tracked_files() -> list[Path]:
    """Returns the files under version control, or without git every file outside the folders that it ignores."""
    has_git = (ROOT / ".git").exists() and shutil.which("git") is not None
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True) if has_git else None
    if listing is not None and listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    ignored = {"build", "out", ".git", ".cache", "__pycache__"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not ignored & set(path.relative_to(ROOT).parts)]


def sources(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*") if p.suffix in CXX_SUFFIXES)


class Rooms(unittest.TestCase):
    def test_includes_keep_to_the_table(self):
        files = sources("src")
        self.assertGreater(len(files), 10)
        for path in files:
            room = room_of(path.relative_to(ROOT / "src").as_posix())
            with self.subTest(file=str(path.relative_to(ROOT))):
                self.assertIn(room, ROOMS)
                self.assertEqual(foreign_edges(room, path.read_text()), [])

    def test_two_lists_alone_name_families(self):
        """A family is a folder of its own and a line of each: no code beside them would have to be changed for another one."""
        lists = {"families/registry.cc", "checkpoints/part_types.cc"}
        named = set()
        for path in sources("src"):
            place = path.relative_to(ROOT / "src")
            for _, included in INCLUDE.findall(path.read_text()):
                if re.match(r"families/\w+/", included) and place.parent != Path(included).parent:
                    named.add(place.as_posix())
        self.assertEqual(named, lists)

    def test_link_lines_keep_to_the_table(self):
        for room, allowed in ROOMS.items():
            cmake = ROOT / "src" / room / "CMakeLists.txt"
            if cmake.exists():
                with self.subTest(room=room):
                    self.assertLessEqual(cmake_rooms(cmake.read_text()), allowed)

    def test_the_table_is_the_one_that_contributors_read(self):
        rows = re.findall(r"^\| `([\w/]+)` \|[^|]*\|([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
        written = {room: set(re.findall(r"`([\w/]+)`", allowed)) for room, allowed in rows}
        self.assertEqual(written, ROOMS)

    def test_a_wrong_edge_is_found(self):
        self.assertEqual(foreign_edges("base", '#include "tensor/shape.h"\n'), ['"tensor/shape.h"'])
        self.assertEqual(foreign_edges("base", "# include <io/image.h>\n"), ['"io/image.h"'])
        self.assertEqual(len(foreign_edges("io", '#include "image.h"\n')), 1)
        self.assertEqual(foreign_edges("apps/cli", '#include "apps/server/job.h"\n'), ['"apps/server/job.h"'])
        self.assertEqual(foreign_edges("apps/server", '#include "apps/serve.h"\n'), ['"apps/serve.h"'])
        self.assertEqual(foreign_edges("apps", '#include "apps/server/job.h"\n#include "apps/serve.h"\n'), [])
        self.assertEqual([room_of(path) for path in ("apps/cli/main.cc", "apps/serve.cc", "ops/cuda/x.cu", "other/x.h")],
                         ["apps/cli", "apps", "ops", "other"])
        self.assertEqual(foreign_edges("io", '#include "tensor/shape.h"\n#include <vector>\n#include "io/file.h"\n'), [])
        self.assertEqual(cmake_rooms("nostos_room(io SOURCES a.cc\n ROOMS base device LIBS x)"), {"base", "device"})


class Files(unittest.TestCase):
    def test_every_source_opens_with_what_it_owns(self):
        for path in sources("src", "tests", "bench"):
            with self.subTest(file=str(path.relative_to(ROOT))):
                self.assertRegex(path.read_text().split("\n", 1)[0], r"^// \S.{10,}")

    def test_every_python_and_shell_file_says_its_use(self):
        for path in tracked_files():
            if path.suffix not in {".py", ".sh"} or not path.exists():
                continue
            text = path.read_text()
            with self.subTest(file=str(path.relative_to(ROOT))):
                if path.suffix == ".py":
                    self.assertRegex(text, r'^(#!.*\n)?r?"""\S')
                else:
                    self.assertRegex(text, r"^(#!.*\n)?# \S")

    def test_the_scripts_can_be_run(self):
        for name in ("scripts/demo.sh", "scripts/test.sh", ".ci/run"):
            self.assertTrue(os.access(ROOT / name, os.X_OK), name)

    def test_no_machine_path_is_tracked(self):
        for path in tracked_files():
            if path == Path(__file__).resolve() or not path.is_file():
                continue
            content = path.read_bytes()
            if b"\0" in content:
                continue
            with self.subTest(file=str(path.relative_to(ROOT))):
                self.assertEqual(MACHINE_PATH.findall(content.decode("utf-8", "replace")), [])

    def test_a_machine_path_is_found(self):
        for text in ("open('{}/me/x')", "DIR={}/main", " {}/.cache/a"):
            for top in ("/" + "home", "/" + "work", "/" + "root"):
                self.assertTrue(MACHINE_PATH.search(text.format(top)), text.format(top))
        for text in ("https://example.org/{}/me", "~/{}/x", "src/{}/x", "/usr/share/{}/x"):
            self.assertFalse(MACHINE_PATH.search(text.format("home")), text)


if __name__ == "__main__":
    unittest.main()
