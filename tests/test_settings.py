"""One table of options: the signature, the texts that become values, and the reference in the docs agree with it."""

import re
from contextlib import closing
from typing import get_type_hints

import pytest

from pixel_middleware import ConfigurationError, PixelMiddleware, asgi, settings, texts
from pixel_middleware.destinations import Kafka, Webhook, from_table, from_url
from pixel_middleware.frameworks.options import sink_and_options
from pixel_middleware.processors import anonymize_ip, honor_gpc


def test_the_table_and_the_typed_signature_agree():
    defaults = {row.name: row.default for row in settings.SETTINGS}
    assert defaults == PixelMiddleware.__init__.__kwdefaults__ == asgi.PixelMiddleware.__init__.__kwdefaults__
    kinds = {bool: "true or false", int: "a whole number"}
    hints = get_type_hints(PixelMiddleware.__init__)
    of_a_kind = {row.name: row.kind for row in settings.SETTINGS if row.kind in kinds.values()}
    assert of_a_kind == {name: kinds[hint] for name, hint in hints.items() if hint in kinds}


def test_every_default_passes_its_own_check():
    for row in (*settings.SETTINGS, *settings.COLLECTOR_SETTINGS):
        row.check(row.name, row.default)


SAID = {
    "require_anonymous_id": ("no", False),
    "trusted_proxies": ("2", 2),
    "write_keys": ("shop, blog", ["shop", "blog"]),
    "processors": ("honor_gpc\npixel_middleware.processors:anonymize_ip", [honor_gpc, anonymize_ip]),
    "keep_days": ("0.5", 0.5),
    "forward_to": (
        "lake=kafka://a:1,b:1/events https://plane.example",
        ["lake=kafka://a:1,b:1/events", "https://plane.example"],
    ),
    "prefix": ("  /p ", "/p"),
}


@pytest.mark.parametrize("name", SAID)
def test_text_becomes_a_value(name):
    text, value = SAID[name]
    assert settings.read({name: text}, settings.COLLECTOR_SETTINGS) == {name: value}


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("keep_days", "soon", "keep_days must be a number, got 'soon'"),
        ("max_bytes", "1.5", "max_bytes must be a whole number, got '1.5'"),
        (
            "processors",
            "honor_gcp",
            "processors must be one of ours, like honor_gpc, or package.module:name, got 'honor_gcp'",
        ),
        ("trusted_proxy", "1", "did you mean trusted_proxies"),
    ],
)
def test_wrong_text_says_what_is_right(name, text, error):
    with pytest.raises(ConfigurationError, match=re.escape(error)):
        settings.read({name: text}, settings.COLLECTOR_SETTINGS)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("keep_days", -1, "keep_days must be None or a number of days, 0 or more, got -1"),
        ("output", "", "output must be text that is not empty"),
        ("allow", "10.0.0.0/8", "allow must be a list of texts"),
        ("forward_to", [7], "forward_to must be a list of texts, and one of its items is none"),
        ("port", 65536, "port must be a whole number of at least 0 and at most 65535"),
    ],
)
def test_wrong_values_say_what_is_right(name, value, error):
    (row,) = (row for row in settings.COLLECTOR_SETTINGS if row.name == name)
    with pytest.raises(ConfigurationError, match=re.escape(error)):
        row.check(name, value)


# References


@pytest.fixture
def references(tmp_path):
    (tmp_path / "password").write_text("p&w%1\n")
    return texts.References(tmp_path, {"PASSWORD": "s3cret & more", "PLANE": "https://plane.example", "N": "12"})


def test_references_are_filled_in_wherever_text_is(references):
    given = {"a": ["{env:PASSWORD}!", 7], "b": {"c": "{file:password}"}, "d": "{other:x} {"}
    assert references.fill("x", given) == {
        "a": ["s3cret & more!", 7],
        "b": {"c": "p&w%1"},
        "d": "{other:x} {",
    }


def test_a_reference_to_nothing_is_named_by_itself(references, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "long").write_bytes(b"x" * 65537)
    for text, error in [
        ("{env:PASWORD}", "x: {env:PASWORD}: there is no such environment variable; set it"),
        ("{file:none}", "x: {file:none} cannot be read: No such file or directory"),
        ("{file:binary}", "x: {file:binary} must hold text in UTF-8"),
        ("{file:long}", "x: {file:long} must hold at most 65,536 bytes"),
    ]:
        with pytest.raises(ConfigurationError) as raised:
            references.fill("x", text)
        assert str(raised.value) == error


def test_an_error_shows_the_reference_and_not_what_it_refers_to(references):
    filled = references.fill("x", "{env:PASSWORD} {env:N}")
    error = references.hidden(ConfigurationError.must_be("x", "a number of at most 12", filled))
    assert str(error) == "x must be a number of at most 12, got '{env:PASSWORD} 12'"


def test_a_password_in_a_url_needs_no_quoting(references):
    kafka = from_url("kafka://host:9092/events?sasl.username=u&sasl.password={file:password}", references)
    assert (kafka._config["sasl.password"], kafka._config["sasl.username"]) == ("p&w%1", "u")
    assert from_url("webhook+https://host/hook#secret={env:PASSWORD}", references)._secret == "s3cret & more"


def test_a_destination_may_be_a_table(references):
    kafka = from_table(
        "lake", {"url": "kafka://a:1,b:1/events", "sasl.password": "{env:PASSWORD}", "linger.ms": 5}, references
    )
    assert isinstance(kafka, Kafka)
    assert (kafka._config["bootstrap.servers"], kafka._config["sasl.password"]) == ("a:1,b:1", "s3cret & more")
    hook = from_table(
        "hook", {"url": "webhook+https://h/x", "secret": "s", "headers": {"Authorization": "{env:N}"}}, references
    )
    assert isinstance(hook, Webhook)
    assert (hook._secret, hook._headers["Authorization"]) == ("s", "12")
    assert str(from_table("plane", "{env:PLANE}", references)) == "https://plane.example/v1/batch"


class Mine(Webhook):
    """A destination of one's own."""


mine = Mine("https://mine.example/")


def test_a_destination_may_be_ones_own(references):
    assert from_table("own", f"{__name__}:mine", references) is mine
    made = from_table("own", {"url": f"{__name__}:make", "to": "https://h/x"}, references)
    assert isinstance(made, Mine)


def make(to):
    return Mine(to)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (7, "destinations.lake must be a URL, or a table with a url and options"),
        ({"secret": "x"}, "destinations.lake must be a URL, or a table with a url and options"),
        ("ftp://host", "destinations.lake: forward_to must be the URL of a data plane"),
        (
            {"url": "https://h", "gzip": True, "secret": "x"},
            "destinations.lake: its options are not those of https://h",
        ),
        (f"{__name__}:PIXEL", "its options are not those of"),
        (f"{__name__}:written_by_hand", "destinations.lake must be a Destination, or what makes one, got 'str'"),
        (f"{__name__}:nothing", "destinations.lake must be package.module:name"),
    ],
)
def test_a_wrong_destination_says_what_is_right(references, given, error):
    with pytest.raises(ConfigurationError, match=re.escape(error)):
        from_table("lake", given, references)


PIXEL = "not callable"


def written_by_hand():
    return "text"


def test_an_ini_file_takes_references_and_hides_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PIXEL_TEST_FILE", str(tmp_path / "events.db"))
    monkeypatch.setenv("PIXEL_TEST_SECRET", "hunter2")
    make_sink, _ = sink_and_options({"output": "{env:PIXEL_TEST_FILE}", "max_bytes": "100000", "keep_days": "7"})
    with closing(make_sink()) as log:
        assert (log._retention._max_bytes, log._retention._keep_days) == (100000, 7.0)
    with pytest.raises(ConfigurationError) as raised:
        sink_and_options({"output": "x.db", "trusted_proxies": "{env:PIXEL_TEST_SECRET}"})
    assert str(raised.value) == "trusted_proxies must be a whole number, got '{env:PIXEL_TEST_SECRET}'"
    with pytest.raises(ConfigurationError, match=r"max_bytes is for an event log: give output a name that ends in .db"):
        sink_and_options({"output": "x.jsonl", "max_bytes": "100000"})[0]()
