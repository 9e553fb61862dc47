"""What a file may not say: a config of somebody else runs no code and reads no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from undial_cli.errors import SECRET_MASK, UserError, mask_secrets
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml
from undial_cli.runs.trust import check_command_line_keys, check_yaml_text


def write_experiment(folder: Path, text: str) -> str:
    """A folder with an experiment of the user's own, `x`."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "x.yaml").write_text("# @package _global_\n" + text)
    return str(folder)


CALLBACK = """
hydra:
  callbacks:
    evil:
      _target_: pathlib.Path.write_text
"""
FILES = {
    "a callback of Hydra's": (CALLBACK, "hydra.callbacks.evil._target_"),
    "a job's environment": (
        "hydra:\n  job:\n    env_set:\n      LD_PRELOAD: evil.so", "hydra.job.env_set"
    ),
    "another search path": ("hydra:\n  searchpath: [file:///tmp]", "hydra.searchpath"),
    "shell code of a launcher": (
        "hydra:\n  launcher:\n    setup: ['rm -rf /']", "hydra.launcher"
    ),
    "code of a model": ("model:\n  trust_remote_code: true", "model.trust_remote_code=true"),
    "pickles of a model": ("model:\n  allow_pickle: true", "model.allow_pickle=true"),
    "code of a task": ("eval:\n  harness:\n    include_path: tasks", "eval.harness.include_path"),
    "metrics of one's own": ("eval:\n  metric_file: mine.py", "eval.metric_file"),
    "a kernel of the hub": (
        "model:\n  attn_implementation: org/kernel", "model.attn_implementation=org/kernel"
    ),
    "an upload": ("push_to_hub: org/mine", "push_to_hub=org/mine"),
    "a judge elsewhere": ("audit:\n  judge:\n    url: http://evil/v1", "audit.judge.url"),
    "an object": ("train:\n  args:\n    _target_: os.system", "train.args._target_"),
    "a token": ("train:\n  args:\n    hub_token: abcdefgh", "train.args.hub_token"),
}  # fmt: skip


@pytest.mark.parametrize("text, key", FILES.values(), ids=FILES)
def test_an_experiment_of_somebody_else_is_not_believed(
    text: str, key: str, tmp_path: Path
) -> None:
    folder = write_experiment(tmp_path, text)
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        compose_run("unlearn", ["experiment=x"], folder)


@pytest.mark.parametrize("name", ["unlearn", "hydra_quiet"])
def test_a_file_that_stands_for_a_shipped_one_is_not_believed(name: str, tmp_path: Path) -> None:
    """Files of the user's folder win over those of their names: the same is asked of them."""
    shipped = (find_config_folder() / f"{name}.yaml").read_text()
    text = shipped if name == "unlearn" else "# @package _global_\n"
    (tmp_path / f"{name}.yaml").write_text(text + FILES["another search path"][0])
    with pytest.raises(UserError, match=r"hydra\.searchpath"):
        compose_run("unlearn", [], str(tmp_path))


def test_what_the_command_line_says_as_well_is_done(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path, "model:\n  trust_remote_code: true")
    run = compose_run("unlearn", ["experiment=x", "model.trust_remote_code=true"], folder)
    assert run.model.trust_remote_code


@pytest.mark.slow
@pytest.mark.parametrize(
    "value", ["${oc.env:PLANTED}", "a-${oc.env:PLANTED}-b", "${oc.decode:${oc.env:PLANTED}}"]
)
def test_no_variable_of_the_environment_is_looked_up(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "sesame-sesame")
    folder = write_experiment(tmp_path, f"model:\n  name: '{value}'")
    with pytest.raises(UserError, match=r"oc\.env:PLANTED") as raised:
        compose_run("unlearn", ["experiment=x"], folder)
    assert "sesame" not in str(raised.value)
    with pytest.raises(UserError, match=r"oc\.env:PLANTED") as raised:
        compose_run("unlearn", [f"model.name='{value}'"])
    assert "sesame" not in str(raised.value)
    text = dump_run_yaml(compose_run("unlearn", [])).replace("seed: 0", f"seed: '{value}'", 1)
    with pytest.raises(UserError, match=r"oc\.env:PLANTED") as raised:
        parse_run_yaml(text)
    assert "sesame" not in str(raised.value)


def test_a_run_yaml_uploads_nothing_unless_the_command_line_says_so() -> None:
    text = dump_run_yaml(compose_run("unlearn", ["push_to_hub=org/mine"]))
    run = parse_run_yaml(text)
    with pytest.raises(UserError, match="push_to_hub=org/mine: uploads the model"):
        check_command_line_keys(run, [], "--from run.yaml")
    check_command_line_keys(run, ["push_to_hub=org/mine"], "--from run.yaml")


def test_yaml_that_grows_or_nests_without_bound_is_refused_before_it_is_read() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UserError, match="aliases"):
        check_yaml_text("\n".join(lines), "bomb.yaml")
    with pytest.raises(UserError, match="nested too deep"):
        check_yaml_text("[" * 100_000, "deep.yaml")
    check_yaml_text("a: &one {b: 1}\nc: *one", "fine.yaml")


def test_secrets_are_masked_by_their_form_and_by_the_environments_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_API_KEY", "opensesame1")
    monkeypatch.setenv("PAD_TOKEN", "shortish")
    token = "hf_" + "a" * 34
    text = f"GET https://user:pass@host/ with {token} and opensesame1"  # pragma: allowlist secret
    assert mask_secrets(text) == (
        f"GET https://{SECRET_MASK}@host/ with {SECRET_MASK} and {SECRET_MASK}"
    )
    assert mask_secrets(os.environ["PAD_TOKEN"]) == "shortish"
