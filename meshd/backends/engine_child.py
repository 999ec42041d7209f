"""The bundled engine's process: llama.cpp's own HTTP server, from the xllamacpp wheel.

    python -m meshd.backends.engine_child --gguf FILE [--port 0] [--alias NAME] [--slots 4] ...

It serves on loopback only, prints one line of JSON on stdout when it is ready,

    {"ready": "http://127.0.0.1:40123", "pid": 4711}

and says everything else, llama.cpp's own words too, on stderr.  It ends at once when its stdin
ends: the parent holds the other end of that pipe and never writes, so whatever kills the parent,
kill -9 included, takes the engine along.  SIGTERM and SIGINT end it at once as well: llama.cpp's
own way out would hold open streams until their next keep-alive comment (30 s), and an engine has
nothing to save.

It imports nothing of meshd, so that the parent can run it as a plain file and it starts quickly.
No telemetry, no downloads (llama.cpp's offline mode), no web page, no file access over HTTP.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final, NoReturn

EXIT_NO_ENGINE: Final = 3
"""The xllamacpp wheel is not installed."""
EXIT_NO_START: Final = 4
"""llama.cpp did not take the model or the port; its words are on stderr."""

NICENESS: Final = 10
"""An engine that computes on the CPU must not keep the daemon, which moves everybody's tokens, from
running (nor the person at the machine from working)."""

_TINY_BYTES: Final = 16 * 1024 * 1024
"""Below this, handing work between threads costs more than the work."""
_HEAD_BYTES: Final = 1024 * 1024
"""Enough of a GGUF file for what stands before the vocabulary."""
_SSE_COMMENT_S: Final = 5
"""How often a silent stream shows that it lives."""


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m meshd.backends.engine_child",
        description="Serve one GGUF file on loopback until stdin ends.",
    )
    parser.add_argument("--gguf", required=True, help="the model file")
    parser.add_argument("--alias", default="", help="the model's name (default: the file's)")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--slots", type=int, default=4, help="requests at once (llama.cpp: <= 256)")
    parser.add_argument("--context-tokens", type=int, default=4096, help="of each slot; 0: model's")
    parser.add_argument("--embedding", action="store_true", help="serve /v1/embeddings too")
    parser.add_argument("--threads", type=int, default=0, help="compute threads; 0: choose")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="-1: as many as fit")
    parser.add_argument(
        "--kv-f32", action="store_true", help="exact repeats under load: KV cache in F32"
    )
    return parser.parse_args(arguments)


def parameters(chosen: argparse.Namespace, xllamacpp: Any) -> Any:
    """llama.cpp's parameters for these options."""
    p = xllamacpp.CommonParams()
    p.model.path = chosen.gguf
    p.model_alias = {chosen.alias or os.path.basename(chosen.gguf).removesuffix(".gguf")}
    p.hostnames = ["127.0.0.1"]
    p.port = chosen.port
    p.n_parallel = chosen.slots
    # llama.cpp divides n_ctx among the slots, unless they share one cache
    p.n_ctx = chosen.context_tokens * chosen.slots
    p.kv_unified = chosen.context_tokens == 0
    p.n_gpu_layers = chosen.gpu_layers
    threads = chosen.threads
    if not threads and os.path.getsize(chosen.gguf) < _TINY_BYTES:
        threads = 1
    if threads:
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
    p.cache_ram_mib = 0  # the slots' own caches stay; this one is 8 GiB of host memory by default
    p.sse_ping_interval = _SSE_COMMENT_S
    p.verbosity = 1
    p.offline = True
    p.ui = False
    p.cors_origins = ""  # no web page may talk to it behind the daemon's back
    p.endpoint_props = False  # changing them by POST; reading them always works
    p.endpoint_slots = True
    p.endpoint_metrics = False
    if chosen.kv_f32:
        p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        p.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if chosen.embedding:
        p.embedding = True
        if not _names_its_pooling(chosen.gguf):
            p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        if chosen.context_tokens:
            p.n_batch = p.n_ubatch = chosen.context_tokens  # an input must fit one batch
    return p


def _names_its_pooling(gguf: str) -> bool:
    """Whether the model says how its vectors are made; models for text do not."""
    with open(gguf, "rb") as file:
        return b".pooling_type" in file.read(_HEAD_BYTES)


def _leave(code: int) -> NoReturn:
    """Without waiting for llama.cpp's threads or for open streams."""
    sys.stderr.flush()
    os._exit(code)


def _die_with_parent() -> None:
    while os.read(0, 4096):
        pass
    _leave(0)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Serve until stdin ends or a signal comes."""
    chosen = options(arguments)
    os.nice(NICENESS)
    # llama.cpp logs to stdout too: keep that for the ready line alone.
    ready = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_die_with_parent, name="die-with-parent", daemon=True).start()
    try:
        import xllamacpp
    except ImportError as error:
        print(
            f"xllamacpp cannot be imported ({error}): pip install 'meshd[engine]'", file=sys.stderr
        )
        _leave(EXIT_NO_ENGINE)
    try:
        server = xllamacpp.Server(parameters(chosen, xllamacpp))
    except Exception as error:  # whatever llama.cpp throws: the process ends with its words
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        _leave(EXIT_NO_START)
    for number in (signal.SIGINT, signal.SIGTERM):  # llama.cpp put its own handlers in place
        signal.signal(number, lambda number, _frame: _leave(128 + number))
    line = json.dumps({"ready": server.listening_address, "pid": os.getpid()})
    os.write(ready, line.encode() + b"\n")
    os.close(ready)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
