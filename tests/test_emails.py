"""A pixel on its way to a reader: written by an app, carried by a mail server, loaded by a mail provider's proxy."""

import mailbox
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email import message_from_binary_file
from email.policy import default
from html import unescape
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from processes import PATIENCE_S, until, until_up

from pixel_middleware import pixel_url
from pixel_middleware.processors import verify_signature
from pixel_middleware.processors.opens import judge_open
from pixel_middleware.sinks import EventLog
from pixel_middleware.wire.answers import GIF

ROOT = Path(__file__).parents[1]

GMAIL = {
    "User-Agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Accept-Encoding": "gzip, deflate",
}
YAHOO = {"User-Agent": "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "Accept": "*/*"}
APPLE = {"User-Agent": "Mozilla/5.0", "Accept": "*/*", "Accept-Encoding": "gzip, deflate, br"}
OUTLOOK = {"User-Agent": "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; ms-office; MSOffice 16)", "Accept": "*/*"}


@pytest.mark.parametrize("program", ["email_app.py", "django_mail_app.py", "flask_mail_app.py"])
def test_a_mail_that_was_sent_says_once_that_it_was_opened(popen, new_port, tmp_path, program):
    mail_port, port = new_port(), new_port()
    folder = tmp_path / "mails"
    listen = ["-n", "-l", f"127.0.0.1:{mail_port}", "-c", "aiosmtpd.handlers.Mailbox", folder]
    until_up(mail_port, popen([sys.executable, "-m", "aiosmtpd", *listen]))
    environment = os.environ | {"PORT": str(port), "MAIL_PORT": str(mail_port), "PYTHONDEVMODE": ""}
    app = popen([sys.executable, ROOT / "examples" / program], env=environment, stdout=subprocess.PIPE, text=True)
    until_up(port, app)
    urllib.request.urlopen(f"http://127.0.0.1:{port}/", b"", timeout=PATIENCE_S).close()

    received = mailbox.Maildir(folder, lambda file: message_from_binary_file(file, policy=default))
    (mail,) = until(lambda: list(received), "the mail")
    assert (mail["To"], mail["Subject"]) == ("ann@example.com", "Your order 4711")
    url = unescape(re.search('<img src="([^"]+)"', mail.get_body(("html",)).get_content())[1])
    assert "ann@example.com" not in url
    assert parse_qs(urlsplit(url).query)["messageId"] == ["confirmation-4711"]
    for headers in (APPLE, GMAIL, GMAIL):
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE_S) as answer:
            assert (answer.status, answer.headers["Content-Type"], answer.read()) == (200, "image/gif", GIF)
    lines = filter(lambda line: line.startswith("track "), app.stdout)
    assert set(islice(lines, 3)) == {"track Email Opened confirmation-4711 by 5f0c6ad1-5d3b-4f0e-9f5c-1b8c2f7f1a44\n"}


@pytest.mark.parametrize("proxy", [GMAIL, YAHOO, APPLE, OUTLOOK], ids=["gmail", "yahoo", "apple", "outlook"])
@pytest.mark.parametrize(
    "asks",
    [
        {},
        {"If-None-Match": '"43"', "If-Modified-Since": "Fri, 02 Jan 2026 03:04:05 GMT"},
        {"Range": "bytes=0-1"},
    ],
    ids=["plainly", "for what changed", "for a part"],
)
def test_a_mail_providers_proxy_gets_the_whole_image_and_may_not_keep_it(client, events, proxy, asks):
    url = "/pixel/v1/track.gif?writeKey=k&anonymousId=a&event=Email%20Opened"
    answer = client.get(url, headers=proxy | asks, status=200)
    headers = answer.headers
    assert (answer.body, headers["Content-Type"], headers["Content-Length"]) == (GIF, "image/gif", "43")
    assert headers["Cache-Control"] == "no-store, no-cache, must-revalidate, max-age=0, private"
    assert {"Set-Cookie", "ETag", "Last-Modified", "Location", "Vary"}.isdisjoint(headers)
    assert len(events) == 1


def test_the_docs_query_counts_a_mail_once_and_only_where_somebody_may_have_opened_it(make_client, tmp_path):
    """Apple's prefetch comes first, then Gmail's proxy twice; of another recipient's mail, the prefetch alone."""
    (query,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "how-to" / "emails.md").read_text("utf-8"), re.DOTALL)
    log = EventLog(tmp_path / "mails.db")
    client = make_client(log, processors=[verify_signature("s3cret"), judge_open()])
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    for recipient, headers in [("ann", APPLE), ("ann", GMAIL), ("ann", GMAIL), ("bob", APPLE)]:
        url = pixel_url(
            "http://localhost",
            "track",
            write_key="k",
            anonymous_id=recipient,
            event="Email Opened",
            properties={"mail": "welcome"},
            message_id=f"welcome-{recipient}",
            sent_at=an_hour_ago,
            signing_key="s3cret",
        )
        client.get(url, headers=headers, status=200)
    log.close()
    with closing(sqlite3.connect(tmp_path / "mails.db")) as database:
        assert database.execute(query).fetchall() == [("welcome", 1)]
        assert database.execute("SELECT count(*) FROM events").fetchall() == [(4,)]


def test_a_mail_that_the_old_key_signed_is_counted_until_that_key_is_removed(make_client, events):
    old = pixel_url("http://localhost", "track", write_key="k", anonymous_id="a", event="e", signing_key="2025")
    make_client(processors=[verify_signature(["2026", "2025"])]).get(old, status=200)
    assert len(events) == 1
    refused = make_client(processors=[verify_signature("2026")]).get(old, status=400)
    assert (refused.body, refused.headers["X-Pixel-Error"]) == (GIF, "invalid_signature")
    assert len(events) == 1
