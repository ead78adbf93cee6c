"""Arguments to frozen configuration: what is refused is refused in a sentence, before anything starts."""

import argparse
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ryzanstein_worker import config as config_module
from ryzanstein_worker.__main__ import main
from ryzanstein_worker.config import GroupConfig, ServeConfig, add_serve_arguments, resolve_model, serve_config
from ryzanstein_worker.contract import ENV_GROUP_KEY_FILE, ENV_TERMINATION_LOG, EXIT_CONFIG, GROUP_PORT
from ryzanstein_worker.errors import ConfigError


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Each start of the program configures logging; pytest's own handlers come back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def parse(*arguments: str) -> ServeConfig:
    parser = argparse.ArgumentParser()
    add_serve_arguments(parser)
    return serve_config(parser.parse_args(arguments))


def test_flags_reach_the_engine_and_the_server(tmp_path: Path) -> None:
    flags = "--tensor-parallel-size 2 --max-num-seqs 8 --max-num-batched-tokens 64 --kv-cache-memory-bytes 4096"
    more = "--no-enable-prefix-caching --hang-timeout-seconds 2.5 --port 0 --served-model-name chat --dtype bfloat16"
    config = parse("--model", str(tmp_path), *flags.split(), *more.split())
    assert (config.served_model_name, config.port, config.host) == ("chat", 0, "127.0.0.1")
    engine = config.engine
    assert engine.model_path == tmp_path
    assert (engine.tensor_parallel_size, engine.max_num_seqs, engine.max_num_batched_tokens) == (2, 8, 64)
    assert (engine.kv_cache_memory_bytes, engine.num_kv_blocks) == (4096, None)
    assert (engine.enable_prefix_caching, engine.hang_timeout_seconds, engine.dtype) == (False, 2.5, "bfloat16")


def test_threads_are_shared_by_the_ranks_and_none_is_left_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "usable_cpus", lambda: 5)
    for ranks, threads in ((1, 5), (2, 2), (8, 1)):
        assert parse("--model", str(tmp_path), "-tp", str(ranks)).engine.threads_per_rank == threads


GROUP = "-tp 4 --nnodes 2 --node-rank 1 --master-addr chat-0.chat-group --group-key-file /etc/key --host 0.0.0.0"


def test_a_place_in_a_group_is_read_and_its_ranks_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "usable_cpus", lambda: 4)
    assert parse("--model", str(tmp_path), "-tp", "4").group is None
    config = parse("--model", str(tmp_path), *GROUP.split(), "--master-port", "9")
    expected = GroupConfig(
        node_rank=1, master_addr="chat-0.chat-group", master_port=9, key_file="/etc/key", host="0.0.0.0"
    )
    assert config.group == expected
    assert (config.engine.nnodes, config.engine.ranks_per_node, config.engine.threads_per_rank) == (2, 2, 2)
    assert (list(config.engine.ranks_of(1)), config.engine.node_of(1), config.engine.node_of(2)) == ([2, 3], 0, 1)
    monkeypatch.setenv(ENV_GROUP_KEY_FILE, "/from/environment")
    group = parse("--model", str(tmp_path), *GROUP.replace("--group-key-file /etc/key", "").split()).group
    assert group is not None
    assert (group.key_file, group.master_port) == ("/from/environment", GROUP_PORT)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (GROUP.replace("--node-rank 1", "--node-rank 2"), "--node-rank 2 is not in a group of --nnodes 2"),
        (GROUP.replace("-tp 4", "-tp 3"), "--tensor-parallel-size 3 cannot be spread evenly over --nnodes 2"),
        (GROUP.replace("--master-addr chat-0.chat-group", ""), "--nnodes 2 needs --master-addr"),
        (GROUP.replace("--group-key-file /etc/key", ""), "--nnodes 2 needs --group-key-file"),
        ("--node-rank 1", "--node-rank 1 is not in a group of --nnodes 1"),
    ],
)
def test_a_group_that_cannot_be_is_refused(
    tmp_path: Path, flags: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENV_GROUP_KEY_FILE, raising=False)
    with pytest.raises(ConfigError, match=sentence):
        parse("--model", str(tmp_path), *flags.split())


def test_a_model_is_a_directory_a_file_uri_or_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaced = tmp_path / "my model"
    spaced.mkdir()
    assert resolve_model(str(spaced)) == spaced
    assert resolve_model(f"file://{tmp_path}/my%20model") == spaced
    assert parse("--model", f"{spaced}/").served_model_name == "my model"
    monkeypatch.setattr(config_module, "DEMO_MODEL_DIR", spaced)
    assert resolve_model("demo://") == spaced
    assert parse("--model", "demo://").served_model_name == "demo"


@pytest.mark.parametrize("reference", ["hf://org/name", "file://host/dir", "demo://x", "s3://b", "/does/not/exist"])
def test_other_references_are_refused(reference: str) -> None:
    with pytest.raises(ConfigError):
        resolve_model(reference)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--max-num-seqs 65 --max-num-batched-tokens 64", "--max-num-batched-tokens 64 must be at least"),
        ("--max-num-seqs 0", "not a whole number above 0"),
        ("--max-model-len 1e3", "not a whole number above 0"),
        ("--port 65536", "not a port"),
        ("--hang-timeout-seconds nan", "not a number of seconds above 0"),
        ("--gpu-memory-utilization 1.5", "not a share"),
        ("--num-kv-blocks 4 --kv-cache-memory-bytes 4", "not allowed with"),
        ("--no-such-flag", "unrecognized arguments"),
        ("--dtype int8", "invalid choice"),
    ],
)
def test_a_wrong_flag_ends_with_one_sentence_in_the_termination_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, words: str
) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(log))
    assert main(["serve", "--model", str(tmp_path), *flags.split()]) == EXIT_CONFIG
    assert words in log.read_text()
    assert "\n" not in log.read_text()


def test_an_unknown_command_is_refused_and_a_log_that_cannot_be_written_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENV_TERMINATION_LOG, "/does/not/exist/log")
    assert main(["train"]) == EXIT_CONFIG


def test_a_long_sentence_is_cut_to_what_the_kubelet_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(log))
    main(["é" * 5000])
    assert 4000 < len(log.read_bytes()) <= 4096
    log.read_text(encoding="utf-8")


def test_help_needs_neither_torch_nor_the_web_server() -> None:
    script = (
        "import sys; from ryzanstein_worker.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "main(['--help']); assert not {'torch', 'fastapi', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    assert "--tensor-parallel-size" in done.stdout
    assert "fetch" in done.stdout
