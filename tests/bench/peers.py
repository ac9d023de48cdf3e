"""Other people's gateways, where they are installed: how each is started in front of the stub, in its quickest form.

None checks keys, counts or limits anything here: that is what Gatehook with everything on is compared with.
"""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.load import CHAT

__all__ = ["PEERS", "Peer", "chosen"]

UPSTREAM_KEY = "sk-upstream-0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Peer:
    """How one is started, and asked."""

    command: list[str]
    port: int = 0
    """0: it chooses one, and prints its address once it serves."""
    env: Mapping[str, str] = field(default_factory=dict)
    health: str = "/health"
    """What answers 200 to a GET once it serves."""
    path: str = CHAT
    prefix: str = ""
    """What the names of its models begin with."""


Start = Callable[[str, Path, int, str, Sequence[str]], Peer]
"""Of its program, a folder of its own, a free port, the upstream's address, and the names of the models."""


def nginx(program: str, folder: Path, port: int, upstream: str, _models: Sequence[str]) -> Peer:
    """One worker, connections kept on both sides, nothing buffered."""
    kept = "keepalive_requests 1000000000; keepalive_timeout 3600s;"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""
        worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 8192; }}
        http {{
          access_log off; {kept} {paths}
          client_body_buffer_size 256k;
          upstream stub {{ server {upstream.removeprefix("http://")}; keepalive 2048; {kept} }}
          server {{
            listen 127.0.0.1:{port};
            location / {{
              proxy_pass http://stub; proxy_http_version 1.1; proxy_buffering off;
              proxy_set_header Connection ""; proxy_set_header Authorization "Bearer {UPSTREAM_KEY}";
            }}
          }}
        }}
        """
    )
    return Peer([program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], port)


def litellm(program: str, folder: Path, port: int, upstream: str, models: Sequence[str]) -> Peer:
    """One worker, no database, no keys, production mode."""
    listed = [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": UPSTREAM_KEY},
        }
        for model in models
    ]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": listed, "litellm_settings": {"num_retries": 0}}))  # JSON is YAML
    options = ["--num_workers", "1", "--telemetry", "False"]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), *options]
    return Peer(command, port, env, health="/health/liveliness")


TENSORZERO = """
import asyncio, sys, tensorzero

async def serve():
    gateway = tensorzero._start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True
    )
    gateway = await gateway
    print(gateway.base_url, flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""


def tensorzero(program: str, folder: Path, _port: int, upstream: str, models: Sequence[str]) -> Peer:
    """Its gateway in Rust, as the package for Python has it; without observability."""
    lines = ["[gateway]", "observability.enabled = false"]
    for model in models:
        lines += [f"[models.{model}]", 'routing = ["stub"]', f"[models.{model}.providers.stub]", 'type = "openai"']
        lines += [f'model_name = "{model}"', f'api_base = "{upstream}/v1/"', 'api_key_location = "none"']
    config = folder / "tensorzero.toml"
    config.write_text("\n".join(lines))
    path, prefix = "/openai/v1/chat/completions", "tensorzero::model_name::"
    return Peer([program, "-c", TENSORZERO, str(config)], path=path, prefix=prefix)


def sglang(program: str, _folder: Path, port: int, upstream: str, _models: Sequence[str]) -> Peer:
    """SGLang's router in Rust, passing on to a server that speaks OpenAI's API; without retries and health checks."""
    module = ["-m", "sglang_router.launch_router", "--backend", "openai", "--worker-urls", upstream]
    off = ["--disable-retries", "--disable-circuit-breaker", "--disable-health-check", "--history-backend", "none"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(port + 1), "--log-level", "error"]
    return Peer([program, *module, *off, *where], port)


PEERS: Mapping[str, Start] = {"nginx": nginx, "sglang": sglang, "tensorzero": tensorzero, "litellm": litellm}

_PACKAGES = {"sglang": "sglang_router", "tensorzero": "tensorzero"}
"""Those that are started by the Python that has their package; the others are programs."""


def chosen(text: str) -> dict[str, str]:
    """The peers of `--peers`, each with its program: ``all``, or names by commas, as in ``nginx,litellm=PROGRAM``.

    PROGRAM is a path; of `sglang` and `tensorzero` that of the Python which has their package.

    Raises:
        ValueError: an unknown name, or one that is named and not found.
    """
    if text == "all":
        return {name: program for name in PEERS if (program := _found(name))}
    peers: dict[str, str] = {}
    for part in _parts(text):
        name, _, program = part.partition("=")
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}: there are {', '.join(PEERS)}")
        if not (where := shutil.which(program) if program else _found(name)):
            raise ValueError(f"{program or name} is not found: install it, or write {name}=PATH")
        peers[name] = where
    return peers


def _parts(text: str) -> Iterable[str]:
    return (part for part in text.split(",") if part)


def _found(name: str) -> str | None:
    """Its program on this machine."""
    if package := _PACKAGES.get(name):
        return sys.executable if importlib.util.find_spec(package) else None
    return (
        shutil.which(name, path=str(Path(sys.executable).parent))
        or shutil.which(name)
        or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    )
