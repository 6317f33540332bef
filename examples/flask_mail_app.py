"""A mail that says when it is opened, sent with Flask-Mail. The page is a preview of it; a POST sends it."""

import os
from datetime import UTC, datetime

from flask import Flask, render_template_string, request
from flask_mail import Mail, Message

from pixel_middleware import Event, PixelMiddleware, pixel_tag
from pixel_middleware.processors import verify_signature

KEYS = ["this year's secret", "last year's"]  # the first signs; both are taken while old mails are read

HTML = "<!doctype html><title>Order {{ order }}</title>{{ pixel }}<h1>Thank you!</h1>"

app = Flask(__name__)
app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=int(os.environ.get("MAIL_PORT", "1025")))
mail = Mail(app)


def confirmation(customer, order, base):
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
    return Message(
        f"Your order {order}",
        sender="shop@example.com",
        recipients=[customer["address"]],
        body="Thank you!",
        html=render_template_string(HTML, order=order, pixel=pixel),
    )


@app.route("/", methods=["GET", "POST"])
def shop():
    ann = {"address": "ann@example.com", "id": "5f0c6ad1-5d3b-4f0e-9f5c-1b8c2f7f1a44"}  # a random UUID, kept with her
    message = confirmation(ann, "4711", request.url_root)
    if request.method == "POST":
        mail.send(message)
    return message.html


def collect(event: Event) -> None:
    print(event["type"], event.get("event"), event.get("messageId"), "by", event.get("anonymousId"), flush=True)


app.wsgi_app = PixelMiddleware(app.wsgi_app, collect, processors=[verify_signature(KEYS)])

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "6551")))
