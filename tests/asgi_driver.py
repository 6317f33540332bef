"""ASGI apps as WSGI apps and the other way round, for tests: so one suite runs through both faces."""

import asyncio
from http import HTTPStatus


def scope_of(environ):
    """The scope that an ASGI server makes of such a request."""
    names = [name for name in environ if name.startswith("HTTP_")] + ["CONTENT_TYPE", "CONTENT_LENGTH"]
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-").lower().encode(), environ[name].encode("latin-1"))
        for name in names
        if environ.get(name)
    ]
    address = environ.get("REMOTE_ADDR")
    root = environ.get("SCRIPT_NAME", "").encode("latin-1").decode()
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        "method": environ["REQUEST_METHOD"],
        "scheme": environ["wsgi.url_scheme"],
        "path": root + environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace"),
        "root_path": root,
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers,
        "client": (address, 50000) if address else None,
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
    }


def as_wsgi(app):
    """A WSGI app that has an ASGI app answer, in an event loop of its own."""

    def wsgi(environ, start_response):
        sent, received = [], []

        async def receive():
            if received:
                await asyncio.Event().wait()  # the client stays
            length = int(environ.get("CONTENT_LENGTH") or 0)
            received.append(environ["wsgi.input"].read(length) if length else b"")
            return {"type": "http.request", "body": received[0]}

        async def send(message):
            sent.append(message)

        asyncio.run(app(scope_of(environ), receive, send))
        start, *parts = sent
        headers = [
            ("-".join(map(str.capitalize, name.decode("latin-1").split("-"))), value.decode("latin-1"))
            for name, value in start["headers"]
        ]
        start_response(f"{start['status']} {REASONS[start['status']]}", headers)
        return [part.get("body", b"") for part in parts]

    wsgi.stats = getattr(app, "stats", None)
    return wsgi


REASONS = {status.value: status.phrase for status in HTTPStatus}


def as_asgi(app):
    """An ASGI app of a WSGI app that reads no body."""

    async def asgi(scope, receive, send):
        environ = {
            "REQUEST_METHOD": scope["method"],
            "SCRIPT_NAME": "",
            "PATH_INFO": scope["path"].encode().decode("latin-1"),
        }

        def start_response(status, headers):
            started.extend((int(status[:3]), headers))

        started = []
        body = b"".join(app(environ, start_response))
        status, headers = started
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return asgi


class Soon:
    """Makes of a sink one that an event loop hands an event to, and that is told of its end a moment later."""

    def __init__(self, sink):
        self._sink = sink

    def __call__(self, event):
        return self._sink(event)

    def put_soon(self, event, done):
        def put():
            try:
                self._sink(event)
            except Exception as error:
                done(error)
            else:
                done(None)

        asyncio.get_running_loop().call_soon(put)


async def get(app, target, method="GET", headers=(), **scope):
    """The status, the headers and the body that an ASGI app answers; parts of the scope may be given."""
    path, _, query = target.partition("?")
    sent = []

    async def send(message):
        sent.append(message)

    given = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    await app(given | scope, None, send)
    start, *parts = sent
    return start["status"], dict(start["headers"]), b"".join(part["body"] for part in parts)
