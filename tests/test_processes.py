"""What the tests themselves rely on: nothing that they start outlives them, and a port is theirs alone."""

import os
import socket
import subprocess
import sys

import pytest
from processes import TESTS, Program, reserved_port, until, until_up

FAMILY = ["sh", "-c", "sleep 100000 & echo started; wait"]
"""A program with a child. Its output ends when both have ended."""


@pytest.mark.real
def test_a_program_ends_with_its_children_when_its_block_does():
    with Program(FAMILY, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b"started\n"
        program.end()
        assert program.stdout.read() == b""


def test_a_program_ends_with_its_children_when_the_process_of_the_tests_is_killed(popen):
    code = f"import processes; it = processes.Program({FAMILY}); print(flush=True); it.wait()"
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    tests = popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert sorted([tests.stdout.readline(), tests.stdout.readline()]) == [b"\n", b"started\n"]
    tests.kill()
    assert tests.stdout.read() == b""


def test_a_stopped_program_ends_too(popen):
    program = popen(["sh", "-c", "kill -STOP $$"])
    program.end()
    assert program.returncode != 0


def test_a_reserved_port_refuses_until_its_server_listens():
    with reserved_port() as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with socket.create_server(("127.0.0.1", port)):
            until_up(port)


def test_a_server_that_ended_is_not_waited_for(popen, free_port):
    with pytest.raises(RuntimeError, match=r"ended with 3, and does not listen"):
        until_up(free_port, popen([sys.executable, "-c", "raise SystemExit(3)"]))


def test_what_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr("processes.PATIENCE_S", 0)
    with pytest.raises(TimeoutError, match="waited 0 s for Godot"):
        until(lambda: False, "Godot")
