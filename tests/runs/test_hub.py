"""The upload of a checkpoint, by the real client to a server that speaks the hub's protocol."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import undial

from undial_cli.cli import run_command
from undial_cli.runs import model_card
from undial_cli.runs.compose import compose_run

SHORT = ["hardware=cpu", "eval.limit=4", "eval.max_new_tokens=8", "train.max_steps=2", "name=run"]


class Hub(BaseHTTPRequestHandler):
    """Takes a new repository and commits of small files; keeps what it got in `got`."""

    got: dict = {}  # noqa: RUF012

    def do_POST(self) -> None:
        """Create, preupload, commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.got.setdefault("tokens", set()).add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self.got["repo"] = json.loads(body)
            self.answer({"url": f"{self.address}/org/forgot", "name": "org/forgot"})
        elif self.path == "/api/validate-yaml":
            self.got["card"] = json.loads(body)
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [f["path"] for f in json.loads(body)["files"]]
            modes = [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.got.setdefault("files", {})[value["path"]] = base64.b64decode(
                        value["content"]
                    )
            url = f"{self.address}/org/forgot/commit/0"
            self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
        else:
            self.answer({"error": f"no such call: {self.path}"}, 404)

    def do_GET(self) -> None:
        """What the client asks beside."""
        self.answer({"error": f"no such call: {self.path}"}, 404)

    @property
    def address(self) -> str:
        """Of this server."""
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, content: dict, code: int = 200) -> None:
        """JSON."""
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub() -> Iterator[tuple[str, dict]]:
    """Address of a running hub, and what it got."""
    Hub.got = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", Hub.got
    server.shutdown()


@pytest.mark.slow
def test_a_checkpoint_goes_to_the_hub_and_nothing_else(
    hub: tuple[str, dict], random_model: Path, tmp_path: Path
) -> None:
    address, got = hub
    model = [f"model.path={random_model}", f"eval.retain_model={random_model}", *SHORT]
    env = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_of_nobody", "HF_HUB_OFFLINE": "0"}
    down = {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}
    lost = undial("unlearn", *model, "push_to_hub=org/forgot", cwd=tmp_path, **down)
    assert lost.returncode == 1
    assert lost.stderr.count("\n") == 1
    assert "push_to_hub=org/forgot" in lost.stderr
    folder = tmp_path / "outputs" / "unlearn" / "run"
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    done = undial("unlearn", *model, "push_to_hub=org/forgot", cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "already done" in done.stdout
    assert (got["repo"]["name"], got["repo"]["organization"]) == ("forgot", "org")
    assert got["repo"].get("private") or got["repo"].get("visibility") == "private"
    files = {f.name: f.read_bytes() for f in (folder / "checkpoint").iterdir()}
    assert got["files"] == files
    assert {"model.safetensors", "config.json", "README.md", "tokenizer.json"} <= files.keys()
    readme = files["README.md"].decode()
    for part in ("# tiny, undial on demo", "- strength: ", "- seed: 0", "| `forget_rouge` |",
                 "retain model", "proves no deletion"):  # fmt: skip
        assert part in readme
    assert str(tmp_path) not in readme
    assert str(random_model) not in readme
    answers = json.loads((folder / "evaluation" / "samples.jsonl").read_text().splitlines()[0])
    assert answers["reference"] not in readme
    assert "hf_of_nobody" not in (folder / "run.yaml").read_text()


def test_a_hub_that_would_not_take_it_is_known_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    for name, part in (("a/b/c", "org/name"), ("org/my model", "org/name")):
        assert run_command(["unlearn", f"push_to_hub='{name}'", "hardware=cpu"]) == 2
        err = capfd.readouterr().err
        assert f"push_to_hub={name}" in err
        assert part in err
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert run_command(["unlearn", "push_to_hub=org/name", "hardware=cpu"]) == 2
    assert "hf auth login" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_card_names_no_path_and_no_text_of_the_data(tmp_path: Path) -> None:
    words = ["data=jsonl", "data.forget_file=secret/forget_mrs_smith.jsonl", "method=npo",
             "model.path=/home/me/target", "model=llama1b", "adapter=lora"]  # fmt: skip
    model_card.write_model_card(compose_run("unlearn", words), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "smith" not in text
    assert "/home" not in text
    assert "- method: npo" in text
    assert "- beta: 0.1" in text
    assert "- adapter: lora, rank 8" in text
    assert "## Evaluation" not in text
    results = {"metrics": {"forget_rouge": 0.25, "forget_quality": 1e-5},
               "target": {"forget_rouge": 1.0}, "reference": {}}  # fmt: skip
    model_card.write_model_card(compose_run("unlearn", []), tmp_path, results)
    text = (tmp_path / "README.md").read_text()
    assert "| metric | before | after |" in text
    assert "| `forget_rouge` | 1.000 | 0.250 |" in text
    assert "| `forget_quality` | - | 1.00e-05 |" in text
    assert model_card.NO_RETAIN_WARNING in text
