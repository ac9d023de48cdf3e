"""Who runs side by side, and how each is started."""

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.host import Process, StartError, cpu_seconds, free_port, get
from tests.bench.load import CHAT, EVENTS, Address, Request, chat_request
from tests.bench.peers import PEERS, Peer
from tests.certificates import Authority

HERE = Path(__file__).parent
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
MODEL = "mock-n64"  # 64 content events in one write
PACED_MODEL = "mock-n64-d10000"  # 64 content events, one every 10 ms
SLOW_MODEL = "mock-n64-d20000"  # 64 content events, one every 20 ms
FIRST_MODEL = "mock-n8-d10000"  # 8 content events, one every 10 ms
TLS_MODEL = "tls-mock-n64"  # the same at an https:// address
ANTHROPIC_MODEL = "claude-mock"
GEMINI_MODEL = "gemini-mock"
OPENAI_MODELS = (MODEL, PACED_MODEL, SLOW_MODEL, FIRST_MODEL)
KNOWN = ("direct", "bare", "gatehook", "accounts")
"""`accounts` is Gatehook with keys in a database, rate limits, budgets and the ledger on."""

ACCOUNTS = ("database", "ledger", "quota", "rate_limit")
OURS = ("gatehook", "accounts")
PLUGINS = ("health", "openai_api", "route_models", "metrics", "vendor_openai", "vendor_anthropic", "vendor_gemini")


@dataclass(frozen=True, slots=True)
class Contestant:
    """An address to put load on; `process` is what its CPU time and memory are read from, where there is one."""

    name: str
    address: Address
    process: Process | None = None
    key: str = KEY
    path: str = CHAT
    prefix: str = ""
    """What the names of its models begin with."""

    def cpu(self) -> float:
        return cpu_seconds(self.process.pid) if self.process else 0.0

    def request(self, model: str, *, stream: bool, events: int = EVENTS) -> Request:
        authority = "{}:{}".format(*self.address)
        return chat_request(authority, self.key, self.prefix + model, stream=stream, events=events, path=self.path)


def start_stub(core: int, stack: ExitStack) -> Process:
    """Start the upstream; the stack stops it."""
    port = free_port()
    return started("stub", [sys.executable, str(HERE / "stub.py"), "--port", str(port)], port, core, stack)


@dataclass(frozen=True, slots=True)
class TLSStub:
    """The upstream at an https:// address; `authority` is the file of the certificate that vouches for it."""

    url: str
    authority: Path


def start_tls_stub(core: int, stack: ExitStack) -> TLSStub:
    """Start the upstream with TLS; the stack stops it."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehook-bench-")))
    authority, chain, known = Authority(), folder / "chain.pem", folder / "authority.pem"
    chain.write_bytes(authority.chain("127.0.0.1"))
    known.write_text(authority.pem)
    process = started(
        "TLS stub", [sys.executable, str(HERE / "stub.py"), "--port", "0", "--chain", str(chain)], 0, core, stack
    )
    return TLSStub(f"https://127.0.0.1:{process.port}", known)


def started(name: str, command: list[str], port: int, core: int, stack: ExitStack, cwd: Path | None = None) -> Process:
    """A server that is ready; the stack stops it."""
    return ready(name, Peer(command, port), core, stack, cwd)


def ready(name: str, peer: Peer, core: int, stack: ExitStack, cwd: Path | None) -> Process:
    """The same, for whatever is started and asked in a way of its own.

    Raises:
        StartError: it does not come up.
    """
    process = Process(name, peer.command, peer.port, core, cwd, peer.env)
    stack.callback(process.stop)
    if peer.port:
        process.wait_ready(peer.health)
    else:
        process.wait_told()
    return process


def start(name: str, stub: Process, tls: TLSStub, core: int, stack: ExitStack) -> Contestant:
    """Start one of the known contestants in front of the stubs; `direct` is the first itself. The stack stops it."""
    if name == "direct":
        return Contestant(name, ("127.0.0.1", stub.port))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehook-bench-")))
    port, upstream, key, env = free_port(), f"http://127.0.0.1:{stub.port}", KEY, {}
    if name == "bare":
        command = [sys.executable, str(HERE / "bare_proxy.py"), "--port", str(port), "--upstream", upstream]
        command += ["--tls-upstream", tls.url]
        env["SSL_CERT_FILE"] = str(tls.authority)
    else:
        settings = write_settings(folder, port, upstream, accounts=name == "accounts", tls=tls)
        command = [gatehook_command(), "serve", "--config", str(settings)]
        if name == "accounts":
            key = create_key(settings)
    process = ready(name, Peer(command, port, env=env), core, stack, folder)
    if name in OURS:
        check_features(port, key)
    return Contestant(name, ("127.0.0.1", port), process, key)


def start_peer(name: str, program: str, stub: Process, core: int, stack: ExitStack) -> Contestant:
    """Start somebody else's gateway in front of the stub; the stack stops it.

    Raises:
        StartError: it does not come up.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatehook-bench-")))
    peer = PEERS[name](program, folder, free_port(), f"http://127.0.0.1:{stub.port}", OPENAI_MODELS)
    process = ready(name, peer, core, stack, folder)
    return Contestant(name, ("127.0.0.1", process.port), process, path=peer.path, prefix=peer.prefix)


def versus(text: str) -> Contestant:
    """`NAME=http://HOST:PORT`: somebody else's server, already running; its CPU time is not known."""
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    if not name or not parts.hostname:
        raise ValueError(f"{text}: write NAME=http://HOST:PORT")
    return Contestant(name, (parts.hostname, parts.port or 80))


def gatehook_command() -> str:
    """The `gatehook` of this interpreter's environment."""
    found = shutil.which("gatehook", path=str(Path(sys.executable).parent)) or shutil.which("gatehook")
    if found is None:
        raise StartError("no `gatehook` command: run `make install` first")
    return found


def create_key(settings: Path) -> str:
    """A key in the database, of a user with every kind of limit and cap, none of which is ever reached."""

    def gatehook(*words: str) -> str:
        done = subprocess.run(
            [gatehook_command(), *words, "--config", str(settings)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StartError(f"gatehook {' '.join(words)}: {done.stderr}")
        return done.stdout

    key = json.loads(gatehook("keys", "create", "--user", "bench", "--json"))["key"]
    much = str(10**9)
    gatehook("users", "set", "bench", "--rpm", much, "--tpm", much, "--tokens", much, "--budget-per-month", "1000000")
    return str(key)


def write_settings(folder: Path, port: int, upstream: str, *, accounts: bool, tls: TLSStub | None = None) -> Path:
    """Settings with auth, routing and metrics on, and nothing that a plain gateway would not have; or with accounts."""
    lines = ["[server]", 'host = "127.0.0.1"', f"port = {port}", ""]
    for plugin in (*PLUGINS, *(ACCOUNTS if accounts else ())):
        lines += [f"[plugins.{plugin}]", "enabled = true", ""]
    lines += ["[plugins.auth_keys]", "enabled = true", f"keys = {json.dumps([] if accounts else [KEY])}", ""]
    models = [(model, "openai", f"{upstream}/v1") for model in OPENAI_MODELS]
    models += [(ANTHROPIC_MODEL, "anthropic", upstream), (GEMINI_MODEL, "gemini", upstream)]
    if tls is not None:
        lines += ["[egress]", f'ca_certificates = "file:{tls.authority}"', ""]
        models.append((TLS_MODEL, "openai", f"{tls.url}/v1"))
    for model, vendor, base_url in models:
        lines += ["[[models]]", f'name = "{model}"', f'vendor = "{vendor}"', f'model = "{model}"']
        lines += [f'base_url = "{base_url}"', 'api_key = "sk-upstream-0123456789abcdef"']
        lines += ["pricing = { input_per_1k_tokens = 0.0025, output_per_1k_tokens = 0.01 }", ""]
    path = folder / "settings.toml"
    path.write_text("\n".join(lines))
    return path


def check_features(port: int, key: str) -> None:
    """Without these a benchmark would flatter: a key is really asked for, metrics are really there."""
    content = {"Content-Type": "application/json"}
    if (status := get(port, "/v1/chat/completions", content, method="POST", body=b"{}")) != 401:
        raise StartError(f"gatehook answered {status} to a chat request without a key; 401 was to be expected")
    if (status := get(port, "/metrics", {"Authorization": f"Bearer {key}"})) == 404:
        raise StartError("gatehook has no /metrics: the metrics plugin is not on")
