"""How soon Gatehook is there, and how large it is: the plugin API imported, then `gatehook serve` until it answers.

`shipped` are the settings as they are shipped; `all` has every plugin of theirs switched on that needs no other server,
with a database that an earlier start has made. Modules are compiled beforehand, as an installation has them.

    python tests/bench/start.py                 half a minute
    python tests/bench/start.py --strict        exit with 1 when an aim is missed
"""

import argparse
import http.client
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started as a file, imported as a package

from tests.bench.contestants import gatehook_command
from tests.bench.host import family, free_port, get, resident_bytes, unshared_bytes

SHIPPED = Path(__file__).resolve().parents[2] / "settings.toml"
LIMIT = 30.0  # seconds a start may take
MEGA = 1e6
IMPORT = "import time; begun = time.perf_counter(); from gatehook import *; print(time.perf_counter() - begun)"
NEEDED = {"auth_keys": f'keys = ["sk-{"k" * 32}"]', "auth_jwt": f'secret = "{"s" * 40}"'}
"""What plugins cannot be switched on without."""

LIBRARIES = {"vendor_gguf": "llama_cpp"}
"""What some cannot work without."""


@dataclass(slots=True)
class Starts:
    """What was found of one kind of settings; seconds and bytes."""

    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """Of the process that serves, what it shares with its parent included, as that is with it."""
    own: list[int] = field(default_factory=list)
    """Of it, what it shares counted by its part."""
    both: list[int] = field(default_factory=list)
    """Of both processes, what they share counted once."""


def environment(cache: Path) -> dict[str, str]:
    """This one's, without what would change the settings; compiled modules are kept in `cache`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GATEHOOK_", "LISTEN_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"PYTHONPYCACHEPREFIX": str(cache)}


def import_seconds(env: Mapping[str, str]) -> float:
    """How long a fresh Python takes to import the plugin API."""
    done = subprocess.run([sys.executable, "-c", IMPORT], env=env, cwd="/", capture_output=True, check=True)
    return float(done.stdout)


def write_settings(folder: Path, port: int, *, everything: bool) -> Path:
    """The shipped settings, on another port; with all plugins on that need no other server, if `everything`."""
    text = re.sub(r"^port = .*", f"port = {port}", SHIPPED.read_text("utf-8"), count=1, flags=re.MULTILINE)
    if everything:
        text = re.sub(r"^enabled = false", "enabled = true", text, flags=re.MULTILINE)
        absent = [name for name, library in LIBRARIES.items() if importlib.util.find_spec(library) is None]
        local = [f"[plugins.{name}]\n{line}\n" for name, line in NEEDED.items()]
        local += [f"[plugins.{name}]\nenabled = false\n" for name in absent]
        (folder / "settings.local.toml").write_text("".join(local))
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def start(settings: Path, port: int, env: Mapping[str, str], found: Starts) -> None:
    """Start, wait for the first answer, weigh, stop."""
    begun = time.perf_counter()
    command = [gatehook_command(), "serve", "--config", str(settings)]
    with subprocess.Popen(command, cwd=settings.parent, env=env, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        try:
            while not answers(port):
                if process.poll() is not None or time.perf_counter() > begun + LIMIT:
                    raise SystemExit(f"the gateway does not start:\n{(process.stderr.read() or b'').decode()}")
                time.sleep(0.002)
            found.seconds.append(time.perf_counter() - begun)
            time.sleep(0.3)  # what follows the first answer
            parent, *workers = family(process.pid)
            found.resident.append(max(map(resident_bytes, workers)))
            found.own.append(max(map(unshared_bytes, workers)))
            found.both.append(sum(map(unshared_bytes, [parent, *workers])))
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        return get(port, "/health/live") == 200
    except (OSError, http.client.HTTPException):
        return False


def told(text: str, values: Sequence[float], unit: str, limit: float) -> bool:
    """Print one line; does it hold?"""
    middle = statistics.median(values)
    word = "ok  " if middle <= limit else "MISS"
    print(f"{word}  {text:44} {middle:6.3g} {unit} ({min(values):.3g} to {max(values):.3g}), at most {limit:g}")
    return middle <= limit


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=7, help="starts of each kind; default 7")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an aim is missed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatehook-bench-") as name:
        env = environment(Path(name) / "compiled")
        imports = [import_seconds(env) for _ in range(args.times + 1)][1:]
        found = {kind: Starts() for kind in ("shipped", "all")}
        for kind, starts in found.items():
            folder, port = Path(name) / kind, free_port()
            folder.mkdir()
            settings = write_settings(folder, port, everything=kind == "all")
            start(settings, port, env, Starts())  # compiles, and makes the database
            for _ in range(args.times):
                start(settings, port, env, starts)
    held = [told("from gatehook import *", imports, "s", 0.2)]
    for kind, starts in found.items():
        held.append(told(f"first answer, {kind}", starts.seconds, "s", 0.6))
        held.append(
            told(f"memory of the process that serves, {kind}", [size / MEGA for size in starts.resident], "MB", 60)
        )
        print(f"      its part of what it shares                   {statistics.median(starts.own) / MEGA:6.3g} MB")
        held.append(told(f"memory of it and its parent, {kind}", [size / MEGA for size in starts.both], "MB", 60))
    return 0 if all(held) or not args.strict else 1


if __name__ == "__main__":
    sys.exit(main())
