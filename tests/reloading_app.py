"""One site in Flask, Django and Pyramid for development servers that reload it; `version.py` beside it is edited.

Its page tells the version and the process that serves. Its events go into the log `LOG`, which has a destination that
writes the version, the process and each event's name to `DELIVERED`.
"""

import os
import sys

import version

from pixel_middleware.destinations import Destination
from pixel_middleware.sinks import EventLog


def who():
    return f"{version.NAME} {os.getpid()}"


class ToFile(Destination):
    def send(self, events):
        lines = "".join(f"{who()} {event['event']}\n" for event in events)
        with open(os.environ["DELIVERED"], "a") as file:
            file.write(lines)


log = EventLog(os.environ["LOG"], {"file": ToFile()})
match os.environ["FRAMEWORK"]:
    case "flask":
        from flask import Flask

        from pixel_middleware.frameworks.flask import Pixels

        app = Flask(__name__)
        app.add_url_rule("/", view_func=who)
        Pixels(app, log)
        if __name__ == "__main__":
            app.run(debug=True, port=int(sys.argv[1]))
    case "django":
        from django.conf import settings
        from django.core.management import execute_from_command_line
        from django.http import HttpResponse
        from django.urls import path

        log.start()  # as an AppConfig's ready() would, in the parent too
        urlpatterns = [path("", lambda request: HttpResponse(who()))]
        settings.configure(
            DEBUG=True,
            ROOT_URLCONF=__name__,
            MIDDLEWARE=["pixel_middleware.frameworks.django.PixelMiddleware"],
            INSTALLED_APPS=["pixel_middleware.frameworks.django.PixelsConfig"],
            PIXELS={"sink": log},
        )
        execute_from_command_line(sys.argv)
    case "pyramid":
        from pyramid.config import Configurator
        from pyramid.response import Response

        def make_app(global_config, **settings):
            with Configurator(settings=settings) as config:
                config.include("pixel_middleware")
                config.add_pixels(log)
                config.add_route("home", "/")
                config.add_view(lambda request: Response(who()), route_name="home")
                return config.make_wsgi_app()
