"""What the files server_*_test.py share: a server for a class of tests, a check of pictures, and run_tests."""

import struct
import sys
import unittest
import zlib
from pathlib import Path

from server_process import Server

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from run_tests import run_tests  # noqa: E402, F401


def check_png(data: bytes, size: tuple[int, int] | None = None):
    """Fails unless `data` is a whole PNG with right check sums, of that size."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    offset, kinds = 8, []
    while offset < len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        kind, body = data[offset + 4 : offset + 8], data[offset + 8 : offset + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", data, offset + 8 + length)[0]
        if kind == b"IHDR" and size:
            assert struct.unpack(">II", body[:8]) == size
        kinds.append(kind)
        offset += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND" and offset == len(data)


BOUNDARY = "a-boundary"  # of forms


def form(*parts: tuple[str, str | None, bytes | str]) -> bytes:
    """Returns a form of (name, name of a file or None, value)."""
    body = b""
    for name, file, value in parts:
        named = f'; filename="{file}"' if file is not None else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
        body += (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


class ServerTest(unittest.TestCase):
    """One server for all tests of a class."""

    flags: tuple[str, ...] = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        # The sanitizers' presets report leaks by the exit code.
        if cls.server.process.returncode != 0:
            raise AssertionError(f"exit code {cls.server.process.returncode}\n" + "".join(cls.server.log[-60:]))

    def tearDown(self):
        self.assertIsNone(self.server.process.poll(), "the server ended: " + "".join(self.server.log[-5:]))
