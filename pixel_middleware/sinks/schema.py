"""What an event log's file holds: its tables, and the numbers by which it is recognised."""

import sqlite3

from pixel_middleware.errors import StorageError

APPLICATION_ID = 0x7069786C  # "pixl"; `file events.db` shows it

CAMPAIGN = "coalesce(nullif(event ->> '$.properties.campaign', ''), nullif(event ->> '$.context.campaign.name', ''))"
"""The campaign of an event, in SQL; NULL if it has none."""

_CLIENT = """
            event ->> '$.context.ip' AS ip,
            event ->> '$.context.userAgent' AS user_agent,
            event ->> '$.context.locale' AS locale
""".strip()

_STEPS = (
    (
        """
        CREATE TABLE events (
            -- AUTOINCREMENT: SQLite may otherwise give the id of a deleted event to a new one
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            received_at TEXT NOT NULL,
            type TEXT NOT NULL,
            write_key TEXT NOT NULL,
            message_id TEXT NOT NULL,
            visitor TEXT NOT NULL,  -- the anonymousId, else the userId
            name TEXT NOT NULL,  -- of the event, or of the page
            event TEXT NOT NULL  -- all of it, as JSON
        )
        """,
        """
        CREATE TABLE destinations (
            name TEXT PRIMARY KEY,
            position INTEGER NOT NULL,  -- events up to this id are delivered, or are setbacks
            epoch INTEGER NOT NULL,  -- random, and another one when somebody else moves the position
            claimed_at REAL NOT NULL,  -- when a process last had this destination; all times are Unix times
            carrier INTEGER NOT NULL DEFAULT 0,  -- the process that sends
            beat_at REAL NOT NULL DEFAULT 0,  -- when it last said so
            sent INTEGER NOT NULL DEFAULT 0,
            retried INTEGER NOT NULL DEFAULT 0,
            given_up INTEGER NOT NULL DEFAULT 0,
            last_success_at REAL,
            last_error TEXT NOT NULL DEFAULT '',
            last_cause TEXT NOT NULL DEFAULT '',  -- the same in a fixed word
            last_error_at REAL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE setbacks (
            destination TEXT NOT NULL,
            id INTEGER NOT NULL,  -- of the event
            lane TEXT NOT NULL,
            state TEXT NOT NULL,  -- held: it is tried again; dead: it is not
            reason TEXT NOT NULL,
            attempts INTEGER NOT NULL,  -- failures of it alone; 0 if it only waits for its lane
            retry_at REAL NOT NULL,  -- when it is tried next, if it failed alone
            bytes INTEGER NOT NULL,
            PRIMARY KEY (destination, id)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX setbacks_by_lane ON setbacks (destination, state, lane, id)",
        "CREATE INDEX setbacks_by_id ON setbacks (id)",
        "CREATE INDEX setbacks_due ON setbacks (destination, retry_at) WHERE state = 'held' AND attempts > 0",
        """
        CREATE TABLE lanes (
            destination TEXT NOT NULL,
            lane TEXT NOT NULL,
            accepted INTEGER NOT NULL,  -- whether the destination ever took an event of it
            retry_at REAL NOT NULL,  -- when it is tried next, if it is on hold
            hold_s REAL NOT NULL,  -- how long the hold is; 0: none
            reason TEXT NOT NULL,
            PRIMARY KEY (destination, lane)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE refusals (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            kind TEXT NOT NULL,  -- rejected, failed, dropped
            reason TEXT NOT NULL,
            message TEXT NOT NULL,
            path TEXT NOT NULL,
            query TEXT NOT NULL,
            user_agent TEXT NOT NULL,
            network TEXT NOT NULL,  -- of the client's address
            cause TEXT NOT NULL  -- the processor, or the exception
        )
        """,
        """
        CREATE TABLE counts (
            outcome TEXT NOT NULL,  -- accepted, dropped, failed, rejected
            reason TEXT NOT NULL,  -- of a rejection, or the processor that dropped, or the exception's type
            count INTEGER NOT NULL,  -- of requests, by all processes since the file was made
            PRIMARY KEY (outcome, reason)
        ) WITHOUT ROWID
        """,
    ),
    ("CREATE TABLE secrets (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",),
    (
        f"""
        CREATE VIEW pages AS SELECT
            id, received_at, write_key, message_id,
            event ->> '$.anonymousId' AS anonymous_id,
            event ->> '$.userId' AS user_id,
            name,
            event ->> '$.properties.url' AS url,
            event ->> '$.properties.path' AS path,
            event ->> '$.properties.title' AS title,
            event ->> '$.properties.referrer' AS referrer,
            {CAMPAIGN} AS campaign,
            {_CLIENT},
            event -> '$.properties' AS properties
        FROM events WHERE type = 'page'
        """,
        f"""
        CREATE VIEW tracks AS SELECT
            id, received_at, write_key, message_id,
            event ->> '$.anonymousId' AS anonymous_id,
            event ->> '$.userId' AS user_id,
            name,
            event ->> '$.context.page.url' AS url,
            {CAMPAIGN} AS campaign,
            {_CLIENT},
            event -> '$.properties' AS properties
        FROM events WHERE type = 'track'
        """,
        """
        CREATE VIEW visitors AS SELECT
            visitor,
            min(received_at) AS first_seen,
            max(received_at) AS last_seen,
            count(*) AS events,
            count(DISTINCT message_id) AS messages,
            count(*) FILTER (WHERE type = 'page') AS pages,
            count(*) FILTER (WHERE type = 'track') AS tracks
        FROM events GROUP BY visitor
        """,
        f"""
        CREATE VIEW campaigns AS SELECT
            {CAMPAIGN} AS campaign,
            min(received_at) AS first_seen,
            max(received_at) AS last_seen,
            count(*) AS events,
            count(DISTINCT visitor) AS visitors,
            count(DISTINCT message_id) AS messages
        FROM events WHERE {CAMPAIGN} IS NOT NULL GROUP BY 1
        """,
    ),
    (
        """
        CREATE TABLE feed (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            generation TEXT NOT NULL,  -- random, and another one after each reset of the live view's feed
            event INTEGER NOT NULL,  -- the ids of the newest event and refusal then
            refusal INTEGER NOT NULL
        )
        """,
    ),
)
"""What each version added to the one before. A new file takes all steps, an older one those that it lacks."""

VERSION = len(_STEPS)


def version_of(connection: sqlite3.Connection) -> int:
    """The version of the log in the file that is open; 0 if the file is new. Raises `StorageError` if it is no log."""
    # The tables first: another process may make a new file's log between two of these lines.
    tables = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    application_id = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    if application_id == APPLICATION_ID:
        if version > VERSION:
            raise StorageError(f"it is of version {version}, by a newer pixel-middleware; this one knows {VERSION}")
        return version
    if application_id == 0 and not tables:
        return 0
    if "events" in tables and "message_id" in {row[1] for row in connection.execute("PRAGMA table_info(events)")}:
        raise StorageError(
            "it has the layout of an older pixel-middleware, which kept events or an outbox in another way; "
            "give the log a new file, and read this one with sqlite3"
        )
    raise StorageError("it is the database of another program; give the log a file of its own")


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file from `version` to `VERSION`, in the transaction that is open."""
    for statements in _STEPS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _number(connection: sqlite3.Connection, query: str) -> int:
    ((number,),) = connection.execute(query).fetchall()
    return int(number)
