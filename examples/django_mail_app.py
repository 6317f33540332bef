"""A mail that says when it is opened, sent with Django's mail. The page is a preview of it; a POST sends it."""

import os
from datetime import UTC, datetime

import waitress
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.template import Context, Engine
from django.urls import path

from pixel_middleware import Event, PixelMiddleware, pixel_tag
from pixel_middleware.processors import verify_signature

KEYS = ["this year's secret", "last year's"]  # the first signs; both are taken while old mails are read

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for this example alone")
settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", int(os.environ.get("MAIL_PORT", "1025"))

HTML = Engine().from_string("<!doctype html><title>Order {{ order }}</title>{{ pixel }}<h1>Thank you!</h1>")


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
    message = EmailMultiAlternatives(f"Your order {order}", "Thank you!", "shop@example.com", [customer["address"]])
    message.attach_alternative(HTML.render(Context({"order": order, "pixel": pixel})), "text/html")
    return message


def shop(request):
    ann = {"address": "ann@example.com", "id": "5f0c6ad1-5d3b-4f0e-9f5c-1b8c2f7f1a44"}  # a random UUID, kept with her
    message = confirmation(ann, "4711", request.build_absolute_uri("/"))
    if request.method == "POST":
        message.send()
    return HttpResponse(message.alternatives[0][0])


urlpatterns = [path("", shop)]


def collect(event: Event) -> None:
    print(event["type"], event.get("event"), event.get("messageId"), "by", event.get("anonymousId"), flush=True)


application = PixelMiddleware(get_wsgi_application(), collect, processors=[verify_signature(KEYS)])

if __name__ == "__main__":
    waitress.serve(application, host="127.0.0.1", port=int(os.environ.get("PORT", "6550")))
