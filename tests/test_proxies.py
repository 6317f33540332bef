"""Whose address a request is counted for."""

import pytest

from pixel_middleware.proxies import client_address


@pytest.mark.parametrize(
    ("forwarded", "trusted", "address"),
    [
        pytest.param("203.0.113.9", 0, "192.0.2.1", id="nobody is trusted by default"),
        pytest.param("203.0.113.9", 1, "203.0.113.9", id="one proxy"),
        pytest.param("6.6.6.6, 203.0.113.9", 1, "203.0.113.9", id="a spoofed entry is to the left"),
        pytest.param("6.6.6.6,203.0.113.9, 10.0.0.1", 2, "203.0.113.9", id="two proxies"),
        pytest.param("203.0.113.9", 2, "192.0.2.1", id="fewer entries than proxies"),
        pytest.param("2001:db8::1", 1, "2001:db8::1", id="IPv6"),
        pytest.param("evil", 1, "192.0.2.1", id="not an address"),
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
