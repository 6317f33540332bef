"""What a call costs inside the process: pass-through, mapping, the whole pixel request."""

from time import perf_counter
from wsgiref.util import setup_testing_defaults

import peers
import workload
from measure import Result, interleaved
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from whitenoise import WhiteNoise

from pixel_middleware import PixelMiddleware
from pixel_middleware.wire.mapping import map_query

ROUNDS = 9


class Bare:
    """The least that a middleware can be."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


def empty_app(environ, start_response):
    return ()


def start_response(status, headers, exc_info=None):
    return None


def pass_through():
    """Results: what each middleware adds to a request that is not its own."""
    environs = [environ(f"/shop/{number}", "") for number in range(200)] * 25
    apps = {
        "nothing": empty_app,
        "bare": Bare(empty_app),
        "ours": PixelMiddleware(empty_app, peers.sink),
        "WhiteNoise": WhiteNoise(empty_app, root=None),
        "DispatcherMiddleware": DispatcherMiddleware(empty_app, {"/pixel/v1": empty_app}),
    }
    apps["WhiteNoise"].add_files("docs", prefix="static/")
    times = interleaved({name: caller(app, environs) for name, app in apps.items()}, ROUNDS)
    added = {name: time - times["nothing"] for name, time in times.items()}
    yield Result("pass-through, added", "a bare callable", added["ours"], added["bare"], 1.5, "ns")
    for peer in ("WhiteNoise", "DispatcherMiddleware"):
        yield Result("pass-through, added", peer, added["ours"], added[peer], 1.0, "ns")


def mapping():
    """Results: an AMP page view, from query string to nested dict."""
    queries = workload.page_views()
    contenders = {"ours": lambda query: map_query("page", query), "webob": peers.webob_mapping}
    times = interleaved({name: caller_of_one(call, queries) for name, call in contenders.items()}, ROUNDS)
    yield Result("mapping an AMP page view", "WebOb's GET and a loop", times["ours"], times["webob"], 0.4, "us")


def whole_request():
    """Results: a pixel request, sink included, against a route of the same work."""
    requests = [environ(f"/pixel/v1/{kind}", query) for kind, query in workload.mixed()]
    apps = {"ours": peers.ours()} | {name: make() for name, make in peers.PEERS.items()}
    for name, app in apps.items():
        check_it_accepts(name, app, requests[:50])
    times = interleaved({name: fresh_caller(app, requests) for name, app in apps.items()}, ROUNDS)
    targets = {"Falcon": 0.8, "Bottle": 0.35, "Pyramid": 0.4, "Flask": 0.25}
    for name, target in targets.items():
        yield Result("a pixel request", f"a {name} route", times["ours"], times[name], target, "us")


def check_it_accepts(name, app, requests):
    for request in requests:
        seen = []
        app(dict(request), lambda status, headers, exc_info=None, seen=seen: seen.append(status))
        assert seen[0].startswith("200"), (name, seen)


def environ(path, query):
    made = {
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": "192.0.2.1",
        "HTTP_ACCEPT": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
        "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.9",
        "HTTP_USER_AGENT": workload.AGENTS[0],
        "HTTP_REFERER": "https://www.publisher.example/",
        "HTTP_SEC_FETCH_DEST": "image",
    }
    setup_testing_defaults(made)
    return made


def caller(app, environs):
    """Times one call, in seconds, over all environs; for apps that leave them as they are."""

    def run():
        started = perf_counter()
        for each in environs:
            app(each, start_response)
        return (perf_counter() - started) / len(environs)

    return run


def fresh_caller(app, environs):
    """The same, on a copy of each: frameworks write into it. The copies are made before, and each is let go after its
    call, as a server does: what hangs on an environ, such as an event, is freed then."""

    def run():
        copies = [dict(each) for each in environs]
        started = perf_counter()
        while copies:
            app(copies.pop(), start_response)
        return (perf_counter() - started) / len(environs)

    return run


def caller_of_one(call, arguments):
    def run():
        started = perf_counter()
        for argument in arguments:
            call(argument)
        return (perf_counter() - started) / len(arguments)

    return run


def results():
    yield from pass_through()
    yield from mapping()
    yield from whole_request()
