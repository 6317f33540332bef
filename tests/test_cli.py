"""The command line, started as its user starts it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

COMMAND = [sys.executable, "-m", "pixel_middleware"]
TRACK = "pixel/v1/track?writeKey=k&anonymousId=a&event=Order%20Completed&properties.total=12.5"


@pytest.fixture
def collector(tmp_path):
    """A running `serve` in an empty directory: (its address, its process)."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())[0]
        yield address, process
        process.send_signal(signal.SIGINT)


def get(url):
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def run(*arguments, cwd, **extra_env):
    # No development mode: its warnings of other people's code would stand in the output.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDEVMODE"} | extra_env
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def test_serve_collects_into_a_file_and_prints_what_comes(collector, tmp_path):
    address, process = collector
    example = process.stdout.readline().split()[-1]
    assert get(address + TRACK) == (200, b"OK")
    assert get(address + TRACK.replace("?", ".gif?"))[1][:6] == b"GIF89a"
    assert get(address + TRACK.replace("event", "x"))[0] == 400
    assert get(example) == (200, b"OK")
    assert get(address)[0] == 404
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text("utf-8").splitlines()]
    assert [(event["event"], event["properties"]) for event in events] == [
        ("Order Completed", {"total": "12.5"}),
        ("Order Completed", {"total": "12.5"}),
        ("Hello", {}),
    ]
    assert process.stdout.readline() == f"{events[0]['receivedAt']}  track  Order Completed  by a\n"


def test_nothing_that_a_client_sends_controls_the_terminal(collector):
    address, process = collector
    process.stdout.readline()
    get(address + "pixel/v1/track?writeKey=k&anonymousId=a%0Ab&event=%1b[31mred")
    assert process.stdout.readline().endswith("  track  ?[31mred  by a?b\n")


def test_an_output_that_cannot_be_written_is_an_error_at_start(tmp_path):
    done = run("serve", "--output", "missing/events.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write to missing/events.jsonl: No such file or directory" in done.stderr


def test_a_port_in_use_is_an_error_at_start(collector, tmp_path):
    port = collector[0].strip("/").rpartition(":")[2]
    done = run("serve", "--port", port, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n")


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('gone', name='click')")
    done = run("serve", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "click is not installed; the command needs: pip install 'pixel-middleware[cli]'\n",
    )


def test_a_broken_installation_is_not_taken_for_a_missing_extra(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('gone', name='pixel_middleware.gone')")
    done = run("serve", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "Traceback" in done.stderr
