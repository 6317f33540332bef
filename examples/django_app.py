"""A Django site in one file, whose page carries a pixel. In a project, wrap `application` in its wsgi.py."""

import os

import waitress
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.template import Context, Engine
from django.urls import path

from pixel_middleware import Event, PixelMiddleware, pixel_tag

settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for this example alone")

PAGE = Engine().from_string("<!doctype html><title>Shop</title><h1>Shop</h1>{{ tag }}")


def page(request):
    base = request.build_absolute_uri("/")
    tag = pixel_tag(base, "page", write_key="demo", anonymous_id="a-visitor", name="Shop")
    return HttpResponse(PAGE.render(Context({"tag": tag})))


urlpatterns = [path("", page)]


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"].get("page"), flush=True)


application = PixelMiddleware(get_wsgi_application(), collect)

if __name__ == "__main__":
    waitress.serve(application, host="127.0.0.1", port=int(os.environ.get("PORT", "6546")))
