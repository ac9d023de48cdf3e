"""The files of contrib/deploy name what there is: metrics, settings, paths; and the tools that are here accept them."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from aiohttp import ClientSession

from gatehook import Call, Outcome
from gatehook.app import Gateway
from gatehook.calls.record import Record
from gatehook.config.settings import load
from gatehook.errors import StartupError
from gatehook.testing import available, serving
from gatehook_plugins.jobs.tables import STATUSES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "contrib" / "deploy"
CHART = DEPLOY / "helm" / "gatehook"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
ENVIRON = {
    "GATEWAY_ADMIN_KEY": "0123456789abcdef0",
    "OPENAI_API_KEY": "k" * 20,
    "GATEHOOK_DATABASE__URL": "postgresql+asyncpg://a:b@postgres/c",
    "GATEHOOK_DATABASE__SECRET": "0" * 64,
    "GATEHOOK_REDIS__URL": "redis://redis:6379/0",
}
WATCHED = """
[plugins.openai_api]
[plugins.route_models]
[plugins.vendor_mock]
[plugins.cooldown]
[plugins.health]
[plugins.database]
[plugins.jobs]
[plugins.metrics]
plugin_times = true
[[models]]
name = "m"
vendor = "mock"
model = "echo"
"""


def expressions(value: Any) -> Iterator[str]:
    """Every `expr` of a dashboard or of rules."""
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "expr":
                yield one
            else:
                yield from expressions(one)
    elif isinstance(value, list):
        for one in value:
            yield from expressions(one)


DASHBOARD = json.loads((DEPLOY / "grafana" / "gatehook.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text("utf-8"))
EXPRESSIONS = [*expressions(DASHBOARD), *expressions(RULES)]
METRIC = re.compile(r"\b(?:gateway|http)_[a-z_]+")
LABELS = re.compile(r"(?:by|without) \(([a-z_, ]+)\)|([a-z_]+)(?:=~|!~|!=|=)\"")


@pytest.fixture
def watched(tmp_path: Path) -> str:
    """A gateway's settings with everything on that has metrics."""
    return f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/gatehook.db"\n{WATCHED}'


async def test_each_metric_and_label_that_is_named_exists(watched: str) -> None:
    async with serving(watched) as served, ClientSession(served.url) as session:
        for model, stream in (("m", False), ("m", True)):
            body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
            async with session.post("/v1/chat/completions", json=body) as answer:
                await answer.read()
        async with session.get("/metrics") as answer:
            page = await answer.text()
    told = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE ")}
    kinds = {name + suffix for name in told for suffix in ("", "_bucket", "_count", "_sum")}
    used = {name for expression in EXPRESSIONS for name in METRIC.findall(expression)}
    assert len(used) > 6
    assert used - kinds == set()
    labels = {label for line in page.splitlines() for label in re.findall(r'[{,]([a-z_]+)="', line)}
    named = {
        label
        for expression in EXPRESSIONS
        for grouped, matched in LABELS.findall(expression)
        for label in (grouped.split(", ") if grouped else [matched])
    }
    assert named - labels - {"le", "job", "instance", "deployment"} == set()


def test_each_value_that_a_label_is_compared_with_is_one_that_it_has() -> None:
    """A rule that waits for a word nobody says is silent for ever."""
    gone = Record(Call("chat", "openai", {}))
    gone.client_left()
    known = {
        "outcome": set(get_args(get_type_hints(Outcome)["status"])),
        "status": set(STATUSES),
        "code": {gone.outcome().code},
        "job": {"gatehook"},  # the scrape's name, which the operator gives
    }
    compared = {
        (label, word)
        for expression in EXPRESSIONS
        for label, words in re.findall(r"([a-z_]+)(?:=~|!~|!=|=)\"([^\"]*)\"", expression)
        for word in words.split("|")
    }
    assert len(compared) > 6
    assert {(label, word) for label, word in compared if word not in known[label]} == set()


def test_dashboard_and_rules_are_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 8
    assert all(panel["targets"] and panel["title"] for panel in panels)
    for rule in RULES["groups"][0]["rules"]:
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning")
    for expression in EXPRESSIONS:
        assert expression.count("(") == expression.count(")"), expression


def gateway(text: str, tmp_path: Path, environ: Mapping[str, str]) -> Gateway:
    """Built, with every plugin's settings checked; it opens nothing."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Gateway(load(file, environ=environ), available({}))


def test_the_settings_of_compose_and_chart_are_right(tmp_path: Path) -> None:
    for text in ((DEPLOY / "compose" / "settings.toml").read_text("utf-8"), VALUES["settings"]):
        built = gateway(text, tmp_path, ENVIRON)
        assert built.settings.server.host == "0.0.0.0"
        built.require_safe()


def test_what_the_readme_gives_a_single_container_is_enough(tmp_path: Path) -> None:
    run = " ".join((DEPLOY / "README.md").read_text("utf-8").partition("docker run ")[2].partition("\n\n")[0].split())
    environ = dict(given.partition("=")[::2] for given in re.findall(r"--env (\S+)", run))
    assert environ.pop("GATEHOOK_DATABASE__URL").startswith("sqlite:////var/lib/gatehook/")
    file = tmp_path / "settings.toml"
    file.write_bytes((DEPLOY / "compose" / "settings.toml").read_bytes())
    environ["GATEHOOK_DATABASE__URL"] = f"sqlite:///{tmp_path}/gatehook.db"
    Gateway(load(file, environ=environ)).require_safe()


def test_what_is_kept_lies_where_it_can_be_written_and_stays() -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
    assert "state:/var/lib/gatehook" in compose["services"]["gatehook"]["volumes"]
    book = (DEPLOY / "README.md").read_text("utf-8").split("```toml\n")[1].split("```")[0]
    for text in ((DEPLOY / "compose" / "settings.toml").read_text("utf-8"), VALUES["settings"], book):
        given = tomllib.loads(text)
        url = given.get("database", {}).get("url", "")
        assert not url or url.startswith("sqlite:////var/lib/gatehook/")
        for name in {"ledger", "files"} & given["plugins"].keys():
            assert given["plugins"][name]["directory"].startswith("/var/lib/gatehook/"), name


def test_a_wrong_setting_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="prot"):
        gateway("[server]\nprot = 1\n", tmp_path, {})


def test_compose_gives_every_variable_and_waits_for_answers_to_end(tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
    gateway = compose["services"]["gatehook"]
    assert set(gateway["environment"]) == set(ENVIRON)
    assert set(gateway["depends_on"]) <= set(compose["services"])
    wanted = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose" / "compose.yaml").read_text("utf-8")))
    offered = set(re.findall(r"^(\w+)=", (DEPLOY / "compose" / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert wanted == offered
    grace = load(ROOT / "settings.toml", environ={}).server.shutdown_grace
    assert int(gateway["stop_grace_period"].removesuffix("s")) > grace + 20
    assert VALUES["terminationGracePeriodSeconds"] > grace + 20
    unit = (DEPLOY / "systemd" / "gatehook.service").read_text("utf-8")
    assert int(re.findall(r"TimeoutStopSec=(\d+)", unit)[0]) > grace + 20


def test_the_image_runs_as_nobody_and_copies_what_there_is() -> None:
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    assert "USER 10001:10001" in lines
    assert sum(line.startswith("FROM ") for line in lines) == 2
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def test_the_templates_name_values_that_there_are_and_their_braces_close() -> None:
    for file in (CHART / "templates").iterdir():
        text = file.read_text("utf-8")
        assert text.count("{{") == text.count("}}")
        opened = len(re.findall(r"\{\{-? (?:if|with|range|define) ", text))
        assert opened == len(re.findall(r"\{\{-? end -?\}\}", text)), file.name
        for path in re.findall(r"\.Values\.([\w.]+)", text):
            value: Any = VALUES
            for step in path.split("."):
                assert step in value, f"{file.name}: {path}"
                value = value[step]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    version = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[0]
    assert chart["appVersion"] == version


def test_the_proxies_are_told_of_the_socket_and_keep_no_stream_back() -> None:
    socket = "/run/gatehook/gatehook.sock"
    assert f"UDS_PATH={socket}" in (DEPLOY / "systemd" / "gatehook.service").read_text("utf-8")
    nginx = (DEPLOY / "nginx" / "gatehook.conf").read_text("utf-8")
    assert f"unix:{socket}" in nginx
    assert "proxy_buffering off;" in nginx
    assert nginx.count("{") == nginx.count("}")
    envoy = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text("utf-8"))["static_resources"]
    endpoint = envoy["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["pipe"]["path"] == socket


async def test_the_proxies_hide_all_that_shows_the_metrics_without_a_key(watched: str) -> None:
    nginx = (DEPLOY / "nginx" / "gatehook.conf").read_text("utf-8")
    denied = re.findall(r"location ~ (\S+) \{\s+deny all;", nginx)[0]
    envoy = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text("utf-8"))["static_resources"]
    manager = envoy["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["normalize_path"]
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    hidden = {route["match"].get("path") for route in routes if "direct_response" in route}
    async with serving(watched) as served, ClientSession(served.url) as session:
        shown = [route.get_info().get("path", "") for route in served.gateway.app().router.resources()]
        open_paths = []
        for path in shown:
            async with session.get(path) as answer:
                if b"# TYPE " in await answer.read():
                    open_paths.append(path)
    assert len(open_paths) > 1
    assert all(re.search(denied, path) and path in hidden for path in open_paths)


async def test_the_paths_of_the_probes_are_served(watched: str) -> None:
    template = (CHART / "templates" / "deployment.yaml").read_text("utf-8")
    paths = set(re.findall(r"httpGet: \{path: ([/\w]+)", template))
    paths |= set(re.findall(r"8080(/[/\w]+)", (DEPLOY / "Dockerfile").read_text("utf-8")))
    assert len(paths) == 2
    async with serving(watched) as served, ClientSession(served.url) as session:
        for path in paths:
            async with session.get(path) as answer:
                assert answer.status == 200


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "gatehook.service").read_text("utf-8")
    unit = unit.replace("/opt/gatehook/bin/gatehook", "/bin/true")  # which is not installed here
    (tmp_path / "gatehook.service").write_text(unit)
    words = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "gatehook.service")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "gatehook.service" in line] == []


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_takes_the_sample(tmp_path: Path) -> None:
    text = (DEPLOY / "nginx" / "gatehook.conf").read_text("utf-8")
    text = re.sub(r"ssl_certificate.*;", "", text.replace("listen 443 ssl ", "listen 8443 "))
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{text}\n}}\n")
    words = ["nginx", "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_helm_takes_the_chart() -> None:
    done = subprocess.run(["helm", "lint", "--strict", str(CHART)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
