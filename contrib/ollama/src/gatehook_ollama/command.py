"""`gatehook ollama list | pull MODEL | remove MODEL`."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

from gatehook import Egress, GatewayError, Target
from gatehook_ollama.library import Library, Pulling

__all__ = ["OllamaCommand"]


class OllamaCommand:
    """The command. It talks to the server directly, so no gateway needs to run."""

    def __init__(self, egress: Egress, base_url: str) -> None:
        self._egress = egress
        self._base_url = base_url

    def __call__(self, words: Sequence[str]) -> int:
        """Run the command; gives the exit status."""
        options = self._parser().parse_args(words)
        try:
            asyncio.run(self._run(options))
        except GatewayError as error:
            sys.stderr.write(f"{error.message}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("\nstopped; pull it again to go on\n")
            return 130
        return 0

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog="gatehook ollama", description="The models of an Ollama server.")
        parser.add_argument("--server", default=self._base_url, help="its address (default: %(default)s)")
        words = parser.add_subparsers(dest="word", required=True)
        words.add_parser("list", help="list the server's models")
        for word, told in (("pull", "download a model from the registry"), ("remove", "delete a model")):
            words.add_parser(word, help=told).add_argument("model")
        return parser

    async def _run(self, options: argparse.Namespace) -> None:
        model = getattr(options, "model", "")
        target = Target("ollama", model, "ollama", model, base_url=options.server)
        async with self._egress.lifespan():
            library = Library(self._egress, target)
            if options.word == "list":
                await _list(library)
            elif options.word == "pull":
                await _pull(library, model)
            else:
                await library.remove(model)


async def _list(library: Library) -> None:
    for model in await library.models():
        details = model.get("details") or {}
        kind = " ".join(str(details[name]) for name in ("parameter_size", "quantization_level") if details.get(name))
        size = model.get("size") or 0
        sys.stdout.write(f"{model.get('name', '?'):40} {size / 1e9:8.1f} GB  {kind}\n")


async def _pull(library: Library, model: str) -> None:
    """Print each step once; on a terminal, one line that shows the progress."""
    live, last = sys.stdout.isatty(), ""
    async with contextlib.aclosing(library.pull(model)) as states:
        async for state in states:
            if live:
                sys.stdout.write(f"\r\033[K{_progress(state)}")
            elif state.status != last:
                sys.stdout.write(f"{state.status}\n")
            last = state.status
            sys.stdout.flush()
    if live:
        sys.stdout.write("\n")


def _progress(state: Pulling) -> str:
    if not state.total:
        return state.status
    return f"{state.status}: {100 * state.completed // state.total} % of {state.total / 1e9:.1f} GB"
