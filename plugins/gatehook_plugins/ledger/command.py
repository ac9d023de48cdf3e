"""`gatehook usage`: who used how much, as a table."""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import get_args

from gatehook import DATABASE, GatewayError, Services, StartupError, dollars
from gatehook_plugins.ledger.queries import By, Total
from gatehook_plugins.ledger.service import GroupLedger

__all__ = ["UsageCommand", "since"]

_HEAD = ("requests", "failed", "prompt tokens", "completion tokens", "tokens", "cost in $")
_SPAN = re.compile(r"(\d{1,5})([hd])", re.ASCII)
_HOUR = 3_600_000


def since(text: str, now: int) -> int:
    """Epoch milliseconds from "24h", "7d" (before `now`) or "2026-11-01" (its beginning, UTC).

    Raises:
        argparse.ArgumentTypeError: it is written in none of these ways.
    """
    if match := _SPAN.fullmatch(text):
        return now - int(match[1]) * _HOUR * (24 if match[2] == "d" else 1)
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a span, as 24h or 7d, nor a day, as 2026-11-01"
        ) from None
    return int(day.timestamp() * 1000)


class UsageCommand:
    """Asks the ledger and prints. No gateway has to serve; one that does may go on meanwhile."""

    def __init__(self, ledger: GroupLedger, services: Services) -> None:
        self._ledger = ledger
        self._services = services

    def run(self, words: Sequence[str]) -> int:
        """Print what the words ask for.

        Raises:
            StartupError: the database cannot be asked.
        """
        now = int(time.time() * 1000)
        options = _parser(now).parse_args(words)
        try:
            totals = asyncio.run(self._totals(options, now))
        except GatewayError as error:
            raise StartupError(error.message) from error
        if options.json:
            sys.stdout.write(json.dumps([_as_json(one, options.by) for one in totals], indent=2) + "\n")
        else:
            sys.stdout.write(_table(totals, options.by))
        return 0

    async def _totals(self, options: argparse.Namespace, now: int) -> Sequence[Total]:
        async with self._services[DATABASE].opened():
            await self._ledger.migrate()
            return await self._ledger.totals(
                options.by, options.since, now + 1, user_id=options.user, model=options.model
            )


def _parser(now: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatehook usage", description="Show what was used, as the ledger has it.")
    parser.add_argument("--user", metavar="ID", help="of this user only")
    parser.add_argument("--model", metavar="NAME", help="of this model only")
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=lambda text: since(text, now),
        default="30d",
        help="a span, as 24h or 7d, or a day (UTC), as 2026-11-01; default: %(default)s",
    )
    parser.add_argument("--by", choices=get_args(By), default="model", help="what a line stands for; default: model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _name(total: Total, by: By) -> str:
    if by == "day":
        return date.fromordinal(_EPOCH + int(total.name)).isoformat()
    return str(total.name)


_EPOCH = date(1970, 1, 1).toordinal()


def _as_json(total: Total, by: By) -> dict[str, object]:
    return {
        by: _name(total, by),
        "requests": total.requests,
        "failed": total.failed,
        "unpriced": total.unpriced,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "cost": dollars(total.cost),
    }


def _table(totals: Sequence[Total], by: By) -> str:
    if not totals:
        return "nothing was used\n"
    sums = Total("", *(sum(figures) for figures in list(zip(*totals, strict=True))[1:]))
    lines = [(by, *_HEAD), *((_name(one, by) or "-", *_cells(one)) for one in totals), ("total", *_cells(sums))]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    text = [_line(line, widths) for line in lines]
    text.insert(-1, "-" * len(text[0]))
    if sums.unpriced:
        text.append(f"The cost of {sums.unpriced:,} requests is not known: their model had no pricing.")
    return "\n".join(text) + "\n"


def _cells(one: Total) -> tuple[str, ...]:
    figures = (one.requests, one.failed, one.prompt_tokens, one.completion_tokens)
    tokens = one.prompt_tokens + one.completion_tokens
    return (*(f"{figure:,}" for figure in (*figures, tokens)), f"{dollars(one.cost):,.6f}")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *figures = cells
    return "  ".join([first.ljust(widths[0]), *(c.rjust(width) for c, width in zip(figures, widths[1:], strict=True))])
