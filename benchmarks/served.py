"""What is left over a real server and a real socket: pixels a second, against hello world on the same server.

Also the apps for the servers: `served:pixels` and so on.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import peers
import workload
from measure import Result
from processes import Program, reserved_port, until_up

from pixel_middleware import PixelMiddleware

HERE = Path(__file__).parent
REQUESTS = "requests/s"
ROUNDS = 5
SECONDS = 3
WARM_UP_S = 2.0  # or all connections may go to the worker that was first
SERVERS = {
    "gunicorn gthread": ("-m", "gunicorn", "--workers=1", "-k=gthread", "--threads=4", "--bind=127.0.0.1:{port}"),
    "granian": ("-m", "granian", "--interface=wsgi", "--host=127.0.0.1", "--port={port}"),
}

pixels = peers.ours()
hello = peers.hello
wrapped = PixelMiddleware(peers.hello, peers.sink, prefix="/elsewhere")  # so that the same paths pass through
falcon = peers.falcon_app()

SCRIPT = """
local paths = {{}}
for path in io.lines("{paths}") do paths[#paths + 1] = path end
local next = 0
request = function()
  next = next % #paths + 1
  return wrk.format("GET", paths[next])
end
"""


def results():
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = write_script(folder)
        for server, command in SERVERS.items():
            yield from on_one_server(server, command, script)


def on_one_server(server, command, script):
    rates = {"pixels": [], "wrapped": [], "hello": [], "falcon": []}
    for _ in range(ROUNDS):
        for app, taken in rates.items():
            taken.append(requests_a_second([*command, f"served:{app}"], script))
    rate = {app: median(taken) for app, taken in rates.items()}
    yield Result(f"pass-through over {server}", "the app alone", rate["wrapped"], rate["hello"], 0.85, REQUESTS, True)
    yield Result(f"pixels over {server}", "hello world", rate["pixels"], rate["hello"], 0.85, REQUESTS, True)
    yield Result(f"pixels over {server}", "a Falcon route", rate["pixels"], rate["falcon"], 1.0, REQUESTS, True)


def write_script(folder):
    """The script for wrk, which asks for the workload's pixels in turn."""
    paths, script = Path(folder, "paths"), Path(folder, "script.lua")
    paths.write_text("".join(f"/pixel/v1/{kind}?{query}\n" for kind, query in workload.mixed()))
    script.write_text(SCRIPT.format(paths=paths))
    return script


def requests_a_second(command, script, connections=8, **options):
    """What wrk gets from the server of a Python command; `options` are of its program."""
    with reserved_port() as port:
        words = [sys.executable, *(word.format(port=port) for word in command)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with Program(words, **({"cwd": HERE} | quiet | options)) as server:
            until_up(port, server)
            time.sleep(WARM_UP_S)  # the other workers, too
            load = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}", "-s", str(script), f"http://127.0.0.1:{port}"]
            said = subprocess.run(load, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in said:
        raise RuntimeError(said)
    return float(re.search(r"Requests/sec:\s*([\d.]+)", said)[1])
