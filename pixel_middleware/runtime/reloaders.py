"""Development servers that reload run the app twice: in a parent that watches files, and in the child that serves."""

import os
import sys


def is_parent() -> bool:
    """Whether this process only watches for a child to serve: Werkzeug's reloader (Flask), or Django's `runserver`."""
    if "werkzeug._reloader" in sys.modules and os.environ.get("WERKZEUG_RUN_MAIN") != "true":
        return True
    is_flask_debug = os.environ.get("FLASK_RUN_FROM_CLI") == "true" and (
        "--debug" in sys.argv or os.environ.get("FLASK_DEBUG", "0").lower() not in ("", "0", "false", "no")
    )
    if is_flask_debug and "--no-reload" not in sys.argv and os.environ.get("WERKZEUG_RUN_MAIN") != "true":
        return True
    is_runserver = "runserver" in sys.argv[1:2] and "--noreload" not in sys.argv and "django" in sys.modules
    return is_runserver and os.environ.get("RUN_MAIN") != "true"
