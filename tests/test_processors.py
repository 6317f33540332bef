"""Processors: what each does to an event, seen from the client and from the sink."""

import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from strategies import objects, text

from pixel_middleware import ConfigurationError, PixelMiddleware, UnsendableEvent, pixel_url, processors
from pixel_middleware.processors.schema import require_schema
from pixel_middleware.wire.mapping import map_query
from pixel_middleware.wire.query import split_pairs
from pixel_middleware.wire.signatures import is_signed

ROOT = Path(__file__).parents[1]
PIXEL = "/pixel/v1/track?writeKey=k&anonymousId=a&event=e"


@pytest.fixture
def collect(make_client, events):
    """The event that comes of a pixel, behind some processors; `None` if it was dropped."""

    def collect(*behind, query="", address="203.0.113.77", **headers):
        client = make_client(processors=behind)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client.get(f"{PIXEL}&{query}", headers=named, extra_environ={"REMOTE_ADDR": address})
        return events[0] if events else None

    return collect


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("2001:db8:1:2::3", "2001:db8:1::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("2002:cb00:714d:1::5", "203.0.113.0"),  # 6to4
        ("2001:0:c000:201::34ff:8eb2", "203.0.113.0"),  # Teredo, with the client's address inverted
        ("64:ff9b::cb00:714d", "203.0.113.0"),  # NAT64
        ("64:ff9b:1:2::cb00:714d", "203.0.113.0"),  # NAT64 of an own network
        ("", ""),
    ],
)
def test_anonymize_ip_keeps_the_network(collect, address, network):
    event = collect(processors.anonymize_ip, address=address)
    assert (event["request_ip"], event["context"].get("ip", "")) == (network, network)


def test_anonymize_ip_keeps_no_text_of_the_clients(collect):
    event = collect(processors.anonymize_ip, query="context.ip=ann@example.com")
    assert (event["request_ip"], "ip" in event["context"]) == ("203.0.113.0", False)


def test_drop_ip_forgets_it(collect):
    event = collect(processors.drop_ip)
    assert (event["request_ip"], "ip" in event["context"]) == ("", False)


@pytest.mark.parametrize(
    ("processor", "headers", "is_kept"),
    [
        (processors.honor_gpc, {"Sec_GPC": "1"}, False),
        (processors.honor_gpc, {"DNT": "1"}, True),
        (processors.honor_dnt, {"DNT": "1"}, False),
        (processors.honor_dnt, {"DNT": "0"}, True),
    ],
)
def test_a_wish_for_privacy_is_honoured(collect, processor, headers, is_kept):
    assert (collect(processor, **headers) is not None) is is_kept


def test_what_was_dropped_is_counted():
    app = PixelMiddleware(lambda environ, start_response: [], [].append, processors=[processors.honor_gpc])
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/pixel/v1/track", "QUERY_STRING": PIXEL.partition("?")[2]}
    app(environ | {"HTTP_SEC_GPC": "1"}, lambda status, headers: None)
    assert app.stats()["dropped"] == 1


def test_convert_makes_numbers_and_leaves_what_is_none(collect):
    conversion = processors.convert(
        {
            "context.screen.width": int,
            "properties.total": float,
            "properties.member": bool,
            "properties.items.price": float,
            "properties.items": int,
            "properties.tags": int,
            "properties.list.1": int,
            "properties.list.9": int,
            "properties.none.at.all": int,
            "event.of.text": int,
        }
    )
    event = collect(
        conversion,
        query="context.screen.width=1920&properties.total=12.5&properties.member=TRUE&properties.other=1"
        "&properties.items.0.price=1&properties.items.1.price=free&properties.tags=1&properties.tags=2"
        "&properties.list.0=1&properties.list.1=2",
    )
    assert (event["context"]["screen"], event["properties"]) == (
        {"width": 1920},
        {
            "total": 12.5,
            "member": True,
            "other": "1",
            "items": [{"price": 1.0}, {"price": "free"}],
            "tags": [1, 2],
            "list": ["1", 2],
        },
    )


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (int, "1.5"),
        (int, "1_000"),
        (int, ""),
        (float, "nan"),
        (float, "inf"),
        (float, "1_0"),
        (bool, "yes"),
        ({"EUR": 1}.__getitem__, "USD"),
        (lambda text: text.split("/")[3], "a/b"),
        (json.loads, "%5B" * 3000),
    ],
)
def test_what_does_not_convert_stays_the_string_that_it_is(collect, make, given):
    event = collect(processors.convert({"properties.it": make}), query=f"properties.it={given}")
    assert event["properties"] == {"it": unquote(given)}


@pytest.mark.parametrize("types", [{"properties.total": "float"}, ["properties.total"]])
def test_a_conversion_by_nothing_is_refused(types):
    with pytest.raises(ConfigurationError, match="types must be a mapping of paths to callables"):
        processors.convert(types)


@pytest.mark.parametrize(
    "query", ["", "context.page=x", "context.page.url.0=x", "properties.plan.0=x", "context.page.url="]
)
def test_the_processors_of_the_docs_survive_whatever_is_sent(make_client, query):
    page = (ROOT / "docs" / "how-to" / "processors.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(next(block for block in blocks if "def only_our_hosts" in block), names)
    for process in (names["only_our_hosts"], names["only_our_plans"]):
        make_client(processors=[process]).get(f"{PIXEL}&{query}", status="*").mustcontain(no="could not be stored")


PLAN = {
    "type": "object",
    "properties": {
        "event": {"enum": ["Order Completed", "Signup"]},
        "properties": {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}},
    },
}


@pytest.fixture
def planned(make_client):
    return make_client(processors=[processors.convert({"properties.total": float}), require_schema(PLAN)])


def test_what_keeps_to_the_tracking_plan_is_accepted(planned, events):
    planned.get("/pixel/v1/track?writeKey=k&anonymousId=a&event=Signup&properties.total=12.5")
    assert events[0]["properties"] == {"total": 12.5}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("event=Hack&properties.total=1", '\'event\' must keep to {"enum": ["Order Completed", "Signup"]}'),
        ("event=Signup&properties.total=secret", '\'properties.total\' must keep to {"type": "number"}'),
        ("event=Signup&properties.a=secret", '\'properties\' must keep to {"required": ["total"]}'),
    ],
)
def test_what_breaks_the_tracking_plan_is_refused_with_the_path(planned, events, query, message):
    answer = planned.get(f"/pixel/v1/track?writeKey=k&anonymousId=a&{query}", status=400)
    assert (answer.headers["X-Pixel-Error"], answer.text) == ("schema_mismatch", f"{message} of the tracking plan")
    assert ("secret" in answer.text, events) == (False, [])


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, "text", None])
def test_a_schema_that_is_none_is_refused(schema):
    with pytest.raises(ConfigurationError, match="schema must be a JSON Schema"):
        require_schema(schema)


REFERENCES = [
    pytest.param({"$ref": "#/$defs/gone"}, "#/$defs/gone", id="dangling"),
    pytest.param({"properties": {"event": {"$dynamicRef": "#gone"}}}, "#gone", id="dangling below"),
    pytest.param({"$ref": "http://127.0.0.1:9/plan"}, "http://127.0.0.1:9/plan", id="remote"),
    pytest.param({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "file:///etc/passwd"}}}}, "file", id="a file"),
    pytest.param({"$ref": "#/title", "title": "x"}, "'#/title', which is no schema", id="no schema"),
]


@pytest.mark.parametrize(("schema", "named"), REFERENCES)
def test_a_reference_out_of_the_schema_is_refused_at_start_and_never_fetched(schema, named):
    with pytest.raises(ConfigurationError) as caught:
        require_schema(schema)
    assert named in str(caught.value)


def test_references_within_the_schema_and_to_the_drafts_are_followed(make_client):
    tree = {"type": "object", "properties": {"kind": {"type": "string"}, "below": {"$ref": "#/$defs/tree"}}}
    draft = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    plan = {"$defs": {"tree": tree}, "properties": {"properties": {"$ref": "#/$defs/tree"}, "schema": draft, "x": True}}
    client = make_client(processors=[require_schema(plan)])
    client.get(f"{PIXEL}&properties.below.below.kind=x", status=200)
    assert (
        "'properties.below.below.kind' must" in client.get(f"{PIXEL}&properties.below.below.kind.0=x", status=400).text
    )
    assert "'schema.type' must keep to" in client.get(f"{PIXEL}&schema.type=x", status=400).text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (f"properties.a.b={'x' * 2049}", "'properties.a.b' is longer than 2048 characters"),
        (f"properties.{'x' * 2049}=", "'a name' is longer than 2048 characters"),
        ("properties.l.0.a=1&" + "&".join(f"properties.l.1.n.{n}=1" for n in range(101)), "has more than 100 items"),
    ],
)
def test_what_rules_may_take_long_for_is_refused_unseen(make_client, query, message):
    slow = {"properties": {"properties": {"additionalProperties": {"pattern": "^(a+)+$"}, "uniqueItems": True}}}
    answer = make_client(processors=[require_schema(slow)]).get(f"{PIXEL}&{query}", status=400)
    assert (answer.headers["X-Pixel-Error"], message in answer.text) == ("schema_mismatch", True)


def test_what_is_as_long_as_may_be_is_held_to_the_plan(make_client, events):
    items = "&".join(f"properties.l.{number}={'x' * 20}" for number in range(100))
    make_client(processors=[require_schema({})]).get(
        f"{PIXEL}&properties.{'n' * 2048}={'x' * 2048}&{items}", status=200
    )
    assert len(events[0]["properties"]["l"]) == 100


def signed_url(signing_key="new", **more):
    return pixel_url(
        "http://localhost", "track", write_key="k", anonymous_id="a", event="Opened", signing_key=signing_key, **more
    )


@pytest.fixture
def guarded(make_client):
    return make_client(processors=[processors.verify_signature(["new", "old"])])


@pytest.mark.parametrize("key", ["new", "old"])
def test_a_signed_pixel_is_accepted_and_its_signature_kept_out_of_the_event(guarded, events, key):
    guarded.get(signed_url(key, properties={"mail": "Grüße", "tags": ["b", "a"]}))
    assert ("signature" in events[0], events[0]["properties"]) == (False, {"mail": "Grüße", "tags": ["b", "a"]})


def test_the_order_and_the_encoding_of_parameters_do_not_matter(guarded, events):
    path, _, query = signed_url(properties={"mail": "a b"}).partition("?")
    guarded.get(f"{path}?{'&'.join(reversed(query.replace('%20', '+').split('&')))}")
    assert len(events) == 1


@pytest.mark.parametrize(
    "forge",
    [
        lambda url: url.replace("event=Opened", "event=Bought"),
        lambda url: url + "&properties.more=x",
        lambda url: url.replace("/track", "/page"),
        lambda url: re.sub("signature=.*", "", url),
        lambda url: re.sub("signature=.*", "signature=%C3%A4", url),
        lambda url: signed_url("unknown"),
        lambda url: url.replace("event=Opened", "event=Bought&event=Opened"),
    ],
    ids=["changed", "added to", "another kind", "unsigned", "no text", "another key", "said twice"],
)
def test_a_forged_pixel_is_refused(guarded, events, forge):
    answer = guarded.get(forge(signed_url()), status=400)
    assert (answer.headers["X-Pixel-Error"], events) == ("invalid_signature", [])


def test_a_signature_may_be_verified_twice(make_client, events):
    client = make_client(processors=[processors.verify_signature("new"), processors.verify_signature("new")])
    client.get(signed_url(), status=200)
    assert "signature" not in events[0]


@pytest.mark.filterwarnings("ignore:this pixel URL has")
def test_a_signed_pixel_has_the_limits_of_the_middleware(make_client, events):
    url = signed_url(properties={"long": "x" * 40_000})
    guard = processors.verify_signature("new")
    make_client(processors=[guard], max_query_bytes=65536).get(url, status=200)
    assert len(events[0]["properties"]["long"]) == 40_000
    assert make_client(processors=[guard]).get(url, status=400).headers["X-Pixel-Error"] == "query_too_long"


@given(objects.filter(bool), text.filter(bool))
@pytest.mark.filterwarnings("ignore:this pixel URL has")
def test_whatever_is_signed_can_be_verified(properties, key):
    url = signed_url(key, properties=properties)
    query = urlsplit(url).query
    assert is_signed("track", split_pairs(query), [key])
    assert map_query("track", query)["properties"] == properties


@pytest.mark.parametrize("keys", ["", [], [""], [None]])
def test_a_missing_secret_is_refused(keys):
    with pytest.raises(ConfigurationError, match="keys must be a secret, or several") as caught:
        processors.verify_signature(keys)
    assert "got <class" in str(caught.value)


def test_an_empty_signing_key_is_refused():
    with pytest.raises(UnsendableEvent, match="signing_key is empty"):
        signed_url("")


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("crawleruseragents", "from pixel_middleware.processors.opens import judge_open", "bots"),
        ("jsonschema", "from pixel_middleware.processors.schema import require_schema; require_schema({})", "schema"),
    ],
)
def test_a_missing_extra_is_named_when_the_app_starts(run, tmp_path, module, code, extra):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('gone', name='{module}')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    done = run([sys.executable, "-c", code], env=environment)
    assert f"pip install 'pixel-middleware[{extra}]'" in done.stderr
