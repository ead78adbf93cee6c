"""The worker's configuration: arguments in, frozen structs out, read once at the edge.

Knows the flags (vLLM's names) and how a model reference becomes a directory. Knows nothing of torch, so that
`--help` is quick; what depends on the model or the device is settled later, by the ranks (engine/limits.py).
"""

import argparse
import math
import os
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from ryzanstein_worker.contract import API_PORT, ENV_GROUP_KEY_FILE, GROUP_PORT, GRPC_PORT, HEALTH_PORT
from ryzanstein_worker.errors import ConfigError
from ryzanstein_worker.machine import usable_cpus

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

DEMO_MODEL_DIR = Path(__file__).parent / "demo_model"


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine and its ranks need. Sent to the ranks as JSON."""

    model_dir: str
    tensor_parallel_size: int = 1
    nnodes: int = 1  # pods of the group, each with as many ranks
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"  # auto: the checkpoint's on CUDA, float32 on CPU
    max_model_len: int | None = None  # None: what the model was made for, cut to what the KV cache holds
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None  # None: by device
    block_size: int = 16
    num_kv_blocks: int | None = None
    kv_cache_memory_bytes: int | None = None  # per rank
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True
    startup_timeout_seconds: float = 600.0  # without progress
    hang_timeout_seconds: float = 10.0  # without a heartbeat
    threads_per_rank: int = 1  # CPU threads
    max_queued_requests: int = 1024  # running and waiting; more are refused before they reach the ranks

    @property
    def model_path(self) -> Path:
        return Path(self.model_dir)

    @property
    def ranks_per_node(self) -> int:
        return self.tensor_parallel_size // self.nnodes

    def node_of(self, rank: int) -> int:
        """The place in the group of the pod that a rank lives in."""
        return rank // self.ranks_per_node

    def ranks_of(self, node_rank: int) -> range:
        return range(node_rank * self.ranks_per_node, (node_rank + 1) * self.ranks_per_node)


class GroupConfig(msgspec.Struct, frozen=True, kw_only=True):
    """This pod's place in a group of several, and how the others are met."""

    node_rank: int  # 0 meets the others, serves the API and has rank 0
    master_addr: str  # of node rank 0
    key_file: str
    master_port: int = GROUP_PORT
    host: str = "127.0.0.1"  # that node rank 0 listens on; a wildcard: on the address that master_addr names


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `serve` needs: the engine's part and the server's own."""

    engine: EngineConfig
    served_model_name: str
    host: str = "127.0.0.1"
    port: int = API_PORT
    health_port: int = HEALTH_PORT
    grpc_port: int = GRPC_PORT
    drain_seconds: float = 120.0
    state_dir: str | None = None  # None: crashes are forgotten with the process
    group: GroupConfig | None = None  # None: all ranks live in this pod


def resolve_model(reference: str) -> Path:
    """The directory that `--model` names: a path, `file:///path` or `demo://`. Raises ConfigError."""
    if "://" not in reference:
        directory = Path(reference)
    else:
        parts = urlsplit(reference)
        if parts.scheme == "demo" and not parts.netloc.strip("/") and not parts.path.strip("/"):
            directory = DEMO_MODEL_DIR
        elif parts.scheme == "file" and parts.netloc in ("", "localhost"):
            directory = Path(unquote(parts.path))
        else:
            raise ConfigError(
                f"--model {reference}: serve takes a directory, file:///directory or demo://; "
                "fetch others first with `python -m ryzanstein_worker fetch`."
            )
    if not directory.is_dir():
        raise ConfigError(f"The model directory {directory} does not exist.")
    return directory


def default_state_dir(port: int) -> str | None:
    """This user's place in the scratch space: in a pod a volume that outlives the container's restarts. None where
    the next start has another port and so could not know what is its own."""
    if port == 0:
        return None
    return str(Path(tempfile.gettempdir()) / f"ryzanstein-{os.getuid()}")


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of `serve`."""
    defaults = EngineConfig(model_dir="")
    parser.add_argument("--model", required=True, metavar="REF", help="a directory, file:///directory or demo://")
    parser.add_argument("--served-model-name", metavar="NAME", help='the name that clients put in "model"')
    parser.add_argument("--tensor-parallel-size", "-tp", type=_positive_int, default=1, metavar="N", help="ranks")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_port, default=API_PORT, help="the API (default %(default)s; 0: any free one)")
    parser.add_argument("--health-port", type=_port, default=HEALTH_PORT, help="probes, metrics (default %(default)s)")
    parser.add_argument("--grpc-port", type=_port, default=GRPC_PORT, help="the gRPC API (default %(default)s)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    parser.add_argument("--max-model-len", type=_positive_int, metavar="N", help="prompt and output tokens together")
    parser.add_argument("--max-num-seqs", type=_positive_int, default=defaults.max_num_seqs, metavar="N")
    parser.add_argument("--max-num-batched-tokens", type=_positive_int, metavar="N", help="tokens a step")
    parser.add_argument("--block-size", type=_positive_int, default=defaults.block_size, metavar="N")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--num-kv-blocks", type=_positive_int, metavar="N")
    size.add_argument("--kv-cache-memory-bytes", type=_positive_int, metavar="N", help="for each rank")
    parser.add_argument("--gpu-memory-utilization", type=_fraction, default=defaults.gpu_memory_utilization)
    parser.add_argument("--no-enable-prefix-caching", dest="enable_prefix_caching", action="store_false")
    parser.add_argument("--max-queued-requests", type=_positive_int, default=defaults.max_queued_requests, metavar="N")
    parser.add_argument("--drain-seconds", type=_seconds, default=120.0, metavar="S")
    parser.add_argument(
        "--state-dir", metavar="DIR", help="remembers what ran at a crash (default: in the scratch space)"
    )
    _add_group_arguments(parser)
    parser.add_argument("--startup-timeout-seconds", type=_seconds, default=defaults.startup_timeout_seconds)
    parser.add_argument("--hang-timeout-seconds", type=_seconds, default=defaults.hang_timeout_seconds)


def _add_group_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nnodes", type=_positive_int, default=1, metavar="N", help="pods of the group")
    parser.add_argument("--node-rank", type=_whole, default=0, metavar="K", help="this pod's place, from 0")
    parser.add_argument("--master-addr", metavar="HOST", help="where node rank 0 is met")
    parser.add_argument("--master-port", type=_port, default=GROUP_PORT, metavar="P", help="(default %(default)s)")
    parser.add_argument(
        "--group-key-file",
        metavar="FILE",
        default=os.environ.get(ENV_GROUP_KEY_FILE),
        help=f"the key that the group's pods share (default: {ENV_GROUP_KEY_FILE})",
    )


def serve_config(arguments: argparse.Namespace) -> ServeConfig:
    """Check the parsed flags against each other and the machine. Raises ConfigError."""
    directory = resolve_model(arguments.model)
    batched, seqs = arguments.max_num_batched_tokens, arguments.max_num_seqs
    if batched is not None and batched < seqs:
        # Every running sequence decodes one token a step, so a smaller budget would starve some for ever.
        raise ConfigError(f"--max-num-batched-tokens {batched} must be at least --max-num-seqs {seqs}.")
    fields = {name: getattr(arguments, name) for name in EngineConfig.__struct_fields__ if hasattr(arguments, name)}
    group = _group_config(arguments)
    ranks = arguments.tensor_parallel_size // arguments.nnodes
    engine = EngineConfig(**fields, model_dir=str(directory), threads_per_rank=max(1, usable_cpus() // ranks))
    default_name = "demo" if directory == DEMO_MODEL_DIR else directory.resolve().name
    return ServeConfig(
        engine=engine,
        served_model_name=arguments.served_model_name or default_name,
        host=arguments.host,
        port=arguments.port,
        health_port=arguments.health_port,
        grpc_port=arguments.grpc_port,
        drain_seconds=arguments.drain_seconds,
        state_dir=arguments.state_dir or default_state_dir(arguments.port),
        group=group,
    )


def _group_config(arguments: argparse.Namespace) -> GroupConfig | None:
    """None for a group of one pod. Raises ConfigError."""
    nodes, place, ranks = arguments.nnodes, arguments.node_rank, arguments.tensor_parallel_size
    if place >= nodes:
        raise ConfigError(f"--node-rank {place} is not in a group of --nnodes {nodes}; the first is 0.")
    if ranks % nodes:
        raise ConfigError(f"--tensor-parallel-size {ranks} cannot be spread evenly over --nnodes {nodes}.")
    if nodes == 1:
        return None
    if not arguments.master_addr:
        raise ConfigError(f"--nnodes {nodes} needs --master-addr: where node rank 0 is met.")
    if not arguments.group_key_file:
        raise ConfigError(f"--nnodes {nodes} needs --group-key-file (or {ENV_GROUP_KEY_FILE}): the group's key.")
    return GroupConfig(
        node_rank=place,
        master_addr=arguments.master_addr,
        master_port=arguments.master_port,
        key_file=arguments.group_key_file,
        host=arguments.host,
    )


def _positive_int(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**48:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text) < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 0 and 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _fraction(text: str) -> float:
    value = _seconds(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value
