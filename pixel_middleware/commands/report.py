"""`pixel-middleware report`: how many events, visitors and messages, by day, name, write key or campaign."""

import csv
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from html import escape
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import click

from pixel_middleware.commands.terminal import Moment, log_at
from pixel_middleware.sinks.reports import GROUPS, Counts, refusals
from pixel_middleware.sinks.reports import report as report_of
from pixel_middleware.sinks.selection import Selection
from pixel_middleware.wire.printable import printable

MOST_SHOWN = {"terminal": 50, "html": 1000}  # rows; JSON and CSV have all
MOST_DAYS = 3660  # that are filled in between the first and the last
BAR = 24  # characters


class Table(NamedTuple):
    """What is reported: numbers by their names, in all and by group."""

    by: str
    columns: tuple[str, ...]
    total: tuple[int, ...]
    rows: dict[str, tuple[int, ...]]


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--by", default="day", show_default=True, type=click.Choice([*GROUPS, "reason"]), help="What to count by."
)
@click.option("--since", type=Moment(), help="Only what was received at this moment or later, like 2026-01-31.")
@click.option("--until", type=Moment(), help="Only what was received before this moment.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page for browsers.")
def report(
    path: Path, by: str, since: str | None, until: str | None, as_json: bool, as_csv: bool, page: Path | None
) -> None:
    """Count the events of the log FILE, their visitors, and their messages.

    A message that was stored twice counts once. Days are in UTC; `--by campaign` is properties.campaign, else
    context.campaign.name; `--by verdict` is who opened a mail, as judge_open says; `--by reason` counts the newest
    requests that were refused, if the log keeps them.
    """
    if as_json + as_csv + (page is not None) > 1:
        raise click.UsageError("give one of --json, --csv and --html")
    with log_at(path) as store:
        selection = Selection(since, until)
        if by == "reason":
            refused = refusals(store, selection)
            table = Table(by, ("refused",), (sum(refused.values()),), {reason: (n,) for reason, n in refused.items()})
        else:
            total, counts = report_of(store, by, selection)
            table = Table(by, Counts._fields, total, dict(_with_all_days(counts) if by == "day" else counts))
    if as_json:
        rows = [{by: key} | dict(zip(table.columns, row, strict=True)) for key, row in table.rows.items()]
        click.echo(json.dumps(dict(zip(table.columns, table.total, strict=True)) | {"rows": rows}))
    elif as_csv:
        text = StringIO()
        csv.writer(text).writerows([(by, *table.columns), *((key, *row) for key, row in table.rows.items())])
        click.echo(text.getvalue(), nl=False)
    elif page is not None:
        try:
            page.write_text(_html(path, table, since, until), "utf-8")
        except OSError as error:
            raise click.ClickException(f"cannot write {page}: {error.strerror}") from error
        click.echo(f"{page} is written")
    else:
        click.echo(_text(table, sys.stdout.isatty()))


def _with_all_days(rows: dict[str, Counts]) -> dict[str, Counts]:
    """The rows, and a row of zeros for each day between the first and the last that has none."""
    try:
        first, last = (date.fromisoformat(day) for day in (min(rows), max(rows)))
    except ValueError:  # there is none, or a processor has another idea of a moment
        return rows
    if (last - first).days > MOST_DAYS:
        return rows
    days = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    return {day: rows.get(day, Counts(0, 0, 0)) for day in days}


def _label(key: str) -> str:
    return printable(key) or "(none)"


def _shown(table: Table, where: str) -> list[tuple[str, tuple[int, ...]]]:
    """The rows for people: of days the newest, else the most frequent."""
    rows, most = list(table.rows.items()), MOST_SHOWN[where]
    return rows[-most:] if table.by == "day" else rows[:most]


def _more(table: Table, shown: Sequence[object]) -> str:
    left = len(table.rows) - len(shown)
    return f"{left:,} more are in --csv and --json" if left else ""


def _text(table: Table, on_terminal: bool) -> str:
    shown = _shown(table, "terminal") if on_terminal else list(table.rows.items())
    number = "{:,}".format if on_terminal else str
    lines = [(table.by, *table.columns), *((_label(key), *map(number, row)) for key, row in shown)]
    lines.append(("all", *map(number, table.total)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if on_terminal:
        left = shutil.get_terminal_size().columns - sum(widths[1:]) - 2 * len(widths) - BAR
        widths[0] = min(widths[0], max(10, left))
    most = max((row[0] for _, row in shown), default=0) or 1
    eighths = [round(row[0] / most * BAR * 8) if on_terminal else 0 for _, row in shown]
    bars = ["", *("█" * (count // 8) + " ▏▎▍▌▋▊▉"[count % 8].strip() for count in eighths), ""]
    texts = [
        "  ".join(
            [
                (label if len(label) <= widths[0] else label[: widths[0] - 1] + "…").ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)),
                bar,
            ]
        ).rstrip()
        for (label, *cells), bar in zip(lines, bars, strict=True)
    ]
    if on_terminal and (more := _more(table, shown)):
        texts.append(more)
    return "\n".join(texts)


def _html(path: Path, table: Table, since: str | None, until: str | None) -> str:
    shown = _shown(table, "html")
    most = max((row[0] for _, row in shown), default=0) or 1
    period = f"since {since or 'the beginning'}, until {until or 'now'}"
    tiles = "".join(
        f"<div><b>{count:,}</b> {name}</div>" for name, count in zip(table.columns, table.total, strict=True)
    )
    head = f"<th>{table.by}<th class=bar>" + "".join(f"<th>{name}" for name in table.columns)
    rows = "".join(
        f'<tr><th scope=row>{escape(_label(key))}<td class=bar><i style="width:{row[0] / most:.2%}"></i>'
        + "".join(f"<td>{count:,}" for count in row)
        for key, row in shown
    )
    template = files("pixel_middleware.commands").joinpath("report.html").read_text("utf-8")
    texts = {"file": escape(path.name), "period": period, "tiles": tiles, "head": head, "rows": rows}
    texts["more"] = _more(table, shown)
    for name, text in texts.items():
        template = template.replace(f"<!-- {name} -->", text)
    return template
