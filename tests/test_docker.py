"""Images and cluster examples: linted, their commands understood by llarp, their scripts run with stand-ins."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llarp import cli
from llarp.config import RunConfig, convert, leaves, parse_value, preset_path, split_override
from llarp.errors import UserError

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
PAGE = ROOT / "docs" / "docker.md"
TORCHRUN, SBATCH = DOCKER / "llarp-torchrun", DOCKER / "slurm" / "train.sbatch"
COMPOSE, JOB = DOCKER / "compose.yaml", DOCKER / "kubernetes" / "train.yaml"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.habitat"]
YAMLLINT = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, \
comments: {min-spaces-from-content: 1}}}"
LINTERS = {
    "hadolint": ["hadolint"],
    "yamllint": ["yamllint", "--strict", "-d", YAMLLINT],
    "compose": ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"],
    "shellcheck": ["shellcheck"],
}


def lint(linter: str, *files: Path) -> tuple[int, str]:
    """Exit code and words of a linter; any finding is a failure."""
    program, *words = LINTERS[linter]
    program = str(Path(sysconfig.get_path("scripts")) / program)
    done = subprocess.run([program, *words, *map(str, files)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


# -- linters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("linter", "files"),
    [
        ("hadolint", DOCKERFILES),
        ("yamllint", [COMPOSE, JOB]),
        ("compose", [COMPOSE]),
        ("shellcheck", [TORCHRUN, SBATCH]),
    ],
)
def test_linters_find_nothing(linter: str, files: list[Path]) -> None:
    code, words = lint(linter, *files)
    assert code == 0, words


@pytest.mark.parametrize(
    ("linter", "text", "finding"),
    [
        ("hadolint", "FROM python:latest\n", "DL3007"),
        ("yamllint", "a: 1\na: 2\n", "key-duplicates"),
        ("compose", "services:\n  train:\n    comand: [train]\n", "comand"),
        ("shellcheck", "#!/bin/sh\nrm -r $1\n", "SC2086"),
    ],
)
def test_linters_find_planted_mistakes(linter: str, text: str, finding: str, tmp_path: Path) -> None:
    (planted := tmp_path / "planted.yaml").write_text(text)
    code, words = lint(linter, planted)
    assert code != 0
    assert finding in words


# -- commands ---------------------------------------------------------------------------------------------------------


def understand(words: list[str]) -> None:
    """UserError unless `words`, after `llarp`, are a command with known settings and values of the right type."""
    name, *rest = words
    if name not in cli.COMMANDS:
        raise UserError(f"unknown command {name!r}")
    request = cli.parse(cli.COMMANDS[name], rest)
    if request.preset is not None:
        preset_path(request.preset)
    kinds = leaves(RunConfig)
    for key, value in map(split_override, request.overrides):
        convert(key, parse_value(key, value, kinds[key]), kinds[key])


def after_llarp(line: list[str]) -> list[str] | None:
    """What `llarp` is told in a command line, whichever way it is started; None in other lines."""
    end = next((i for i, word in enumerate(line) if re.fullmatch(r"[|&;>]+|#", word)), len(line))
    line = [word for word in line[:end] if word not in ("$@", "...")]
    for i, word in enumerate(line):
        following = line[i + 1 :]
        if word == "llarp-torchrun" and following:
            return ["train", *following, "resume=auto"]
        if word in ("llarp", "llarp-habitat") and following and (i == 0 or following[0] in cli.COMMANDS):
            return following
        if word == "run" and "compose" in line[:i] and following[1:]:  # docker compose run [--rm] SERVICE COMMAND...
            words = [w for w in following if not w.startswith("-")][1:]
            return words or None
    return None


def shell_lines(text: str) -> list[str]:
    """Lines of a script, a Dockerfile's comments or a page's code, continued ones joined."""
    joined = re.sub(r"\\\n[#\s]*", " ", text)
    return [line.strip().lstrip("#`").strip() for line in joined.splitlines()]


def page_code(text: str) -> str:
    """Fenced blocks and inline code of a Markdown page, one line each."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return "\n".join([*blocks, *inline])


def commands_in_text(text: str) -> list[list[str]]:
    found = []
    for line in shell_lines(text):
        try:
            words = after_llarp(shlex.split(line))
        except ValueError:  # prose with an apostrophe
            continue
        if words and not any("[" in word for word in words):  # usage lines have [key=value ...]
            found.append(words)
    return found


def compose_services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def job_pod() -> dict[str, Any]:
    return {d["kind"]: d for d in yaml.safe_load_all(JOB.read_text())}["Job"]["spec"]["template"]["spec"]


def commands_in_yaml() -> list[list[str]]:
    lines = [[*s.get("entrypoint", ["llarp"]), *s["command"]] for s in compose_services().values()]
    lines.append(job_pod()["containers"][0]["command"])
    return [words for words in map(after_llarp, lines) if words]


def test_every_command_in_the_examples_is_understood() -> None:
    texts = {path.name: path.read_text() for path in [*DOCKERFILES, SBATCH, JOB]}
    texts["docker.md"] = page_code(PAGE.read_text())
    found = {name: commands_in_text(text) for name, text in texts.items()} | {"YAML": commands_in_yaml()}
    expected = {"Dockerfile": 1, "Dockerfile.habitat": 1, "train.sbatch": 1, "docker.md": 5, "YAML": 5}
    assert all(len(found[name]) >= count for name, count in expected.items()), found
    for name, lines in found.items():
        for words in lines:
            try:
                understand(words)
            except UserError as error:
                pytest.fail(f"{name}: llarp {shlex.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    ["docker run --rm llarp train ppo.lrr=1", "llarp-torchrun run_name=a ppo.lr=fast", "llarp trian",
     "torchrun -m llarp train config=papre", "docker compose -f x.yaml run --rm train eval splits=all"],
)  # fmt: skip
def test_wrong_examples_would_be_found(line: str) -> None:
    (words,) = commands_in_text(line)
    with pytest.raises(UserError):
        understand(words)


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_what_an_image_copies_is_there_and_not_ignored(dockerfile: Path) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    text = re.sub(r"\\\n", " ", dockerfile.read_text())
    sources = re.findall(r"--mount=type=bind,source=([^,\s]+)", text)
    for words in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        sources += words.split()[:-1]
    assert "docker/llarp-torchrun" in sources
    for source in (*sources, "llarp/cli.py", "tasks/task.py", "habitat_configs/default.yaml", "README.md", "LICENSE"):
        assert (ROOT / source).is_file(), source
        assert any(source == name or source.startswith(f"{name}/") for name in kept), f"{source} is ignored"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda p: p.name)
def test_images_start_llarp_as_an_ordinary_user(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    assert 'ENTRYPOINT ["llarp"]' in lines
    assert [line for line in lines if line.startswith("USER ")] == ["USER $USER_ID"]
    assert lines.index("USER $USER_ID") < next(i for i, line in enumerate(lines) if line.endswith("/smoke_test.py \\"))
    assert os.access(TORCHRUN, os.X_OK)


def test_habitat_sim_is_pinned_and_nvidia_may_draw() -> None:
    text = (DOCKER / "Dockerfile.habitat").read_text()
    assert re.search(r"^ARG HABITAT_SIM_COMMIT=[0-9a-f]{40}$", text, re.MULTILINE)
    assert re.search(r"NVIDIA_DRIVER_CAPABILITIES=\S*graphics", text)
    vendor = json.loads((DOCKER / "10_nvidia.json").read_text())
    assert vendor["ICD"]["library_path"] == "libEGL_nvidia.so.0"
    pins = (DOCKER / "habitat-sim.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[A-Za-z-]+==[\d.]+", pin) for pin in pins)


def test_smoke_test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from llarp import doctor

    monkeypatch.syspath_prepend(DOCKER)
    import smoke_test

    monkeypatch.setattr(doctor, "_render", lambda device: (False, "a black picture", ""))
    assert smoke_test.missing(smoke_test.NEEDED) == ["render: a black picture"]
    said = smoke_test.missing(smoke_test.NEEDED_BY_HABITAT)
    here = importlib.util.find_spec("habitat_sim") is not None
    assert [line.partition(":")[0] for line in said] == ([] if here else ["habitat-sim", "habitat-lab"])


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_compose_shares_volumes_and_reserves_gpus_by_profile() -> None:
    services = compose_services()
    volumes = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    for name, service in services.items():
        assert {v.split(":")[0] for v in service["volumes"]} == volumes == {"runs", "data", "cache"}
        on_gpu = "deploy" in service
        assert on_gpu == name.endswith(("-gpu", "train-habitat", "eval-habitat")), name
        assert not on_gpu or service["profiles"], f"{name} would ask for a GPU where there is none"
    assert not {"train", "eval", "tensorboard"} & {name for name, s in services.items() if "profiles" in s}


def test_kubernetes_job_fits_together() -> None:
    documents = list(yaml.safe_load_all(JOB.read_text()))
    (service,) = [d for d in documents if d["kind"] == "Service"]
    (job,) = [d for d in documents if d["kind"] == "Job"]
    pod = job_pod()
    (container,) = pod["containers"]
    name, spec = job["metadata"]["name"], job["spec"]
    env = {e["name"]: e["value"] for e in container["env"]}

    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(env["NNODES"]) > 1
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(env["NPROC_PER_NODE"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert env["MASTER_ADDR"] == f"{name}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"] == int(env["MASTER_PORT"])
    read = set(re.findall(r"\$\{([A-Z_]+)", TORCHRUN.read_text()))
    assert set(env) <= read and "JOB_COMPLETION_INDEX" in read  # Kubernetes sets that one

    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    held = {v["name"]: v for v in pod["volumes"]}
    assert {v["persistentVolumeClaim"]["claimName"] for v in held.values() if "emptyDir" not in v} == claims
    assert {m["name"]: m["mountPath"] for m in container["volumeMounts"]}.keys() == held.keys()
    assert held["shm"]["emptyDir"]["medium"] == "Memory"
    assert pod["restartPolicy"] == "Never"  # a podFailurePolicy asks for that
    rules = {r["action"]: r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r}
    assert {action: rule["values"] for action, rule in rules.items()} == {"FailJob": [2], "Ignore": [75]}
    assert {rule["containerName"] for rule in rules.values()} == {container["name"]}


def programs(folder: Path, **bodies: str) -> dict[str, str]:
    """An environment in which these names are shell scripts of ours, and none of a launcher's variables is set."""
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    launchers = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MASTER_PORT", "RUN", "IMAGE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "JOB_")) and k not in launchers}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}"}


def torchrun_with(tmp_path: Path, body: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = programs(tmp_path / "bin", torchrun=body) | env
    return subprocess.run([TORCHRUN, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20)


def test_one_node_starts_or_continues_its_run(tmp_path: Path) -> None:
    done = torchrun_with(tmp_path, 'printf "%s\\n" "$@"', "run_name=a b", "backend=habitat")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "--standalone", "--nproc-per-node=gpu", "-m", "llarp", "train",
        "run_name=a b", "backend=habitat", "resume=auto",
    ]  # fmt: skip


@pytest.mark.parametrize("rank", ["NODE_RANK", "SLURM_NODEID", "JOB_COMPLETION_INDEX"])
def test_several_nodes_meet_at_the_first(rank: str, tmp_path: Path) -> None:
    from torch.distributed.run import get_args_parser

    env = {"NNODES": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "1234", "NPROC_PER_NODE": "2", rank: "3"}
    done = torchrun_with(tmp_path, 'printf "%s\\n" "$@"', "run_name=a", **env)
    assert done.returncode == 0, done.stderr
    read = get_args_parser().parse_args(done.stdout.splitlines())  # torchrun's own reading
    assert (read.nnodes, read.nproc_per_node, str(read.node_rank)) == ("4", "2", "3")
    assert (read.master_addr, str(read.master_port)) == ("node7", "1234")
    assert (read.module, read.training_script) == (True, "llarp")
    understand(read.training_script_args)


@pytest.mark.parametrize(
    ("words", "env"), [([], {}), (["config=paper"], {}), (["run_name=a"], {"NNODES": "2"}), ([], {"MASTER_ADDR": "x"})]
)
def test_torchrun_refuses_what_cannot_be_continued(words: list[str], env: dict[str, str], tmp_path: Path) -> None:
    done = torchrun_with(tmp_path, "touch started", *words, **env)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(("code", "interrupted", "expected"), [(0, "false", 0), (0, "true", 75), (1, "true", 1)])
def test_exit_code_tells_complete_from_stopped_elsewhere(
    code: int, interrupted: str, expected: int, tmp_path: Path
) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "report.json").write_text(f'{{\n  "interrupted": {interrupted}\n}}\n')
    assert torchrun_with(tmp_path, f"exit {code}", "run_name=a", "output_dir=out").returncode == expected


@pytest.mark.parametrize(("body", "expected"), [('touch "$LLARP_REFUSED"; exit 1', 2), ("exit 1", 1), ("exit 3", 3)])
def test_what_a_process_refuses_is_told_from_a_failure(body: str, expected: int, tmp_path: Path) -> None:
    done = torchrun_with(tmp_path, f"{body}", "run_name=a", TMPDIR=str(tmp_path))
    assert done.returncode == expected
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]  # the mark is gone


def test_bad_input_ends_real_processes_with_2(tmp_path: Path) -> None:
    """torchrun itself makes 1 of it."""
    env = {k: v for k, v in programs(tmp_path / "bin").items() if k != "TORCHELASTIC_RUN_ID"}
    env |= {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
            "PATH": f"{sysconfig.get_path('scripts')}:{env['PATH']}"}  # fmt: skip
    words = ["run_name=a", "config=smoke", "device=cpu", "seed=-1"]
    done = subprocess.run([TORCHRUN, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("llarp: error: seed=-1: must not be negative") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_stops_training_not_torchrun(number: signal.Signals, tmp_path: Path) -> None:
    training = 'trap "sleep 0.2; echo saved >saved; exit 0" TERM; touch ready; while :; do sleep 0.02; done'
    body = f'trap "touch torchrun-signalled" TERM\nbash -c {shlex.quote(training)}\necho $? >end'
    environment = programs(tmp_path / "bin", torchrun=body)
    running = subprocess.Popen(
        [TORCHRUN, "run_name=a"], cwd=tmp_path, env=environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    os.killpg(running.pid, number)  # as schedulers do
    assert running.wait(20) == 75
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert (tmp_path / "end").read_text() == "0\n"
    assert not (tmp_path / "torchrun-signalled").exists()


@pytest.mark.parametrize(("code", "queued_again"), [(0, False), (1, False), (75, True)])
def test_slurm_job_goes_back_into_the_queue_when_stopped(code: int, queued_again: bool, tmp_path: Path) -> None:
    scontrol = 'if [ "$1" = show ]; then printf "node7\\nnode8\\n"; else echo "$@" >requeued; fi'
    srun = f'echo "$NNODES $MASTER_ADDR $MASTER_PORT" >env\nprintf "%s\\n" "$@" >words\nexit {code}'
    env = programs(tmp_path / "bin", scontrol=scontrol, srun=srun) | {
        "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_ID": "41",
    }  # fmt: skip
    done = subprocess.run(["bash", SBATCH, "seed=3"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "env").read_text() == "2 node7 20041\n"
    words = (tmp_path / "words").read_text().splitlines()
    told = words[words.index("llarp-torchrun") + 1 :]
    assert told == ["run_name=slurm-41", "backend=habitat", "seed=3"]
    assert (tmp_path / "requeued").exists() == queued_again
    assert not queued_again or (tmp_path / "requeued").read_text() == "requeue 41\n"
