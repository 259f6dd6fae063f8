#!/usr/bin/env python3
"""Compares what libnostos.so shows with src/api/abi.txt, and that with the last release: nothing that programs rely on may go.

Usage: scripts/abi_check.py LIBRARY          fails if the list is not that of the library and of nostos.h, or if a line of the list
                                             of the last tag (or of --since TAG) is missing while the library's number is the same
       scripts/abi_check.py LIBRARY --write  writes the list
Needs Python 3.11, binutils, and git for the comparison with a tag.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "src/api/include/nostos.h"
LIST = "src/api/abi.txt"


def declarations(header: str) -> list[str]:
    """Returns what a C header declares, one a line: functions, callbacks, structs, enums with the value of each name."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", header, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*(?:\\\n.*)*$", "", text, flags=re.MULTILINE)
    text = re.sub(r'extern\s+"C"\s*\{', "", text)
    found = []
    for name, body in re.findall(r"typedef enum (\w+) \{(.*?)\} \1;", text, re.DOTALL):
        for constant, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body):
            found.append(f"enum {name}: {constant} = {value}")
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, re.DOTALL):
        found.append(f"struct {name}: {' '.join(body.split())}")
    for callback in re.findall(r"typedef ([^;{}]*\(\*\w+\)\([^;]*\));", text):
        found.append("callback " + " ".join(callback.split()))
    for function in re.findall(r"NOSTOS_API ([^;]*);", text):
        found.append("function " + " ".join(function.split()))
    return sorted(found)


def fields(source: str) -> list[str]:
    """Returns the fields that options.cc or request.cc know by name, with the kind of their values."""
    handles = dict(re.findall(r"using (\w+) = Field<(\w+),", source))
    return sorted(f"field {handles[kind]} {kind.lower()} {name}" for kind, name in re.findall(r'\b(\w+)\{"(\w+)",', source)
                  if kind in handles)


def all_fields() -> list[str]:
    return [line for name in ("options", "request") for line in fields((ROOT / f"src/api/{name}.cc").read_text())]


def functions(lines: list[str]) -> set[str]:
    return {re.search(r"(\w+)\(", line).group(1) for line in lines if line.startswith("function ")}


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def symbols(library: str) -> list[str]:
    """Returns the functions and data that a library shows, with their versions; a version's own symbol is left out."""
    rows = (line.split() for line in output("nm", "-D", "--defined-only", "--with-symbol-versions", library).splitlines())
    return sorted(f"symbol {row[-1]} {row[-2]}" for row in rows if row[-2] != "A")


def soname(library: str) -> str:
    return "soname " + re.search(r"SONAME\s+(\S+)", output("objdump", "-p", library)).group(1)


def lost(before: list[str], now: list[str]) -> list[str]:
    """Returns the lines that programs relied on and that are gone. None is where the library has another number."""
    numbers = [{line for line in lines if line.startswith("soname ")} for lines in (before, now)]
    return [] if numbers[0] != numbers[1] else [line for line in before if line not in now]


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def last_tag() -> str | None:
    run = subprocess.run(["git", "describe", "--tags", "--abbrev=0"], capture_output=True, text=True, cwd=ROOT)
    return run.stdout.strip() if run.returncode == 0 else None


def list_at(tag: str) -> list[str] | None:
    run = subprocess.run(["git", "show", f"{tag}:{LIST}"], capture_output=True, text=True, cwd=ROOT)
    return lines_of(run.stdout) if run.returncode == 0 else None


def check(library: str, since: str | None) -> list[str]:
    """Returns what is wrong."""
    declared = declarations(HEADER.read_text())
    shown = symbols(library)
    now = [soname(library), *declared, *all_fields(), *shown]
    wrong = []
    if functions(declared) != {line.split()[1].split("@")[0] for line in shown}:
        wrong.append("the library does not show the functions that nostos.h declares, and these alone")
    if lines_of((ROOT / LIST).read_text()) != now:
        wrong.append(f"{LIST} is not the list of this library: see what changed, then run scripts/abi_check.py LIBRARY --write")
    tag = since or last_tag()
    before = list_at(tag) if tag else None
    if before is None:
        print(f"no release with {LIST} to compare with")
    else:
        wrong += [f"gone since {tag}, which takes another SOVERSION: {line}" for line in lost(before, now)]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--since", metavar="TAG")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.write:
        lines = [soname(arguments.library), *declarations(HEADER.read_text()), *all_fields(), *symbols(arguments.library)]
        head = "# What programs that are linked with the library rely on; scripts/abi_check.py writes and checks it.\n"
        (ROOT / LIST).write_text(head + "\n".join(lines) + "\n")
    wrong = check(arguments.library, arguments.since)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
