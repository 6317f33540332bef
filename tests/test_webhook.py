"""Webhook: what a receiver gets, over real HTTP, and what its answers mean."""

import hashlib
import hmac
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pixel_middleware import ConfigurationError, Rejected, RetryLater
from pixel_middleware.destinations import Kafka, RudderStack, Webhook, from_url, named
from pixel_middleware.destinations.webhook import sign
from pixel_middleware.sinks import EventLog

DOCS = Path(__file__).parents[1] / "docs" / "how-to" / "scale.md"


class Receiver:
    """Answers POSTs on a port of its own. `answer(events)` may return (status, headers); else it is 204."""

    def __init__(self):
        self.answer = lambda events: None
        self.requests, self.taken = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                events = json.loads(body)
                receiver.requests.append((self.path, self.headers, body))
                status, headers = receiver.answer(events) or (204, {})
                if status < 300:
                    receiver.taken += [event["event"] for event in events]
                self.send_response(status)
                for name, value in ({} if status == 204 else {"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args):
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def names(events):
    return [event["event"] for event in events]


def test_events_arrive_as_a_json_array(receiver, make_event):
    events = [make_event("1"), make_event("Grüße")]
    webhook = Webhook(f"{receiver.url}/hook?team=a%20b", headers={"Authorization": "Bearer t"})
    webhook.send(events)
    ((path, headers, body),) = receiver.requests
    assert (path, json.loads(body)) == ("/hook?team=a%20b", events)
    assert {name: headers[name] for name in ("Content-Type", "User-Agent", "Authorization", "Pixel-Signature")} == {
        "Content-Type": "application/json",
        "User-Agent": "pixel-middleware",
        "Authorization": "Bearer t",
        "Pixel-Signature": None,
    }
    assert [webhook.lane(event) for event in events] == ["", ""]
    webhook.close()


def test_a_batch_that_is_sent_again_has_the_same_idempotency_key(receiver, make_event):
    first, second = [make_event("1")], [make_event("2")]
    webhook = Webhook(receiver.url)
    for events in (first, second, first):
        webhook.send(events)
    keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.requests]
    assert (keys[0] == keys[2], keys[0] == keys[1], len(keys[0])) == (True, False, 32)


def test_a_request_is_signed_with_its_moment(receiver, make_event):
    before = int(time.time())
    Webhook(receiver.url, "s3cret").send([make_event()])
    ((_, headers, body),) = receiver.requests
    moment, digest = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["Pixel-Signature"]).groups()
    assert before <= int(moment) <= time.time()
    assert digest == hmac.new(b"s3cret", moment.encode() + b"." + body, hashlib.sha256).hexdigest()


def test_the_docs_five_lines_verify_a_signature():
    pattern = r"```python\n(import hashlib, hmac, time\n)\n\n(def is_genuine.*?)```"
    ((imports, function),) = re.findall(pattern, DOCS.read_text("utf-8"), re.DOTALL)
    assert len(function.splitlines()) == 5
    namespace = {}
    exec(imports + function, namespace)
    is_genuine, now = namespace["is_genuine"], int(time.time())
    assert is_genuine("s3cret", sign("s3cret", now, b"[]"), b"[]")
    assert not is_genuine("s3cret", sign("s3cret", now, b"[]"), b"[{}]")
    assert not is_genuine("other", sign("s3cret", now, b"[]"), b"[]")
    assert not is_genuine("s3cret", sign("s3cret", now - 3600, b"[]"), b"[]")


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_taken(receiver, make_event, status):
    receiver.answer = lambda events: (status, {})
    Webhook(receiver.url).send([make_event("e")])
    assert receiver.taken == ["e"]


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 410, 429, 500, 503])
def test_anything_else_waits_and_nothing_is_held(receiver, make_event, status):
    receiver.answer = lambda events: (status, {"Retry-After": "7", "Location": "http://127.0.0.1:1/"})
    events = [make_event("1"), make_event("2")]
    with pytest.raises(RetryLater, match=f"HTTP {status}") as caught:
        Webhook(receiver.url).send(events)
    error = caught.value
    assert (error.after, error.hold, error.cause, error.events) == (7, False, f"http_{status}", events)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_event_at_fault_is_found_and_the_others_are_taken_once(receiver, make_event, status):
    receiver.answer = lambda events: (status, {}) if "poison" in names(events) else None
    events = [make_event("poison" if number == 321 else str(number)) for number in range(1000)]
    with pytest.raises(Rejected, match=f"HTTP {status}") as caught:
        Webhook(receiver.url).send(events)
    assert caught.value.events == [events[321]]
    assert receiver.taken == [name for name in names(events) if name != "poison"]
    assert len(receiver.requests) <= 13


def test_what_one_request_delivered_is_not_sent_again(receiver, make_event):
    receiver.answer = lambda events: None if len(receiver.requests) < 2 else (503, {})
    events = [make_event(str(number), properties={"text": "x" * 300_000}) for number in range(3)]
    with pytest.raises(RetryLater) as caught:
        Webhook(receiver.url).send(events)
    assert (receiver.taken, names(caught.value.events)) == (["0"], ["1", "2"])


def test_a_receiver_that_is_away_for_a_while_gets_all_in_order(receiver, tmp_path, make_event):
    receiver.answer = lambda events: (503, {"Retry-After": "0"}) if len(receiver.requests) < 4 else None
    log = EventLog(tmp_path / "events.db", {"hook": Webhook(receiver.url)}, retry_min_s=0.05, retry_max_s=0.1)
    for number in range(20):
        log(make_event(str(number)))
    assert log.flush(timeout_s=30)
    log.close()
    assert receiver.taken == [str(number) for number in range(20)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"url": "example.com/hook"}, "url must be a URL like https://example.com/hook"),
        ({"secret": b"bytes"}, "secret must be text"),
        ({"secret": ""}, "secret must be text"),
        ({"headers": {"X": 1}}, "headers must be a mapping of names to values, both text"),
        ({"headers": ["X"]}, "headers must be a mapping"),
        ({"timeout_s": 0}, "timeout_s must be a positive number of seconds"),
        ({"timeout_s": float("nan")}, "timeout_s must be a positive number of seconds"),
        ({"timeout_s": float("inf")}, "timeout_s must be a positive number of seconds"),
    ],
)
def test_a_wrong_option_says_what_is_accepted(arguments, error):
    with pytest.raises(ConfigurationError, match=error) as caught:
        Webhook(**{"url": "http://127.0.0.1"} | arguments)
    assert "bytes" not in str(caught.value).replace("<class 'bytes'>", "")


def test_without_its_library_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pixel-middleware\[webhook\]'"):
        Webhook("http://127.0.0.1")


# The destination that a URL says.


def test_a_url_says_the_destination(receiver, make_event):
    webhook = from_url(f"webhook+{receiver.url}/hook?a=b#secret=s3cret")
    webhook.send([make_event()])
    ((path, headers, body),) = receiver.requests
    moment = int(re.match(r"t=(\d+)", headers["Pixel-Signature"])[1])
    assert (path, headers["Pixel-Signature"]) == ("/hook?a=b", sign("s3cret", moment, body))
    assert str(webhook) == f"{receiver.url}/hook"
    assert isinstance(from_url("https://plane.example"), RudderStack)
    kafka = from_url("kafka://h1:9092,h2:9092/my%20topic?compression.type=zstd&dead.letters=dead")
    assert (type(kafka), str(kafka)) == (Kafka, "Kafka, topic my topic, at h1:9092,h2:9092")
    assert (kafka._config["compression.type"], kafka._dead_letters) == ("zstd", "dead")


def test_a_url_says_how_many_events_a_second_its_destination_gets(receiver, make_event):
    urls = ("https://h#max_per_second=9.5", "webhook+https://h/x#max_per_second=100", "kafka://h/t?max.per.second=1e3")
    destinations = [*map(from_url, urls), from_url("https://h")]
    assert [destination.max_per_second for destination in destinations] == [9.5, 100, 1000, None]
    assert [str(destination) for destination in destinations[:2]] == ["https://h/v1/batch", "https://h/x"]


def test_a_destinations_name_is_its_host_or_is_given():
    urls = ("kafka://h1:9092,h2:9092/t", "https://h", "lake=kafka://h1/t", "webhook+https://hook/?a=b")
    assert list(named(urls)) == ["h1", "h", "lake", "hook"]


def test_a_bad_name_is_refused_and_no_secret_repeated():
    with pytest.raises(ConfigurationError, match="forward_to must be NAME=URL") as caught:
        named(["=kafka://h/t?sasl.password=hunter2"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("ftp://h/x", "forward_to must be the URL of a data plane"),
        ("kafka://h", "forward_to must be"),
        ("kafka://h/a/b", "forward_to must be"),
        ("http://[::1", "forward_to must be"),
        ("kafka://user:hunter2@h/t", r"takes user and password as options, .*sasl\.password="),
        ("kafka://h/t?sasl.password=hunter2&no.such=1", r"behind the \? of its URL: .*no\.such"),
        ("https://h#max_per_second=fast", "a URL with a max_per_second that is a number above 0, got 'fast'"),
        ("kafka://h/t?sasl.password=hunter2&max.per.second=nan", "a max_per_second that is a number above 0"),
        ("gopher://u:hunter2@h/?token=hunter2#secret=hunter2", "got 'gopher://h/'"),
    ],
)
def test_a_url_that_says_none_is_refused_and_no_secret_repeated(url, error):
    with pytest.raises(ConfigurationError, match=error) as caught:
        from_url(url)
    assert caught.value.option == "forward_to"
    assert "hunter2" not in str(caught.value)
