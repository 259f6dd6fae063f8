"""What the tests that start ranks with mpirun share: `from mpirun import ENVIRONMENT, MPIRUN, why_not`, with tests/ in sys.path."""

import os
import shutil
import subprocess

ENVIRONMENT = {
    **os.environ,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "ASAN_OPTIONS": "detect_leaks=0",  # Open MPI leaks at its end
    "RES_OPTIONS": "timeout:1 attempts:1",  # Open MPI looks up names that a bare machine cannot resolve
}
MPIRUN = ["mpirun", "--bind-to", "none", "--oversubscribe"]
LIMIT_S = 10  # from a rank's failure to the end of all others


def why_not() -> str | None:
    """Returns why mpirun cannot start ranks on this machine, or None if it can."""
    if shutil.which("mpirun") is None:
        return "mpirun is missing (Debian package openmpi-bin)"
    try:
        run = subprocess.run([*MPIRUN, "-n", "1", "true"], env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"mpirun needs more than {LIMIT_S} s to start a process: does a name server not answer?"
    return None if run.returncode == 0 else f"mpirun cannot start a process: {run.stderr}"
