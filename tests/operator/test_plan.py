"""`python -m ryzanstein_operator plan`: what a file leads to, or one sentence and exit status 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ryzanstein_operator import plan

SERVICE = """
apiVersion: ryzanstein.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec: {model: {uri: "demo://"}}
"""
OTHER = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n"
CHILDREN = ["ServiceAccount", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"]


def write(directory: Path, text: str) -> str:
    path = directory / "service.yaml"
    path.write_text(text)
    return str(path)


def test_the_command_prints_the_plan_of_standard_input_in_words() -> None:
    command = [sys.executable, "-m", "ryzanstein_operator", "plan", "-f", "-"]
    done = subprocess.run(command, input=SERVICE, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[2] for line in lines[:5]] == CHILDREN
    assert lines[0] == "- create ServiceAccount default/chat: it is missing"
    assert lines[-1] == "- create ConfigMap ryzanstein/ryzanstein-routes: 1 model: chat"


def test_groups_of_pods_show_with_their_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = SERVICE.replace('"demo://"}', '"demo://"}, parallelism: {tensor: 4, nodes: 2}, replicas: 2')
    assert plan.main(["-f", write(tmp_path, several)]) == 0
    lines = [line.removeprefix("- ") for line in capsys.readouterr().out.splitlines()]
    assert lines[:5][3].startswith("create Service default/chat-group:")
    key, *groups = [line for line in lines if "Secret" in line or "StatefulSet" in line]
    assert key.startswith("create Secret default/chat-group-key with a random key")
    assert [line.split()[2][-3:] for line in groups] == ["-0:", "-1:"]
    assert plan.main(["-f", write(tmp_path, several), "-o", "yaml"]) == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds.count("StatefulSet") == 2
    assert "Deployment" not in kinds


def test_a_bad_file_ends_the_command_with_a_sentence_and_2(tmp_path: Path) -> None:
    path = write(tmp_path, SERVICE.replace("demo://", "s3://bucket"))
    command = [sys.executable, "-m", "ryzanstein_operator", "plan", "-f", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"plan: {path}: spec.model.uri: " + (
        "must start with demo://, file://, pvc:// or hf://; other model sources are not supported\n"
    )


def test_yaml_leaves_no_word_that_another_reader_takes_for_a_number() -> None:
    words = ["9218e73041", "1E+5", "12", "1.5", "0x1f", "true", "abc", "1e"]
    assert [line.removeprefix("- ") for line in plan.dump([words]).splitlines()[1:]] == [
        *("'9218e73041'", "'1E+5'", "'12'", "'1.5'", "'0x1f'", "'true'", "abc", "1e"),
    ]


def test_yaml_is_ready_for_kubectl_and_names_the_given_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, SERVICE)
    words = ["-f", path, "-o", "yaml", "-n", "team", "--release-namespace", "rz", "--worker-image", "w:1"]
    assert plan.main(words) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [document["kind"] for document in documents] == [*CHILDREN, "ConfigMap"]
    assert {document["metadata"]["namespace"] for document in documents[:5]} == {"team"}
    assert documents[5]["metadata"]["namespace"] == "rz"
    assert documents[3]["spec"]["template"]["spec"]["containers"][0]["image"] == "w:1"


def test_json_holds_every_action(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["-f", write(tmp_path, SERVICE), "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [action["action"] for action in found["actions"]] == ["Apply"] * 5 + ["PatchStatus", "Apply"]
    assert len(found["details"]) == 7


def test_several_documents_and_files_are_planned_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "second.json"
    second.write_text(json.dumps(yaml.safe_load(SERVICE.replace("chat", "other"))))
    first = write(
        tmp_path, f"{SERVICE}---\n{OTHER}---\n{SERVICE.replace('{name: chat}', '{name: chat, namespace: b}')}"
    )
    assert plan.main(["-f", first, "-f", str(second)]) == 0
    out = capsys.readouterr().out
    assert "2 models: chat, other" in out
    assert "emit Warning event ModelNameTaken" in out
    assert "Namespace" not in out


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not YAML"),
        ("- a\n", "no Kubernetes object"),
        ("text", "no Kubernetes object"),
        ("", "holds no InferenceService"),
        (OTHER, "holds no InferenceService"),
        (
            SERVICE.replace("v1alpha1", "v2"),
            "apiVersion ryzanstein.dev/v2; this operator knows ryzanstein.dev/v1alpha1",
        ),
        (SERVICE.replace("metadata: {name: chat}", ""), "metadata: is required"),
        (SERVICE.replace("{name: chat}", "[]"), "metadata: "),
        (SERVICE.replace("{name: chat}", "{name: 5}"), "metadata.name: "),
        (SERVICE.replace("spec: {model", "spec: {replica: 2, model"), "spec.replica: is not a field of this version"),
        (SERVICE.replace("chat", "Chat"), "metadata.name must start with a letter"),
    ],
)
def test_every_bad_file_is_named_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    path = write(tmp_path, text)
    assert plan.main(["-f", path]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"plan: {path}: ")
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, sentence in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        assert plan.main(["-f", str(path)]) == 2
        assert sentence in capsys.readouterr().err
