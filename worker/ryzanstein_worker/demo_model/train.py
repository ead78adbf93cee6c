"""Trains the model that ships with the project, from nothing, on two CPU cores.

    python worker/ryzanstein_worker/demo_model/train.py --output DIR

Text: the documentation strings of the Python standard library (PSF licence), read from its sources without
importing them, and its language reference (`pydoc_data.topics`).
A part of it is also told as questions and answers, so that the chat template has something to say.

Result: a llama-shaped checkpoint in Hugging Face layout (bfloat16 safetensors of at most 8 MB, byte-level BPE
tokenizer, chat template) and README.md with the perplexity on documents that were held out: one in 20, chosen
by the SHA-256 of their text, so that a change of one document does not move the others.

Needs the development environment (transformers). Never imported by the runtime.
"""

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import math
import pydoc_data.topics
import random
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

BOS, EOS, USER, ASSISTANT, END = "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|end|>"
VOCAB_SIZE = 4096
CONTEXT = 1024
COMPILED = (
    "builtins", "array", "collections", "datetime", "functools", "io", "itertools", "math", "operator", "os", "re",
    "socket", "sqlite3", "time", "zlib",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>' + message['content'] + '<|end|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n' }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def docstrings(source: Path, module: str) -> Iterator[tuple[str, str]]:
    """(dotted name, documentation string) of everything documented in one source file, by its syntax tree."""
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return  # lib2to3's and the tests' deliberately broken files

    def walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if text := ast.get_docstring(child):
                    yield f"{name}.{child.name}", text
                yield from walk(child, f"{name}.{child.name}")

    if text := ast.get_docstring(tree):
        yield module, text
    yield from walk(tree, module)


def library() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for source in sorted(root.rglob("*.py")):
        parts = source.relative_to(root).with_suffix("").parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"} & set(parts):
            continue
        yield from docstrings(source, ".".join(part for part in parts if part != "__init__"))


def builtins() -> Iterator[tuple[str, str]]:
    """What is written in C has its documentation at run time only."""
    for module in COMPILED:
        home = importlib.import_module(module)
        prefix = "" if module == "builtins" else f"{module}."
        for name in sorted(dir(home)):
            thing = getattr(home, name)
            if name.startswith("_") or not callable(thing) or not (doc := inspect.getdoc(thing)):
                continue
            yield prefix + name, doc
            if inspect.isclass(thing):
                for member in sorted(vars(thing)):
                    if not member.startswith("_") and (doc := inspect.getdoc(getattr(thing, member))):
                        yield f"{prefix}{name}.{member}", doc


def question(name: str, answer: str, draw: random.Random) -> str:
    ask = draw.choice(["What does {} do?", "What is {}?", "Explain {}.", "Tell me about {}."]).format(name)
    return f"{USER}{ask}{END}{ASSISTANT}{answer}{END}"


def corpus() -> tuple[list[str], list[str]]:
    """Training and held-out documents, each once, in an order that the seed alone decides."""
    draw = random.Random(7)
    seen: set[str] = set()
    train: list[str] = []
    held_out: list[str] = []

    def add(text: str, *tellings: str) -> None:
        digest = hashlib.sha256(text.encode()).digest()
        if len(text) < 20 or text in seen:
            return
        seen.add(text)
        (held_out if digest[0] % 20 == 0 else train).extend([text, *tellings])

    for name, text in [*library(), *builtins()]:
        first = re.split(r"\n\s*\n", text.strip())[0]
        short = ".".join(name.split(".")[-2:])
        told = f"{name}: {text}"
        add(told, *([question(short, " ".join(first.split()), draw)] if 20 < len(first) < 400 else []))
    for topic in pydoc_data.topics.topics.values():
        for section in re.split(r"\n(?=[^\n]+\n[=*\-~^\"]{4,}\n)", topic):
            add(section.strip())
    draw.shuffle(train)
    return train, held_out


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=[BOS, EOS, USER, ASSISTANT, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def pack(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """One long row of int64 token ids: each document as bos, text, eos."""
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    rows = [[bos, *encoding.ids, eos] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    return torch.tensor([token for row in rows for token in row])


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, ids: torch.Tensor, length: int = 512) -> float:
    """exp of the mean negative log likelihood a token, over windows of `length` that do not overlap."""
    model.train(False)
    windows = ids[: len(ids) // length * length].view(-1, length)
    losses = [model(input_ids=window[None], labels=window[None]).loss.item() for window in windows]
    model.train()
    return math.exp(sum(losses) / len(losses))


def learn(model: LlamaForCausalLM, ids: torch.Tensor, steps: int, minutes: float) -> int:
    """AdamW with warm-up and cosine; short windows first, whole contexts for the last tenth. Returns steps done."""
    generator = torch.Generator().manual_seed(7)
    decay = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    start, smooth = time.monotonic(), None
    for step in range(steps):
        length, batch = (256, 8) if step < steps * 0.9 else (CONTEXT, 2)
        rate = 3e-3 * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        offsets = torch.randint(len(ids) - length, (batch,), generator=generator)
        window = torch.stack([ids[offset : offset + length] for offset in offsets.tolist()])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=window, labels=window).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {smooth:.3f} {(time.monotonic() - start) / 60:.1f} min", flush=True)
        if time.monotonic() - start > minutes * 60:
            raise SystemExit(f"not done after {minutes} minutes: lower --steps, or give more --minutes")
    return steps


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(output)
    (output / "model.safetensors").chmod(0o644)  # it is written 0600, and a worker runs as another user
    tokenizer.save(str(output / "tokenizer.json"))
    special = {"bos_token": BOS, "eos_token": EOS, "chat_template": CHAT_TEMPLATE, "model_max_length": CONTEXT}
    document = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True}
    (output / "tokenizer_config.json").write_text(json.dumps(document, indent=2) + "\n")
    ids = {"bos_token_id": tokenizer.token_to_id(BOS), "eos_token_id": [tokenizer.token_to_id(t) for t in (EOS, END)]}
    (output / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=90)
    arguments = parser.parse_args()
    torch.manual_seed(7)
    train, held_out = corpus()
    tokenizer = train_tokenizer(train)
    ids, held_out_ids = pack(tokenizer, train), pack(tokenizer, held_out)
    print(f"{len(train)} documents, {len(ids)} tokens; held out {len(held_out)} and {len(held_out_ids)}", flush=True)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=256, intermediate_size=640, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS), eos_token_id=tokenizer.token_to_id(EOS), rms_norm_eps=1e-5,
    )  # fmt: skip
    config._attn_implementation = "eager"  # for windows this short it is the faster backward pass
    model = LlamaForCausalLM(config)
    start = time.monotonic()
    learn(model, ids, arguments.steps, arguments.minutes)
    result = perplexity(model, held_out_ids)
    save(model, tokenizer, arguments.output)
    summary = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": len(ids), "held_out_tokens": len(held_out_ids), "steps": arguments.steps,
        "held_out_perplexity": round(result, 2), "minutes": round((time.monotonic() - start) / 60, 1),
    }  # fmt: skip
    (arguments.output / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
