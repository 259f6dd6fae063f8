"""Checks MPI ranks: exchanges bit for bit, and that no failure of a rank leaves the others waiting or silent.

Usage: mpi_test.py MPI_RANK_PROGRAM [unittest arguments]. Needs Python 3.11 and Open MPI's mpirun; exits 77 (skipped)
where that cannot start processes.
"""

import os
import re
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mpirun import ENVIRONMENT, LIMIT_S, MPIRUN, why_not  # noqa: E402

# Copies through shared memory as between containers, and sockets as between hosts.
TRANSPORTS = {
    "default": [],
    "shared memory": ["--mca", "btl_vader_single_copy_mechanism", "none"],
    "sockets": ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"],
}
program = None


class Run:
    """One mpirun of the rank program."""

    def __init__(self, ranks: int, *arguments: str, launcher: list[str] = ()):
        command = [*MPIRUN, *launcher, "-n", str(ranks), program, *arguments]
        self.start = time.monotonic()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=ENVIRONMENT, **pipes)
        self.ranks = ranks

    def wait_until_ready(self) -> dict[int, int]:
        """Returns the process id of every rank once all have said that they are at work."""
        pids = {}
        while len(pids) < self.ranks:
            line = self.process.stdout.readline()
            if not line:
                raise AssertionError(f"the ranks ended early: {self.process.communicate()[1]}")
            if found := re.match(r"ready (\d+) (\d+)", line):
                pids[int(found[1])] = int(found[2])
        self.start = time.monotonic()
        return pids

    def end(self, timeout_s: float = 60) -> tuple[int, dict[int, str], str]:
        """Returns mpirun's exit status, the error that each rank printed, and all of standard error."""
        try:
            _, errors = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.seconds = time.monotonic() - self.start
        told = {int(rank): text for rank, text in re.findall(r"error of rank (\d+): (.*)", errors)}
        return self.process.returncode, told, errors


class Exchanges(unittest.TestCase):
    def test_bit_for_bit(self):
        for ranks in (1, 2, 3):
            with self.subTest(ranks=ranks):
                run = Run(ranks, "exchange")
                status, _, errors = run.end()
                self.assertEqual(status, 0, errors)

    def test_bit_for_bit_in_pieces(self):
        for ranks, piece_bytes in ((2, 1), (3, 777), (3, 1000)):
            with self.subTest(ranks=ranks, piece_bytes=piece_bytes):
                mode = "exchange" if piece_bytes > 1 else "exchange-little"
                status, _, errors = Run(ranks, mode, "0", str(piece_bytes)).end()
                self.assertEqual(status, 0, errors)

    def test_bit_for_bit_by_every_transport(self):
        for name, launcher in TRANSPORTS.items():
            with self.subTest(transport=name):
                status, _, errors = Run(3, "exchange", launcher=launcher).end()
                self.assertEqual(status, 0, errors)

    def test_a_rank_that_comes_while_it_is_asked_for(self):
        status, _, errors = Run(3, "late", "1").end()
        self.assertEqual(status, 0, errors)


class Failures(unittest.TestCase):
    def expect(self, run: Run, cause: str, tellers: set[int], limit_s: float = LIMIT_S) -> int:
        """The run ends in time and every rank of `tellers` has printed an error that matches `cause`."""
        status, told, errors = run.end()
        for rank in sorted(tellers):
            self.assertRegex(told.get(rank, ""), cause, f"rank {rank}; all of standard error:\n{errors}")
        self.assertLess(run.seconds, limit_s)
        print(f"{self.id().split('.')[-1]}: {run.seconds:.2f} s from failure to end, exit status {status}")
        return status

    def test_a_killed_rank_is_named(self):
        for mode in ("exchange-until-stopped", "exchange-much-until-stopped", "work-until-terminated"):
            for victim, (name, launcher) in enumerate(TRANSPORTS.items()):
                with self.subTest(mode=mode, victim=victim, transport=name):
                    run = Run(3, mode, launcher=launcher)
                    os.kill(run.wait_until_ready()[victim], signal.SIGKILL)
                    self.expect(run, f"^rank {victim} failed: its process has ended$", {0, 1, 2} - {victim})

    def test_a_stopped_rank_is_named(self):
        cases = [("exchange-until-stopped", "default"), *(("exchange-much-until-stopped", name) for name in TRANSPORTS)]
        for mode, name in cases:
            with self.subTest(mode=mode, transport=name):
                run = Run(3, mode, "2", launcher=TRANSPORTS[name])
                os.kill(run.wait_until_ready()[1], signal.SIGSTOP)
                cause = r"^rank 1 failed: it did not come to all_to_all within 2 s \(rank \d waited\)$"
                self.expect(run, cause, {0, 2})

    def test_a_rank_that_throws_ends_all(self):
        for mode in ("throw", "throw-under-way", "throw-with-stuck-sends"):
            for name, launcher in TRANSPORTS.items():
                with self.subTest(mode=mode, transport=name):
                    run = Run(3, mode, launcher=launcher)
                    self.assertEqual(self.expect(run, "^(rank 2 failed: )?no room for the weights$", {0, 1, 2}), 3)

    def test_a_buffer_that_is_gone_is_sent_no_more(self):
        for name, launcher in TRANSPORTS.items():
            with self.subTest(transport=name):
                run = Run(3, "throw-with-a-send-that-is-met-late", launcher=launcher)
                status, told, errors = run.end()
                self.assertEqual(status, 3, errors)
                self.assertRegex(told.get(2, ""), "^no room for the weights$", errors)
                for sign in ("Segmentation fault", "Bad address", "signal 11", "*** Process received signal"):
                    self.assertNotIn(sign, errors)

    def test_a_sleeping_rank_is_named(self):
        run = Run(2, "sleep", "1")
        run.wait_until_ready()
        self.assertEqual(self.expect(run, "^rank 1 failed: it did not come to barrier within 1 s", {0}), 4)

    def test_a_rank_that_waits_itself_is_not_blamed(self):
        run = Run(3, "chain", "1")
        run.wait_until_ready()
        self.assertEqual(self.expect(run, "^rank 2 failed: it did not come to barrier within 1 s", {0, 1}), 4)

    def test_ranks_that_disagree_end(self):
        for mode, cause in (
            ("sizes-differ", "rank 0 sends 7 bytes to rank 1 in broadcast, which expects 8"),
            ("return-early", "rank 1 sends 0 bytes to rank 0 in broadcast, which expects 100"),
        ):
            with self.subTest(mode=mode):
                self.assertEqual(self.expect(Run(2, mode), cause, {0, 1}), 1)


if __name__ == "__main__":
    if reason := why_not():
        print(f"skipped: {reason}")
        sys.exit(77)
    program = sys.argv.pop(1)
    unittest.main()
