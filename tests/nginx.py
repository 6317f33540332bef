"""A real nginx in front of an app."""

import shutil
from pathlib import Path

import pytest
from processes import until_up

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed")

CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    access_log {folder}/access.log;
    {http}
}}
"""

SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Host $http_host;
        }}
        {server}
    }}
"""


def start_nginx(popen, folder: Path, port: int, upstream: int, http="", server=""):
    """Start one in `folder` with `popen(command)`, and return once it listens."""
    start_site(popen, folder, port, http + SERVER.format(port=port, upstream=upstream, server=server))


def start_site(popen, folder: Path, port: int, site: str):
    """Start one with the servers of `site`, as a file in `conf.d` has them, and return once it listens."""
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, http=site))
    until_up(port, popen([NGINX, "-c", config, "-p", folder]))
