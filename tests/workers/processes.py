"""Real processes with real collectives, quickly: forked from a server that has imported everything once."""

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
_PORTS = random.SystemRandom()  # whatever seeds a test sets
MODULES = [
    "torch.distributed",
    "lightning.pytorch",
    "tests.models",
    "tests.workers.fault_ranks",
    "tests.workers.loop_ranks",
    "lightning_uncertainty.trainer.callback",
]


def forkserver():
    """The context of multiprocessing whose processes have imported everything when they start."""
    os.environ["PYTHONPATH"] = str(ROOT)  # for the server, which starts elsewhere
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


class Ranks:
    """The processes of one job, each running ``function(*args)`` with the environment that ``torchrun`` would give it.

    Args:
        function: found by its name in the other processes, so it has to stand at the top of a module.
        args: for the function.
        folder: gets the result (``rank0.pt``) and the output (``rank0.log``) of each process.
        world: number of processes.
        environment: more variables.
    """

    def __init__(self, function, *args, folder, world=2, environment=None):
        self.folder, self.world = Path(folder), world
        self.folder.mkdir(parents=True, exist_ok=True)
        server = forkserver()
        self.port = free_port()
        self.processes = [
            server.Process(target=_run, args=(function, args, self.folder, rank, world, self.port, environment or {}))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self, timeout=90.0):
        """The exit codes; a process that does not end in time is killed, and the test fails."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.exitcode is None]
        self.kill()
        assert not hung, f"ranks {hung} hang after {timeout} s\n{self.output()}"
        return [process.exitcode for process in self.processes]

    def results(self, timeout=90.0):
        """What the function returned in each rank."""
        codes = self.wait(timeout)
        assert codes == [0] * self.world, f"exit codes {codes}\n{self.output()}"
        return [torch.load(self.folder / f"rank{rank}.pt", weights_only=False) for rank in range(self.world)]

    def kill(self, *ranks):
        """SIGKILL, which nobody can catch."""
        for rank in ranks or range(self.world):
            self.processes[rank].kill()

    def output(self, rank=None):
        """The last of what the processes wrote."""
        chosen = range(self.world) if rank is None else [rank]
        return "\n".join(f"-- rank {r}\n{(self.folder / f'rank{r}.log').read_text()[-6000:]}" for r in chosen)


def run_ranks(function, *args, folder, world=2, timeout=90.0, environment=None):
    """What ``function(*args)`` returns in each of ``world`` processes."""
    return Ranks(function, *args, folder=folder, world=world, environment=environment).results(timeout)


def free_port():
    """A port below those that the system gives away by itself, and at random: other tests look for one as well."""
    while True:
        port = _PORTS.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def run_script(command, *, timeout=120.0, environment=None):
    """Run ``python command...`` as a user would; the completed process, its children gone with it."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, output)


def _run(function, args, folder, rank, world, port, environment):
    log = os.open(folder / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        NODE_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
        **environment,
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(rank)
    try:
        torch.save(function(*args), folder / f"rank{rank}.pt")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # as at the end of a script, whatever threads there are
    sys.stdout.flush()
    os._exit(0)
