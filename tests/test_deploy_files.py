"""The files of deploy/: what they promise the server keeps, and what they name exists."""

import ast
import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from light_tts.cli import build_parser
from light_tts.metrics import Metrics
from light_tts.server.app import create_app
from light_tts.settings import Settings
from light_tts.settings_loader import load_settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SERVICE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["light-tts"]
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]


def instructions():
    """(word, rest) of the Dockerfile, with continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def probe_of(words):
    """The program of a health check, compiled, as it would be run."""
    assert words[:2] == ["python", "-c"]
    return ast.unparse(ast.parse(words[2]))


def test_compose_gives_the_container_what_the_guides_ask_for():
    resources = SERVICE["deploy"]["resources"]
    assert resources["limits"]["memory"] == "32G"
    assert resources["reservations"]["memory"] == "16G"
    assert resources["reservations"]["devices"] == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert SERVICE["shm_size"] == "4g"
    assert SERVICE["ulimits"] == {"memlock": -1, "stack": 67108864, "nofile": 65536}
    assert {"OMP_NUM_THREADS", "NCCL_IB_DISABLE"} <= SERVICE["environment"].keys()
    assert SERVICE["restart"] == "unless-stopped"
    assert SERVICE["healthcheck"]["test"][0] == "CMD"
    assert "/readiness" in probe_of(SERVICE["healthcheck"]["test"][1:])
    assert (ROOT / SERVICE["build"]["dockerfile"]).is_file()


def test_the_variables_of_compose_are_settings():
    given = {name: value for name, value in SERVICE["environment"].items() if value is not None}
    loaded = load_settings({}, environment=given)
    assert loaded.warnings == ()
    assert loaded.settings.server.health_monitor
    assert loaded.settings.server.health_check_interval_s == 10
    seconds = float(SERVICE["stop_grace_period"].removesuffix("s"))
    assert seconds > loaded.settings.server.drain_timeout_s


def test_the_image_runs_as_nobody_special_and_asks_whether_it_is_ready():
    words = dict(instructions())
    assert words["USER"] not in ("root", "0")
    assert words["EXPOSE"] == "8080"
    assert json.loads(words["ENTRYPOINT"]) == ["light-tts"]
    assert json.loads(words["CMD"]) == ["serve"]
    assert "/readiness" in probe_of(json.loads(words["HEALTHCHECK"].partition("CMD ")[2]))
    environment = dict(re.findall(r"(\w+)=(\S+)", " ".join(rest for word, rest in instructions() if word == "ENV")))
    server = load_settings({}, environment=environment).settings.server
    assert (server.host, server.port) == ("0.0.0.0", 8080)


def test_the_image_is_built_from_files_that_reach_it():
    sent = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


def test_the_image_names_no_place_to_install_from():
    text = " ".join(rest for _, rest in instructions())
    assert re.findall(r"https?://(?!127\.0\.0\.1)\S+", text) == []
    assert re.search(r"FROM \S+\.\S+/", (DEPLOY / "Dockerfile").read_text("utf-8")) is None


def test_the_unit_starts_a_server_that_drains_and_comes_back_when_it_fails():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "light-tts@.service", "utf-8")
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    assert service["KillSignal"] == "SIGTERM"
    assert service["LimitNOFILE"] == "65536"
    words = shlex.split(service["ExecStart"].replace("%i", "8081"))[1:]
    assert words[0] == "serve"
    build_parser().parse_args(words)
    assert float(service["TimeoutStopSec"]) > Settings().server.drain_timeout_s
    assert service["RestartPreventExitStatus"] == "2"  # of a mistake in the settings


def test_nginx_does_not_buffer():
    text = (DEPLOY / "nginx.conf").read_text("utf-8")
    assert re.findall(r"proxy_buffering \w+;", text) == ["proxy_buffering off;"]
    for line in ("least_conn;", "keepalive 32;", "client_max_body_size 50m;", "proxy_connect_timeout 5s;",
                 "proxy_send_timeout 300s;", "proxy_read_timeout 300s;"):  # fmt: skip
        assert line in text


@pytest.mark.parametrize("name", ["sysctl.conf", "limits.conf"])
def test_lines_of_the_kernels_files_have_their_form(name):
    form = {"sysctl.conf": r"[a-z_.]+ = \d+", "limits.conf": r"\S+ (soft|hard) nofile \d+"}[name]
    lines = [line for line in (DEPLOY / name).read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(form, line)] == []


def series():
    """Name of every series of an idle server -> its labels."""
    labels = {}
    for line in create_app(None, Settings()).state.server.observer.page().decode().splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? ", line):
            labels.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return labels


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_series_that_exist(query):
    known = series()
    names = re.findall(r"\b([a-z_]+)\{", query)
    assert names
    assert [name for name in names if name not in known] == []
    grouped = {word.strip() for each in re.findall(r"by \(([^)]*)\)", query) for word in each.split(",")}
    assert grouped <= set.union(*(known[name] for name in names))


def test_every_metric_is_on_the_dashboard():
    families = {family.name for family in Metrics().registry.collect()}
    shown = " ".join(QUERIES)
    assert [name for name in families if not re.search(rf"\b{name}(_total|_bucket|_sum|_count)?\{{", shown)] == []


def test_panels_have_names_units_and_places_of_their_own():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"])
