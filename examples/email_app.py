"""An order confirmation by email that says when it is opened, and a preview of it in the browser.

In real life `base` is the public https address of the app that collects, and the message goes to `smtplib`.
"""

import os
from email.message import EmailMessage
from string import Template

import waitress

from pixel_middleware import Event, PixelMiddleware, pixel_tag

HTML = Template("<!doctype html><title>Order $order</title><h1>Thank you!</h1><p>Order $order is on its way.</p>$pixel")


def confirmation(recipient: str, order: str, base: str) -> EmailMessage:
    pixel = pixel_tag(
        base,
        "track",
        write_key="demo",
        anonymous_id=f"mail-{order}",  # an address would tell every proxy on the way who reads
        event="Email Opened",
        properties={"order": order, "campaign": "confirmation"},
        message_id=f"opened-{order}",  # every further opening is recognisable as one
    )
    message = EmailMessage()
    message["To"], message["Subject"] = recipient, f"Your order {order}"
    message.set_content(f"Thank you! Order {order} is on its way.")
    message.add_alternative(HTML.substitute(order=order, pixel=pixel), subtype="html")
    return message


def preview(environ, start_response):
    message = confirmation("ann@example.com", "4711", f"http://{environ['HTTP_HOST']}")
    body = message.get_body(("html",)).get_content().encode()
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


def collect(event: Event) -> None:
    print(event["type"], event.get("event"), event["properties"], flush=True)


app = PixelMiddleware(preview, collect)

if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ.get("PORT", "6548")))
