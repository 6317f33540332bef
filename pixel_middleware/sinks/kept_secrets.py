"""Secrets that an event log's file keeps: all its processes have the same ones, also after a restart."""

import secrets
import sqlite3

from pixel_middleware.sinks.store import Store


def secret(store: Store, name: str) -> str:
    """The secret of this name: 43 random letters, digits, `-` and `_`, made when it is first asked for.

    Whoever can read the file can read it; files are created for their owner alone. Raises `StorageError`.
    """

    def keep(connection: sqlite3.Connection) -> str:
        # Several processes may ask for it at once: what the first one made counts.
        connection.execute("INSERT OR IGNORE INTO secrets VALUES (?, ?)", (name, secrets.token_urlsafe()))
        ((value,),) = connection.execute("SELECT value FROM secrets WHERE name = ?", (name,))
        return str(value)

    return store.write(keep, durable=True)
