"""Behind a real nginx the client's address is the client's own, whatever it says of itself."""

import http.client

import pytest
from nginx import needs_nginx, start_nginx

from pixel_middleware import PixelMiddleware

pytestmark = needs_nginx

CLIENT = "127.0.0.5"  # nginx's own address is 127.0.0.1


@pytest.fixture
def get(popen, serve, tmp_path, free_port, events):
    """Gets a path through nginx, from the client's address."""
    app = PixelMiddleware(lambda environ, start_response: [], events.append, trusted_proxies=1, amp=True)
    start_nginx(popen, tmp_path, free_port, serve(app))

    def get(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", free_port, source_address=(CLIENT, 0))
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            body = answer.read()
        connection.close()
        return answer, body

    return get


@pytest.mark.parametrize("spoofed", [{}, {"X-Forwarded-For": "6.6.6.6"}, {"X-Forwarded-For": "6.6.6.6, 7.7.7.7"}])
def test_the_address_cannot_be_spoofed(get, events, spoofed):
    answer, body = get("/pixel/v1/track?writeKey=k&anonymousId=a&event=e", **spoofed)
    assert (answer.status, body) == (200, b"OK")
    assert (events[0]["request_ip"], events[0]["context"]["ip"]) == (CLIENT, CLIENT)


def test_a_long_pixel_comes_through(get, events):
    text = "x" * 7000
    assert get(f"/pixel/v1/page?writeKey=k&anonymousId=a&properties.text={text}")[0].status == 200
    assert events[0]["properties"] == {"text": text}


def test_amp_is_told_the_public_host(get):
    _, body = get("/pixel/v1/amp.json", Host="shop.example")
    assert b'"requestOrigin": "https://shop.example"' in body
