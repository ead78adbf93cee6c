"""The worker's command line. Pure; the one place of the operator that knows the worker's flags."""

from ryzanstein_operator.api.inference_service import CPU, InferenceService
from ryzanstein_operator.api.quantity import parse_quantity
from ryzanstein_operator.desired.source import Download, Source
from ryzanstein_worker.contract import API_PORT, GRPC_PORT, HEALTH_PORT


def serve_arguments(service: InferenceService, source: Source) -> list[str]:
    """Arguments of the serving container. What the spec leaves open is left to the worker."""
    spec, engine = service.spec, service.spec.engine
    kv_cache_bytes = int(parse_quantity(engine.kv_cache_memory)) if engine.kv_cache_memory else None
    flags: list[tuple[str, str | int | None]] = [
        ("--model", source.reference),
        ("--served-model-name", service.model_name),
        ("--tensor-parallel-size", spec.parallelism.tensor),
        ("--host", "0.0.0.0"),
        ("--port", API_PORT),
        ("--health-port", HEALTH_PORT),
        ("--grpc-port", GRPC_PORT),
        # torch calls every accelerator with a CUDA-like runtime so, ROCm's too.
        ("--device", "cpu" if spec.accelerator == CPU else "cuda"),
        ("--dtype", engine.dtype),
        ("--max-model-len", engine.max_model_len),
        ("--max-num-seqs", engine.max_num_seqs),
        ("--max-num-batched-tokens", engine.max_batch_tokens),
        ("--block-size", engine.block_size),
        ("--kv-cache-memory-bytes", kv_cache_bytes),
        ("--drain-seconds", spec.disruption.drain_seconds),
    ]
    arguments = [word for flag, value in flags if value is not None for word in (flag, str(value))]
    return ["serve", *arguments, *([] if engine.prefix_caching else ["--no-enable-prefix-caching"])]


def fetch_arguments(download: Download) -> list[str]:
    """Arguments of the init container that downloads the model."""
    return ["fetch", "--uri", download.uri, "--revision", download.revision, "--output", download.output]
