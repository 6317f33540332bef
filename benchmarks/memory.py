"""Memory after a million pixels whose names are all different: what is remembered of names is bounded."""

from pathlib import Path

import peers
from in_process import environ, start_response
from measure import Result

REQUESTS = 1_000_000
WARM_UP = 20_000


def results(requests=REQUESTS):
    app = peers.ours()
    send(app, 0, WARM_UP)
    before = resident_mib()
    send(app, WARM_UP, requests)
    after = resident_mib()
    yield Result(f"memory after {requests:,} hostile pixels", "before", after, before, 1.05, "MiB")


def send(app, start, stop):
    request = environ("/pixel/v1/track", "")
    for number in range(start, stop):
        request["QUERY_STRING"] = (
            f"writeKey=k&anonymousId=a{number}&event=e&properties.name-{number}.deep-{number}=x&own-{number}=y"
        )
        app(request, start_response)


def resident_mib():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20
