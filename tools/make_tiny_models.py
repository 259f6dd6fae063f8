"""Makes tiny random model folders, like those of diffusers' own pipeline tests, and what diffusers makes of them.

    python tools/make_tiny_models.py --family zimage --out tests/data/tiny
    python tools/make_tiny_models.py --family klein --out tests/data/klein_tiny

For each model: <out>/<name>/ in diffusers' layout, <name>/expected/<case>.safetensors with the tensors that
FAMILY_reference.py records, and <name>/expected/expected.json. The two models of a family differ in every choice a
config leaves open and in the ways a folder may be written (one file or shards, with or without tokenizer.json, class
names, dtypes on disk). Some tensors are stored in a 16-bit type to keep the folders small; every parameter is exact in
bfloat16 and float16, so the stored type does not change the result.
The order in which convolutions add depends on the threads: the files were made with OMP_NUM_THREADS=2.
"""

import argparse
import shutil
from pathlib import Path

FOLDERS = {"zimage": Path("tests/data/tiny"), "klein": Path("tests/data/klein_tiny")}


def parse_options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FOLDERS, default="zimage")
    parser.add_argument("--out", type=Path, help="default: the family's folder in tests/data")
    return parser.parse_args()


if __name__ == "__main__":
    OPTIONS = parse_options()  # before the imports that follow: --help needs none of them

import klein_tiny
import reference
import zimage_tiny


def main(options):
    family = {"zimage": zimage_tiny, "klein": klein_tiny}[options.family]
    out = options.out or FOLDERS[options.family]
    for seed, (name, spec) in enumerate(family.MODELS.items()):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        family.write_model(folder, spec, seed)
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        expected = folder / "expected"
        expected.mkdir()
        reference.write_json(family.write_expected(folder, name, expected), expected / "expected.json")


if __name__ == "__main__":
    main(OPTIONS)
