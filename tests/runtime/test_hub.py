"""A model by its name: on the hub, in its cache or nowhere. The hub here is a server of our own."""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading

from runtime import hub

import huggingface_hub
import pytest

import common
from tasks import InputError

NAME = "someone/tiny"
MINUTES = 300  # patience that no loaded machine exhausts


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers every question about a file with the server's status, and counts them."""

    def do_HEAD(self):
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        for header in {"X-Repo-Commit": "0" * 40, "ETag": "1", **self.server.headers}.items():
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Sets where the hub and its cache are, as HF_ENDPOINT, HF_HUB_CACHE and no proxy do."""

    def place(address):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", MINUTES)
    monkeypatch.setenv("NO_PROXY", "*")
    huggingface_hub.close_session()  # the client reads the proxies once
    yield place
    huggingface_hub.close_session()


@pytest.fixture
def server(endpoint):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as answering:
        answering.asked, answering.status, answering.headers = [], 200, {}
        threading.Thread(target=answering.serve_forever, args=(0.01,), daemon=True).start()
        endpoint(f"http://127.0.0.1:{answering.server_port}")
        yield answering
        answering.shutdown()


@pytest.fixture
def closed():
    """The address of a port that is nobody else's and refuses."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def cached(folder, cache):
    """The hub's cache as a download of the model in `folder` leaves it."""
    place = cache / ("models--" + NAME.replace("/", "--"))
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0" * 40)


def refusal(name=NAME):
    with pytest.raises(InputError) as error:
        common.load_model(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_of_the_hub_is_asked_for_once(server):
    assert hub.find(NAME) == (NAME, False)
    assert server.asked == [f"/{NAME}/resolve/main/config.json"]


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "the hub has no such model"),
        (401, {"X-Error-Code": "RepoNotFound"}, "the hub has no such model, or a private one"),
        (404, {}, "the hub has no such model"),
        (404, {"X-Error-Code": "EntryNotFound"}, "has no config.json"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated (accept its terms"),
        (401, {"X-Error-Code": "GatedRepo"}, "gated (accept its terms"),
        (401, {}, "hf auth login"),
        (403, {}, "does not let you have it"),
        (429, {"Retry-After": "60"}, "the hub answers 429; try again later"),
        (503, {}, "the hub answers 503; try again later"),
    ],
)
def test_what_the_hub_says_is_one_line(server, caplog, status, headers, words):
    server.status, server.headers = status, headers
    line = refusal()
    assert line.startswith(f"--model {NAME}: no such folder, and the hub") and words in line
    assert len(server.asked) == 1 and not caplog.records


@pytest.mark.parametrize("name", ["./foo", "../foo", "/foo", "runs/x/y/z", "a--b", "a" * 300, "\0"])
def test_what_cannot_be_a_hub_id_is_not_asked_for(server, name):
    assert "no such folder, and a hub id is NAME or OWNER/NAME" in refusal(name)
    assert not server.asked


def test_a_port_that_refuses(endpoint, closed, caplog):
    endpoint(closed)
    assert "no such folder, and the hub does not answer" in refusal()
    assert not caplog.records


def test_an_endpoint_that_is_no_address(endpoint):
    endpoint("the hub")
    assert "the hub does not answer" in refusal()


def test_a_server_that_never_answers(endpoint, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "PATIENCE", 0.2)
        assert "the hub does not answer" in refusal()


def test_a_name_server_that_never_answers(endpoint, monkeypatch):
    """No timeout of a client's ends this wait."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait())
    endpoint("http://hub.example")
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    assert "the hub does not answer" in refusal()
    answered.set()


def test_offline_by_choice(server, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal()
    assert not server.asked


@pytest.mark.parametrize("why", ["refused", "gone", "offline"])
def test_a_cached_model_loads_without_the_hub(
    server, endpoint, closed, llama_folder, tmp_path, monkeypatch, why
):
    cached(llama_folder, tmp_path / "cache")
    server.status = 404
    if why == "refused":
        endpoint(closed)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", why == "offline")
    model, tokenizer = common.load_model(NAME)
    assert model.config.name_or_path == NAME and len(tokenizer) == model.config.vocab_size
    assert len(server.asked) == (why == "gone")


def test_a_cache_that_holds_half_a_model(endpoint, closed, llama_folder, tmp_path):
    cached(llama_folder, tmp_path / "cache")
    next((tmp_path / "cache").rglob("model.safetensors")).unlink()
    endpoint(closed)
    assert refusal().startswith(f"--model {NAME}: ")


def test_a_folder_is_never_asked_for(server, llama_folder):
    common.load_model(llama_folder)
    common.load_model("base_model")  # of the repository, from anywhere
    assert not server.asked


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "grpo.py --output_dir nowhere --model",
        "-m tools.play 3 7 --target 10 --model",
        "-m tools.gpu_check --parts engine --model",
        "-m experiments.reach --model",
        "-m base_model.warm_start --output_dir nowhere --start",
    ],
)
def test_a_command_prints_the_line_and_nothing_else(closed, tmp_path, words):
    environment = {**os.environ, "HF_ENDPOINT": closed, "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    ended = subprocess.run(
        [sys.executable, *words.split(), NAME],
        cwd=common.HERE,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode and not ended.stdout
    option = words.split()[-1]
    assert f"{option} {NAME}: no such folder, and the hub does not answer" in ended.stderr
    assert ended.stderr.count("\n") == 1
