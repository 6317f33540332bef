"""A mail that says when it is opened, sent with smtplib. The page is a preview of it; a POST sends it."""

import os
import smtplib
from datetime import UTC, datetime
from email.message import EmailMessage
from string import Template

import waitress

from pixel_middleware import Event, PixelMiddleware, pixel_tag
from pixel_middleware.processors import verify_signature

KEYS = ["this year's secret", "last year's"]  # the first signs; both are taken while old mails are read

HTML = Template(
    '<!doctype html><html lang="en"><title>Your order $order</title><body style="font:16px sans-serif;margin:2em">'
    '$pixel<h1 style="font-size:24px">Thank you!</h1><p>Order $order is on its way.</p></body></html>'
)


def confirmation(customer: dict[str, str], order: str, base: str) -> EmailMessage:
    pixel = pixel_tag(
        base,
        "track",
        write_key="demo",
        anonymous_id=customer["id"],  # an address would tell every proxy on the way who reads
        event="Email Opened",
        properties={"order": order},
        message_id=f"confirmation-{order}",  # however often it is opened, it is one event
        sent_at=datetime.now(UTC),
        signing_key=KEYS[0],
    )
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.com", customer["address"], f"Your order {order}"
    message.set_content(f"Thank you! Order {order} is on its way.")
    message.add_alternative(HTML.substitute(order=order, pixel=pixel), subtype="html")
    return message


def shop(environ, start_response):
    ann = {"address": "ann@example.com", "id": "5f0c6ad1-5d3b-4f0e-9f5c-1b8c2f7f1a44"}  # a random UUID, kept with her
    message = confirmation(ann, "4711", f"http://{environ['HTTP_HOST']}")
    if environ["REQUEST_METHOD"] == "POST":
        with smtplib.SMTP("127.0.0.1", int(os.environ.get("MAIL_PORT", "1025"))) as server:
            server.send_message(message)
    body = message.get_body(("html",)).get_content().encode()
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


def collect(event: Event) -> None:
    print(event["type"], event.get("event"), event.get("messageId"), "by", event.get("anonymousId"), flush=True)


app = PixelMiddleware(shop, collect, processors=[verify_signature(KEYS)])

if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "6548")))
