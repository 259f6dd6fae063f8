"""Draws with many ranks as users do: threads, mpirun on one host and two; and kills, stops and starves ranks on the way.

Usage: NOSTOS_BINARY=build/cpu/bin/nostos ranks_test.py [TestCase ...]. Needs Python 3.11, Open MPI's mpirun and the embedded model, and
for two hosts root and iproute2; exits with 77 if everything was skipped.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mpirun import ENVIRONMENT, LIMIT_S, MPIRUN, why_not  # noqa: E402
from run_tests import SKIPPED_EXIT, run_tests  # noqa: E402

BINARY = os.path.abspath(os.environ["NOSTOS_BINARY"])
DATA = Path(__file__).resolve().parents[1] / "data"
KLEIN = DATA / "klein_tiny"  # a model that edits
# Each rank says its process before it becomes nostos; what stands before `exec` may depend on the rank.
RANK_SHELL = 'echo "process $OMPI_COMM_WORLD_RANK $$" >&2; {before} exec "$@"'


class RanksCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dir = Path(folder.name)

    def generate(self, output: str, *flags: str) -> list[str]:
        return [BINARY, "generate", "--prompt", "A crowded beach", "--seed", "42", "--output", str(self.dir / output), *flags]

    def draw(self, output: str, *flags: str, launcher: list[str] = ()) -> bytes:
        """Returns the bytes of the picture."""
        command = [*launcher, *self.generate(output, *flags)]
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout, f"{self.dir / output}\n")  # one writer
        return (self.dir / output).read_bytes()


class Pictures(RanksCase):
    def test_the_reference_command(self):
        flags = "--height 720 --width 720 --num-inference-steps 2 --guidance-scale 4.0".split()
        one = self.draw("one.png", *flags)
        two = self.draw("two.png", *flags, "--ulysses-degree", "2", "--num-gpus", "2")
        self.assertEqual(one, two)

    def test_threads_and_processes_agree(self):
        flags = "--height 208 --width 336 --num-inference-steps 2 --guidance-scale 4".split()
        one = self.draw("one.png", *flags)
        for ranks in (2, 3):
            for plan in ("token", "axis"):
                with self.subTest(ranks=ranks, plan=plan):
                    self.assertEqual(self.draw("threads.png", *flags, "--num-gpus", str(ranks), "--sp-plan", plan), one)
                    launcher = [*MPIRUN, "-n", str(ranks)]
                    self.assertEqual(self.draw("mpi.png", *flags, "--sp-plan", plan, launcher=launcher), one)
        self.assertEqual(self.draw("cfg.png", *flags, "--cfg-parallel-degree", "2", launcher=[*MPIRUN, "-n", "2"]), one)

    def test_an_edit_has_the_same_bytes_in_processes(self):
        flags = ["--model-path", str(KLEIN / "base"), "--image", str(KLEIN / "references" / "a.png"), "--height", "64", "--width", "80",
                 "--num-inference-steps", "2", "--guidance-scale", "2", "--max-sequence-length", "64"]
        one = self.draw("edited.png", *flags)
        self.assertEqual(self.draw("edited.png", *flags, launcher=[*MPIRUN, "-n", "2"]), one)
        self.assertNotEqual(self.draw("edited.png", *flags, "--image", str(KLEIN / "references" / "b.png"), launcher=[*MPIRUN, "-n", "2"]), one)

    def test_what_begins_with_a_part_of_a_picture_and_follows_another_has_the_same_bytes_in_processes(self):
        data, pictures = KLEIN.parent, KLEIN / "references"
        flags = ["--model-path", str(data / "tiny" / "diffusers_test"), "--height", "64", "--width", "80", "--num-inference-steps", "4",
                 "--image", str(pictures / "a.png"), "--mask-image", str(pictures / "b.png")]
        control = ["--controlnet", str(data / "control_drawings" / "union_2.1.safetensors"), "--control-image", str(pictures / "a.png"),
                   "--control-end", "0.5", "--guidance-scale", "2"]
        for some in (flags, [*flags, *control]):
            one = self.draw("one.png", *some)
            self.assertEqual(self.draw("one.png", *some, launcher=[*MPIRUN, "-n", "2"]), one)

    def test_an_edit_is_timed_in_processes(self):
        command = [BINARY, "bench", "--model-path", str(KLEIN / "distilled"), "--height", "64", "--width", "80", "--num-inference-steps", "1",
                   "--warmup", "0", "--reference-images", "2", "--json"]
        digests = []
        for launcher in ([], [*MPIRUN, "-n", "2"]):
            run = subprocess.run([*launcher, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
            self.assertEqual(run.returncode, 0, run.stderr)
            digests.append(json.loads(run.stdout)["picture_digest"])
        self.assertEqual(digests[0], digests[1])

    def test_files_are_read_and_written_by_rank_0_alone(self):
        one = self.draw("one.png", "--height", "64", "--width", "64", "--num-inference-steps", "2", "--save-latents",
                        str(self.dir / "one.safetensors"))
        (self.dir / "flags.toml").write_text('perf-dump-path = "perf.json"\ncomm-timeout = 60\n')
        flags = ["--from", str(self.dir / "one.png"), "--config", str(self.dir / "flags.toml"), "--save-latents",
                 str(self.dir / "again.safetensors")]
        # Rank 1 sees no file of the test: it runs in a folder of its own with relative names.
        relative = [part.replace(str(self.dir) + "/", "") for part in self.generate("again.png", *flags)]
        shell = f'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then mkdir -p {self.dir}/elsewhere && cd {self.dir}/elsewhere; fi; exec "$@"'
        run = subprocess.run([*MPIRUN, "-n", "2", "-wdir", str(self.dir), "sh", "-c", shell, "sh", *relative],
                             env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual((self.dir / "again.png").read_bytes(), one)
        self.assertEqual((self.dir / "again.safetensors").read_bytes(), (self.dir / "one.safetensors").read_bytes())
        self.assertEqual(list((self.dir / "elsewhere").iterdir()), [])
        perf = json.loads((self.dir / "perf.json").read_text())
        self.assertEqual(perf["world_size"], 2)
        self.assertEqual([(r["rank"], r["image_tokens"], r["heads"]) for r in perf["ranks"]], [(0, 16, 3), (1, 0, 3)])
        self.assertTrue(all(rank["bytes_sent"] > 0 for rank in perf["ranks"]))

    def test_the_number_of_processes_is_the_number_of_ranks(self):
        run = subprocess.run([*MPIRUN, "-n", "2", *self.generate("x.png", "--num-gpus", "3")], env=ENVIRONMENT,
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 2, run.stderr)
        self.assertIn("--num-gpus 3 is not the 2 processes", run.stderr)


class Failures(RanksCase):
    """Three processes draw a picture of many steps; one of them fails."""

    def start(self, *flags: str, before: str = "", size: tuple[int, int] = (208, 336)) -> subprocess.Popen:
        height, width = map(str, size)
        command = self.generate("never.png", "--height", height, "--width", width, "--num-inference-steps", "1000", *flags)
        shell = ["sh", "-c", RANK_SHELL.format(before=before), "sh", *command]
        process = subprocess.Popen([*MPIRUN, "-n", "3", *shell], env=ENVIRONMENT, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        return process

    def wait_until_drawing(self, process: subprocess.Popen) -> dict[int, int]:
        """Returns the process id of every rank once a step is done."""
        pids, lines = {}, []
        for line in process.stderr:
            lines.append(line)
            if found := re.match(r"process (\d+) (\d+)", line):
                pids[int(found[1])] = int(found[2])
            if line.startswith("step ") and len(pids) == 3:
                return pids
        raise AssertionError("the ranks ended early:\n" + "".join(lines))

    def expect_end(self, process: subprocess.Popen, message: str, since: float, times: int = 1) -> int:
        """All ranks end in time, `times` of them with an error that matches, and leave no file. Returns the exit status."""
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        seconds = time.monotonic() - since
        told = re.findall(r"^error: (.*)$", errors, re.MULTILINE)
        self.assertGreaterEqual(len([text for text in told if re.search(message, text)]), times, errors)
        self.assertLess(seconds, LIMIT_S)
        self.assertEqual(list(self.dir.iterdir()), [])
        print(f"{self.id().split('.')[-1]}: {seconds:.2f} s from failure to end, exit status {process.returncode}")
        return process.returncode

    def test_a_killed_rank_is_named(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                process = self.start()
                pids = self.wait_until_drawing(process)
                since = time.monotonic()
                os.kill(pids[victim], signal.SIGKILL)
                self.assertNotEqual(self.expect_end(process, f"rank {victim} failed: its process has ended", since), 0)

    def test_an_interrupt_ends_all(self):
        process = self.start()
        self.wait_until_drawing(process)
        since = time.monotonic()
        process.send_signal(signal.SIGINT)
        self.assertNotEqual(self.expect_end(process, "cancelled", since), 0)

    def test_a_stopped_rank_is_named(self):
        process = self.start("--comm-timeout", "5")
        pids = self.wait_until_drawing(process)
        since = time.monotonic()
        os.kill(pids[1], signal.SIGSTOP)
        self.assertEqual(self.expect_end(process, "rank 1 failed: it did not come to .* within 5 s", since), 4)

    def test_a_rank_that_cannot_open_the_model_ends_all(self):
        since = time.monotonic()
        process = self.start(before='[ "$OMPI_COMM_WORLD_RANK" != 2 ] || export NOSTOS_MODELS_DIR=/nonexistent;')
        self.assertEqual(self.expect_end(process, "rank 2 failed: .*nonexistent", since), 2)

    def test_a_lora_that_one_rank_lacks_ends_all(self):
        model = DATA / "tiny" / "varied"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(DATA / "adapters" / "zimage" / "kohya.safetensors", Path(folder) / "style.safetensors")
            # Each rank looks for the file where it runs; without --comm-timeout one that waited would wait for ever.
            flags = ["--model-path", str(model), "--lora", "style.safetensors:0.5"]
            for victim in (0, 2):
                with self.subTest(victim=victim):
                    since = time.monotonic()
                    process = self.start(*flags, before=f'[ "$OMPI_COMM_WORLD_RANK" = {victim} ] || cd {folder};',
                                         size=(64, 64))
                    self.assertEqual(self.expect_end(process, "style.safetensors", since, times=3), 2)


class TwoHosts(RanksCase):
    """Two network namespaces with a cable between them, each with a host name and processes of its own."""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0 or shutil.which("ip") is None:
            self.skipTest("two hosts need root and iproute2 for network namespaces")
        tag = f"nostos{os.getpid() % 100000}"
        self.hosts = {f"{tag}a": "10.231.77.1", f"{tag}b": "10.231.77.2"}
        commands = [["ip", "netns", "add", name] for name in self.hosts]
        (a, _), (b, _) = self.hosts.items()
        commands += [["ip", "link", "add", f"{tag}va", "netns", a, "type", "veth", "peer", "name", f"{tag}vb", "netns", b]]
        for name, address in self.hosts.items():
            device = f"{tag}v{name[-1]}"
            commands += [["ip", "-n", name, "address", "add", f"{address}/24", "dev", device],
                         ["ip", "-n", name, "link", "set", device, "up"], ["ip", "-n", name, "link", "set", "lo", "up"]]
        self.addCleanup(lambda: [subprocess.run(["ip", "netns", "delete", name], capture_output=True) for name in self.hosts])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                self.skipTest(f"network namespaces are not allowed here: {done.stderr.strip()}")

        self.launcher = self.launch_on_both()

    def launch_on_both(self) -> list[str]:
        """Returns the mpirun of one rank on each host."""
        (a, address_a), (b, address_b) = self.hosts.items()
        # Stands for ssh: what mpirun wants to run on the other host runs in the other namespaces.
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        agent = Path(folder.name) / "agent"
        apart = "unshare --uts --pid --fork --kill-child --mount-proc"
        agent.write_text(f'#!/bin/sh\nshift\nexec ip netns exec {b} {apart} sh -c "hostname {b}; $*"\n')
        agent.chmod(0o755)
        return ["ip", "netns", "exec", a, "unshare", "--uts", "sh", "-c", f'hostname {a}; exec "$@"', "sh", *MPIRUN,
                "--mca", "plm_rsh_agent", str(agent), "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include",
                "10.231.77.0/24", "--mca", "oob_tcp_if_include", "10.231.77.0/24", "-H", f"{address_a}:1,{address_b}:1",
                "-n", "2"]

    def test_the_same_picture(self):
        flags = "--height 208 --width 336 --num-inference-steps 2 --guidance-scale 4".split()
        one = self.draw("one.png", *flags)
        hosts = subprocess.run([*self.launcher, "hostname"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
        self.assertEqual(sorted(hosts.stdout.split()), sorted(self.hosts), hosts.stderr)
        self.assertEqual(self.draw("two.png", *flags, launcher=self.launcher), one)

    def test_a_rank_that_dies_on_the_other_host_is_named(self):
        # No rank sees the other's process: only the connection between them ends.
        with tempfile.TemporaryDirectory() as folder:
            drawing = Path(folder) / "drawing"
            shell = ('if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then '
                     f'(for i in $(seq 600); do [ ! -e {drawing} ] || exec kill -9 $$; sleep 0.1; done) & fi; exec "$@"')
            command = self.generate("never.png", "--height", "208", "--width", "336", "--num-inference-steps", "1000")
            run = subprocess.Popen([*self.launcher, "sh", "-c", shell, "sh", *command], env=ENVIRONMENT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            for line in run.stderr:
                if line.startswith("step "):
                    drawing.touch()
                    break
            _, errors = run.communicate(timeout=60)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("error: rank 1 failed: its process has ended", errors)
        self.assertEqual(list(self.dir.iterdir()), [])


if __name__ == "__main__":
    reason = why_not()
    if not reason and subprocess.run([BINARY, "inspect"], capture_output=True).returncode != 0:
        reason = "the embedded model is missing"
    if reason:
        print(f"skipped: {reason}")
        sys.exit(SKIPPED_EXIT)
    run_tests()
