"""Tests the library as programs have it: installed, found by CMake and by pkg-config, shared and static, and its ABI.

Usage: library_test.py Installed|Abi, with NOSTOS_BUILD, NOSTOS_LIBRARY and NOSTOS_BINARY set as ctest does.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


abi_check = load(ROOT / "scripts/abi_check.py")


def run(*command, env=None, cwd=None) -> str:
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd,
                         env={**os.environ, **(env or {})})
    if ran.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


class Installed(unittest.TestCase):
    """Programs are built against an installation that has been moved, and draw what `nostos generate` draws."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        first = cls.folder / "first"
        for component in ("library", "development"):
            run("cmake", "--install", os.environ["NOSTOS_BUILD"], "--prefix", first, "--component", component)
        cls.prefix = cls.folder / "moved"
        first.rename(cls.prefix)
        cls.library = next(cls.prefix.rglob("libnostos.so")).parent
        cls.asked = ["--prompt", "A lion on a beach", "--height", "256", "--width", "256", "--device", "auto"]
        cls.expected = cls.folder / "cli.png"
        run(os.environ["NOSTOS_BINARY"], "generate", *cls.asked, "--seed", "7", "--output", cls.expected,
            env={"NOSTOS_MODELS_DIR": str(MODELS)})

    def draw_and_compare(self, program: Path, name: str, **env):
        drawn = self.folder / f"{name}.png"
        more = [self.folder / f"{name}_again.png"] if "cpp" in name else []
        out = run(program, "A lion on a beach", drawn, *more, env={"NOSTOS_MODELS_DIR": str(MODELS), **env})
        self.assertEqual(drawn.read_bytes(), self.expected.read_bytes(), name)
        if more:
            self.assertIn("cancelled", out)
            self.assertNotEqual(more[0].read_bytes(), self.expected.read_bytes())

    def test_cmake_finds_it(self):
        for library in ("nostos::nostos", "nostos::static"):
            with self.subTest(library=library):
                build = self.folder / library.replace("::", "_")
                run("cmake", "-S", ROOT / "examples", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
                    f"-DNOSTOS_LIBRARY={library}", "-DCMAKE_BUILD_TYPE=Release")
                run("cmake", "--build", build)
                for program in ("draw_c", "draw_cpp"):
                    self.draw_and_compare(build / program, f"{library[8:]}_{program}")

    def test_pkg_config_finds_it(self):
        env = {"PKG_CONFIG_PATH": str(self.library / "pkgconfig")}
        for kind, flags in (("shared", []), ("static", ["--static"])):
            with self.subTest(kind=kind):
                words = run("pkg-config", "--cflags", "--libs", *flags, "nostos", env=env).split()
                if flags:
                    words = [str(self.library / "libnostos.a") if word == "-lnostos" else word for word in words]
                program = self.folder / f"pkg_config_{kind}"
                run("cc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", ROOT / "examples/c/draw.c", "-o", program, *words)
                self.draw_and_compare(program, program.name, LD_LIBRARY_PATH=str(self.library))
        self.assertEqual(run("pkg-config", "--modversion", "nostos", env=env).split()[0],
                         run(os.environ["NOSTOS_BINARY"], "--version").split()[1])

    def test_it_finds_the_models_of_its_installation(self):
        program = self.folder / "beside_models"
        run("cc", ROOT / "examples/c/draw.c", "-o", program, f"-I{self.prefix}/include", f"-L{self.library}", "-lnostos")
        models = self.prefix / "share/nostos/models"
        (models / "mini").mkdir(parents=True)  # without a model, so that the error says where it looked
        env = {name: value for name, value in os.environ.items() if name != "NOSTOS_MODELS_DIR"}
        ran = subprocess.run([program, "A lion on a beach", self.folder / "none.png"], capture_output=True, text=True,
                             env={**env, "LD_LIBRARY_PATH": str(self.library)})
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn(str(models.resolve() / "mini"), ran.stderr)


class Abi(unittest.TestCase):
    def test_the_library_is_that_of_the_list_and_has_lost_nothing(self):
        self.assertEqual(abi_check.check(os.environ["NOSTOS_LIBRARY"], None), [])

    def test_all_functions_have_a_version(self):
        shown = abi_check.symbols(os.environ["NOSTOS_LIBRARY"])
        self.assertGreater(len(shown), 30)
        for line in shown:
            self.assertRegex(line, r"^symbol nostos_\w+@@NOSTOS_\d+\.\d+ T$")

    def test_the_header_names_all_fields(self):
        named = set(re.findall(r"\w+", abi_check.HEADER.read_text()))
        fields = abi_check.all_fields()
        self.assertGreater(len(fields), 40)
        self.assertEqual([line for line in fields if line.split()[-1] not in named], [])

    def test_a_process_of_its_own_needs_no_launcher(self):
        needed = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", os.environ["NOSTOS_LIBRARY"]))
        self.assertIn("libc.so.6", needed)
        self.assertEqual([name for name in needed if "mpi" in name], [])

    def test_a_declaration_that_changes_is_lost(self):
        before = ["soname a.so.0", *abi_check.declarations("typedef enum e { A = 0, B = 1 } e;\nNOSTOS_API int f(int a);\n")]
        self.assertEqual(before[1:], ["enum e: A = 0", "enum e: B = 1", "function int f(int a)"])
        more = [*before, "function int g(void)"]
        self.assertEqual(abi_check.lost(before, more), [])
        self.assertEqual(abi_check.lost(more, before), ["function int g(void)"])
        self.assertEqual(abi_check.lost(more, ["soname a.so.1"]), [])

    def test_declarations_are_read(self):
        text = ('#define X \\\n  1\nextern "C" {\n// NOSTOS_API void no(void);\ntypedef struct s { int a;\n int b; } s;\n'
                "typedef int (*c)(void* user,\n  int a);\nNOSTOS_API void f(\n    c call);  // f\n}")
        self.assertEqual(abi_check.declarations(text),
                         ["callback int (*c)(void* user, int a)", "function void f( c call)", "struct s: int a; int b;"])


if __name__ == "__main__":
    unittest.main()
