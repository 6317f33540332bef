"""What the tests start and wait for: programs that end with their test, ports that nobody takes away, and conditions.

A program that is started here ends with everything that it started itself: when its test is over, and, by a guard
process, when pytest is killed or ends itself because a test hangs.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

TESTS = Path(__file__).parent

PATIENCE_S = 120
"""How long a test waits for what must come. It only ends a hang, so it is far above what a busy machine needs."""

GRACE_S = 30
"""How long a program may take to end by itself, once it is told to."""


class Program(subprocess.Popen):
    """A program in a process group of its own; the group ends with the `with` block, or with `end()`."""

    def __init__(self, command, **options):
        GUARD.start()
        super().__init__([*map(str, command)], start_new_session=True, **options)
        GUARD.watch(self.pid)

    def end(self):
        """Tell it and all that it started to end; kill what does not. May be called again."""
        if self.returncode is None:
            signal_group(self.pid, signal.SIGTERM)
            signal_group(self.pid, signal.SIGCONT)  # it may be stopped
            with suppress(subprocess.TimeoutExpired):
                self.wait(GRACE_S)
        signal_group(self.pid, signal.SIGKILL)
        self.wait()
        GUARD.forget(self.pid)

    def __exit__(self, *exc_info):
        self.end()
        super().__exit__(*exc_info)


def signal_group(leader, number):
    with suppress(ProcessLookupError, PermissionError):  # it is gone; macOS says so if only zombies are left
        os.killpg(leader, number)


def run(command, **options):
    """The completed run of a program, with what it wrote as text."""
    with Program(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as program:
        output, errors = program.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(command, program.returncode, output, errors)


class Guard:
    """A process that ends what is left of the tests when their process is gone, however it went.

    It learns of that by a pipe, which the kernel closes. (`PR_SET_PDEATHSIG` would fire when the thread ends that
    started a program, and reach the program alone.)
    """

    def __init__(self):
        self._pipe = None

    def start(self):
        """Start the process, if it was not; it takes longer than most programs need to start."""
        if self._pipe is not None:
            return
        command = [sys.executable, "-I", "-S", __file__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
        os.register_at_fork(after_in_child=process.stdin.close)  # only this process holds the pipe open
        atexit.register(process.communicate)
        self._pipe = process.stdin

    def watch(self, left):
        """End this process group, given by its number, or unmount what is mounted at this path."""
        self.start()
        self._pipe.write(f"+{left}\n".encode())

    def forget(self, left):
        self._pipe.write(f"-{left}\n".encode())


def guard():
    """The guard's own program."""
    watched = set()
    for line in sys.stdin:
        (watched.add if line[0] == "+" else watched.discard)(line[1:-1])
    for left in watched:
        if left.isdecimal():
            signal_group(int(left), signal.SIGKILL)
        else:
            subprocess.run(["umount", "--lazy", left], check=False)


def until(condition, awaited):
    """The first value of `condition()` that is true. `awaited` says what did not come in PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S} s for {awaited}")
        time.sleep(0.01)
    return value


@contextmanager
def reserved_port():
    """A port of 127.0.0.1 where nobody listens, and which is kept for the one who is told of it.

    The kernel gives a bound port to nobody who asks for any; but Linux lets a server that sets SO_REUSEADDR, as all
    do, listen on one that is bound so and not listened on.
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


def until_up(port, program=None):
    """Return once something listens on this port of ours. Raises as soon as the `program` that should has ended."""

    def is_up():
        if program is not None and program.poll() is not None:
            raise RuntimeError(f"{program.args} ended with {program.returncode}, and does not listen on port {port}")
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
            return True

    until(is_up, f"a server on port {port}")


def get_when_up(url, program=None):
    """The body at an address, once somebody listens there."""
    until_up(urlsplit(url).port, program)
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
        return response.read()


GUARD = Guard()

if __name__ == "__main__":
    guard()
