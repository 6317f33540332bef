"""The one home of the package's metadata; pyproject.toml only configures tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HOME = "https://github.com/pixel-middleware/pixel-middleware"


def on_pypi(readme):
    """The README as PyPI shows it: there, links to files of the repository must be whole addresses."""
    readme = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{HOME}/raw/main/", readme)
    return re.sub(r"(\]\()(?!https?:|#)", rf"\1{HOME}/blob/main/", readme)


CLI = ["click>=8.1", "tqdm>=4.60", "urllib3>=2.0"]

EXTRAS = {
    # processors.opens
    "bots": ["crawler-user-agents>=1.0"],
    # `pixel-middleware`, without `serve`
    "cli": CLI,
    # destinations.Kafka
    "kafka": ["confluent-kafka>=2.5"],
    # `pixel-middleware export --to events.parquet`
    "parquet": ["pyarrow>=15"],
    # watch.metrics
    "prometheus": ["prometheus-client>=0.20"],
    # destinations.RudderStack
    "rudderstack": ["urllib3>=2.0"],
    # processors.schema
    "schema": ["jsonschema>=4.20"],
    # `pixel-middleware serve`
    "serve": [*CLI, "granian>=2.5", "prometheus-client>=0.20"],
    # destinations.Webhook
    "webhook": ["urllib3>=2.0"],
}
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

setup(
    name="pixel-middleware",
    version="0.1.0",
    description="Wrap any WSGI or ASGI app in one line, and it becomes a RudderStack-compatible pixel endpoint",
    long_description=on_pypi(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author="The pixel-middleware maintainers",
    url=HOME,
    project_urls={
        "Documentation": f"{HOME}/blob/main/docs/index.md",
        "Changelog": f"{HOME}/blob/main/CHANGELOG.md",
        "Issues": f"{HOME}/issues",
        "Security": f"{HOME}/blob/main/SECURITY.md",
    },
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["pixel_middleware", "pixel_middleware.*"]),
    package_data={"pixel_middleware": ["py.typed", "commands/report.html", "watch/live.html"]},
    python_requires=">=3.11",
    install_requires=["WebOb>=1.8.8"],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["pixel-middleware = pixel_middleware.__main__:main"],
        "paste.filter_app_factory": [
            "main = pixel_middleware.frameworks.paste:filter_app_factory",
            "live = pixel_middleware.frameworks.paste:live_filter_factory",
        ],
    },
    keywords="analytics events pixel rudderstack segment amp email wsgi webob",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)),
        "Topic :: Internet :: WWW/HTTP :: WSGI :: Middleware",
        "Typing :: Typed",
    ],
)
