"""gunicorn -c gunicorn.conf.py: the collector with `PIXEL_CONFIG` as its file."""

wsgi_app = "pixel_middleware.collector:create_app()"
bind = "127.0.0.1:8080"
workers = 2
worker_class = "gthread"
threads = 32  # they share a commit
limit_request_line = 0  # nginx bounds it; 4,094 bytes are too few for a long pixel
graceful_timeout = 10
