"""A Flask app whose page carries a pixel."""

import os

from flask import Flask, render_template_string, request

from pixel_middleware import Event, PixelMiddleware, pixel_tag

app = Flask(__name__)


@app.get("/")
def page():
    tag = pixel_tag(request.url_root, "page", write_key="demo", anonymous_id="a-visitor", name="Shop")
    return render_template_string("<!doctype html><title>Shop</title><h1>Shop</h1>{{ tag }}", tag=tag)


def collect(event: Event) -> None:
    print(event["type"], event.get("name"), event["context"].get("page"), flush=True)


app.wsgi_app = PixelMiddleware(app.wsgi_app, collect)  # so `flask run` and its test client see pixels too

if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "6545")))
