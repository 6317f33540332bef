"""Whose address a request is counted for, and where it was sent to."""

import json
import urllib.request

import pytest
from processes import PATIENCE_S, until_up

from pixel_middleware.wire.request import client_address, network_of, public_origin, visit


@pytest.mark.parametrize(
    ("forwarded", "trusted", "address"),
    [
        pytest.param("203.0.113.9", 0, "192.0.2.1", id="nobody is trusted by default"),
        pytest.param("203.0.113.9", 1, "203.0.113.9", id="one proxy"),
        pytest.param("6.6.6.6, 203.0.113.9", 1, "203.0.113.9", id="a spoofed entry is to the left"),
        pytest.param("6.6.6.6,203.0.113.9, 10.0.0.1", 2, "203.0.113.9", id="two proxies"),
        pytest.param("203.0.113.9", 2, "192.0.2.1", id="fewer entries than proxies"),
        pytest.param("2001:db8::1", 1, "2001:db8::1", id="IPv6"),
        pytest.param("2.2.2.2:5678", 1, "2.2.2.2", id="with a port"),
        pytest.param("[2001:db8::1]:80", 1, "2001:db8::1", id="IPv6 with a port"),
        pytest.param("[2001:db8::1]", 1, "2001:db8::1", id="IPv6 in brackets"),
        pytest.param("2.2.2.2:evil", 1, "192.0.2.1", id="not a port"),
        pytest.param("[2.2.2.2.2]:80", 1, "192.0.2.1", id="not an address in brackets"),
        pytest.param("evil", 1, "192.0.2.1", id="not an address"),
        pytest.param("0" * 250_000, 1, "192.0.2.1", id="much too long for an address"),
        pytest.param("fe80::1%<script>", 1, "192.0.2.1", id="an IPv6 zone carries any text"),
        pytest.param("", 1, "192.0.2.1", id="empty"),
    ],
)
def test_address(forwarded, trusted, address):
    environ = {"REMOTE_ADDR": "192.0.2.1", "HTTP_X_FORWARDED_FOR": forwarded}
    assert client_address(environ, trusted) == address


@pytest.mark.parametrize("environ", [{}, {"REMOTE_ADDR": ""}, {"REMOTE_ADDR": None}])
def test_an_unknown_address_is_empty(environ):
    assert client_address(environ) == ""


@pytest.mark.parametrize(
    ("given", "trusted", "origin"),
    [
        pytest.param({"HTTP_HOST": "example.com"}, 0, "https://example.com", id="https, whatever the server says"),
        pytest.param({"HTTP_HOST": "example.com:8443"}, 0, "https://example.com:8443", id="a port of its own"),
        pytest.param({"HTTP_HOST": "[2001:db8::1]:8443"}, 0, "https://[2001:db8::1]:8443", id="IPv6"),
        pytest.param({"HTTP_HOST": "localhost:8080"}, 0, "http://localhost:8080", id="a developer's"),
        pytest.param({"HTTP_HOST": "127.0.0.1"}, 0, "http://127.0.0.1", id="a developer's, without a port"),
        pytest.param({"HTTP_HOST": "[::1]:80"}, 0, "http://[::1]:80", id="a developer's, by IPv6"),
        pytest.param({"HTTP_HOST": "[::1]"}, 0, "http://[::1]", id="a developer's, by IPv6 without a port"),
        pytest.param(
            {"HTTP_HOST": "a.com", "HTTP_X_FORWARDED_HOST": "b.com"}, 0, "https://a.com", id="nobody is trusted"
        ),
        pytest.param({"HTTP_HOST": "a.com", "HTTP_X_FORWARDED_HOST": "b.com"}, 1, "https://b.com", id="one proxy"),
        pytest.param({"HTTP_HOST": "a.com", "HTTP_X_FORWARDED_HOST": "b.com"}, 2, "https://a.com", id="fewer entries"),
        pytest.param({"HTTP_HOST": "a.com", "HTTP_X_FORWARDED_HOST": "<b>"}, 1, "https://a.com", id="not a host"),
        pytest.param({"HTTP_HOST": 'a.com/"'}, 0, "https://server.example:80", id="not a host at all"),
        pytest.param({"HTTP_HOST": "a" * 256}, 0, "https://server.example:80", id="much too long for a host"),
        pytest.param({}, 1, "https://server.example:80", id="HTTP/1.0"),
    ],
)
def test_origin(given, trusted, origin):
    environ = {"SERVER_NAME": "server.example", "SERVER_PORT": "80", "wsgi.url_scheme": "http"}
    assert public_origin(environ | given, trusted) == origin


@pytest.mark.parametrize(
    ("header", "most", "field"),
    [
        ("HTTP_USER_AGENT", 1024, "user_agent"),
        ("HTTP_REFERER", 4096, "referer"),
        ("HTTP_ACCEPT_LANGUAGE", 64, "locale"),
    ],
)
def test_long_headers_are_cut_without_tearing_a_character(header, most, field):
    def kept(text):
        return getattr(visit({header: text.encode().decode("latin-1")}), field)

    assert kept("x" * most) == "x" * most
    assert kept("x" * (most + 1)) == "x" * most
    assert kept("é" * most) == "é" * (most // 2)
    assert kept("x" + "é" * most) == "x" + "é" * (most // 2 - 1)
    assert kept("x" * (most - 2) + "\U0001f600") == "x" * (most - 2)


@pytest.mark.parametrize(
    ("header", "locale"),
    [
        ({"HTTP_ACCEPT_LANGUAGE": "de-AT, en;q=0.5"}, "de-AT"),
        ({"HTTP_ACCEPT_LANGUAGE": " de;q=0.9,en"}, "de"),
        ({"HTTP_ACCEPT_LANGUAGE": "*"}, ""),
        ({}, ""),
    ],
)
def test_the_locale_is_the_first_language(header, locale):
    assert visit(header).locale == locale


def test_bytes_that_are_no_text_are_replaced_also_where_a_header_is_cut():
    assert visit({"HTTP_USER_AGENT": "\xff" * 2000}).user_agent == "\ufffd" * 1024
    # A server that breaks PEP 3333 hands over text.
    assert visit({"HTTP_USER_AGENT": "€" * 2000}).user_agent == "?" * 1024


@pytest.mark.parametrize(
    ("option", "address", "is_told"),
    [
        ("--no-clear-untrusted-proxy-headers", "203.0.113.9", False),
        ("--clear-untrusted-proxy-headers", "127.0.0.1", True),
    ],
)
def test_waitress_takes_the_header_out_unless_it_is_told_not_to(start, tmp_path, free_port, option, address, is_told):
    command = ["-m", "waitress", f"--listen=127.0.0.1:{free_port}", option, "hosting_app:app"]
    start(*command, EVENTS=str(tmp_path / "events.jsonl"), TRUSTED_PROXIES="1")
    until_up(free_port)
    url = f"http://127.0.0.1:{free_port}/pixel/v1/page?writeKey=k&anonymousId=a"
    request = urllib.request.Request(url, headers={"X-Forwarded-For": "203.0.113.9"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    assert json.loads((tmp_path / "events.jsonl").read_text("utf-8"))["request_ip"] == address
    assert ("a request has no X-Forwarded-For" in (tmp_path / "output.log").read_text("utf-8")) is is_told


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0"),
        ("192.0.2.255", "192.0.2.0"),
        ("2001:db8:1:ffff::1", "2001:db8:1::"),
        ("::ffff:192.0.2.77", "192.0.2.0"),
        ("2002:c000:24d::1", "192.0.2.0"),  # 6to4
        ("2001:0:ffff:ffff:0:0:3fff:fdb2", "192.0.2.0"),  # Teredo
        ("64:ff9b::c000:24d", "192.0.2.0"),
        ("64:ff9b:1::c000:24d", "192.0.2.0"),
        ("unix:", ""),
    ],
)
def test_of_an_address_its_network_is_kept_also_where_it_holds_another(address, network):
    assert network_of(address) == network
