"""The files of examples/deploy, each used by the program that it is for."""

import ast
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dataplane import DataPlane
from nginx import needs_nginx, start_site
from processes import PATIENCE_S, until, until_up

from pixel_middleware.collector import config
from pixel_middleware.sinks import JSONLines

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
LINES = dict(re.findall(r"^\| ([^|]+) \| `([^`]+ [^`]+)` \|", (DEPLOY / "README.md").read_text("utf-8"), re.MULTILINE))
CLIENT = "127.0.0.5"  # nginx's own address is 127.0.0.1
TRACK = "/pixel/v1/track?writeKey=shop&anonymousId=a&event=Bought&properties.total=12.5"


def program(word):
    """The program of this environment that a line means by a name or a path."""
    return Path(sys.executable).with_name(Path(word).name)


def read(port, path, source="127.0.0.1", body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=(source, 0))
    connection.request("GET" if body is None else "POST", path, body)
    with connection.getresponse() as answer:
        status, text = answer.status, answer.read().decode()
    connection.close()
    return status, text


@needs_nginx
@pytest.mark.parametrize("name", LINES)
def test_it_is_deployed_as_the_files_say(name, popen, new_port, tmp_path):
    port, front = new_port(), new_port()
    command, *words = shlex.split(LINES[name].replace("8080", str(port)))
    with DataPlane() as plane:
        environment = os.environ | {
            "PIXEL_CONFIG": "examples/deploy/pixels.toml",
            "PIXEL_OUTPUT": str(tmp_path / "events.db"),
            "PIXEL_FORWARD_TO": f"rudderstack={plane.url}",
            "PYTHONDEVMODE": "",
        }
        server = popen([program(command), *words], cwd=ROOT, env=environment)
        until_up(port, server)
        site = (DEPLOY / "nginx.conf").read_text("utf-8")
        site = site.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("listen 80;", f"listen 127.0.0.1:{front};")
        start_site(popen, tmp_path, front, site)

        assert read(front, TRACK, CLIENT) == (200, "OK")
        assert read(front, TRACK.replace("=shop", "=other"), CLIENT)[0] == 400
        assert read(front, f"{TRACK}&properties.text={'x' * 32_000}", CLIENT) == (200, "OK")
        assert [read(front, TRACK) for _ in range(17)] == [(200, "OK")] * 17
        until(lambda: len(plane.stored) == 19, "all events at their destination")
        assert plane.stored[0]["context"]["ip"] == "127.0.0.0"  # of the client, and its network alone
        assert plane.stored[0]["properties"]["total"] == 12.5

        assert read(front, TRACK, CLIENT, "x" * 10_000)[0] == 413
        assert read(front, "/metrics", CLIENT)[0] == 403
        accepted = 'pixel_requests_total{outcome="accepted",reason=""} 19.0'
        until(lambda: accepted in read(front, "/metrics")[1], "the counts of all workers")
        status, health = read(front, "/health", CLIENT)
        assert (status, json.loads(health)["destinations"]["rudderstack"]["lag"]) == (200, 0)
        assert read(front, "/?token=of-nobody", CLIENT)[0] == 403
        assert "token=" not in (tmp_path / "access.log").read_text("utf-8")

        check = ast.literal_eval(instructions("HEALTHCHECK")[0].removeprefix("CMD "))
        code = check[2].replace("8080", str(port))
        assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE_S)


def instructions(name):
    """What stands behind an instruction in the Containerfile, each time it is there."""
    text = (DEPLOY / "Containerfile").read_text("utf-8").replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


def test_the_container_runs_the_program_as_nobody(run, tmp_path):
    """No builder of images is here: what it runs, it runs here."""
    known = {"FROM", "COPY", "RUN", "USER", "VOLUME", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    lines = [line for line in (DEPLOY / "Containerfile").read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert {line.split()[0] for line in lines} == known
    assert all(re.search(r":[\d.]+-slim\b", image) for image in instructions("FROM"))
    assert instructions("USER") == ["10001"]
    (extras,) = re.findall(r"/src\[([\w,]+)\]", instructions("RUN")[0])
    assert all(f'"{extra}": [' in (ROOT / "setup.py").read_text("utf-8") for extra in extras.split(","))
    command, *words = ast.literal_eval(instructions("ENTRYPOINT")[0])
    variables = dict(pair.split("=") for pair in instructions("ENV")[0].split())
    variables |= {"PIXEL_CONFIG": str(DEPLOY / "pixels.toml"), "PIXEL_OUTPUT": str(tmp_path / "events.db")}
    done = run([program(command), *words, "--check"], env=os.environ | variables | {"PYTHONDEVMODE": ""})
    assert done.stdout == f"The options are right: events go into {tmp_path}/events.db, and on to rudderstack.\n"


UNIT = (DEPLOY / "pixel-collector.service").read_text("utf-8")


def test_the_unit_checks_before_it_starts(run, tmp_path):
    before, start = (re.search(rf"^{key}=(.*)$", UNIT, re.MULTILINE)[1] for key in ("ExecStartPre", "ExecStart"))
    assert before == f"{start} --check"
    command, *words = shlex.split(before.replace("/etc/pixels", str(DEPLOY)))
    environment = os.environ | {"PIXEL_OUTPUT": str(tmp_path / "events.db"), "PYTHONDEVMODE": ""}
    assert run([program(command), *words], env=environment).returncode == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(run, tmp_path):
    unit = tmp_path / "pixel-collector.service"
    unit.write_text(UNIT.replace("/opt/pixels/bin/pixel-middleware", sys.executable))
    done = run(["systemd-analyze", "verify", "--man=no", unit])
    assert (done.returncode, unit.name in done.stderr) == (0, False), done.stderr


@pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")
def test_json_lines_are_rotated_while_they_are_written(run, tmp_path, make_event):
    lines = JSONLines(tmp_path / "events.jsonl")
    lines(make_event("before"))
    config = tmp_path / "logrotate.conf"
    config.write_text((DEPLOY / "logrotate.conf").read_text("utf-8").replace("/var/lib/pixels", str(tmp_path)))
    config.chmod(0o600)
    done = run(["logrotate", "--force", "--state", tmp_path / "state", config])
    assert (done.returncode, done.stderr) == (0, "")
    lines(make_event("behind"))
    lines.close()
    (rotated,) = tmp_path.glob("events.jsonl-*")
    assert [json.loads(path.read_text("utf-8"))["event"] for path in (rotated, tmp_path / "events.jsonl")] == [
        "before",
        "behind",
    ]


def test_the_guide_quotes_the_files(tmp_path, monkeypatch):
    guide = (ROOT / "docs" / "how-to" / "deploying.md").read_text("utf-8")
    (quoted,) = re.findall(r"```nginx\n(.*?)```", guide, re.DOTALL)
    site = (DEPLOY / "nginx.conf").read_text("utf-8")
    bare = [line.partition(";")[0].strip() for line in site.splitlines()]
    assert [line for line in quoted.splitlines() if line.partition(";")[0] not in bare] == []
    (options,) = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "pixels.toml").write_text(options)
    made = config.load(tmp_path / "pixels.toml", {}, {}).given
    assert set(tomllib.loads((DEPLOY / "pixels.toml").read_text("utf-8"))) > set(made)
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    assert list(config.load(tmp_path / "pixels.toml", {}, {}).made().destinations) == ["rudderstack", "lake"]
