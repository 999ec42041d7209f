"""A client that loses nothing when the node it asked dies: it asks the next one for the rest.

    python -m examples.failover --model llama3.2 http://studio:11435 http://attic:11435

It needs no more than the `openai` package and one header.  All tries have the same Idempotency-Key,
so to the mesh they are one request: the model is asked once, and whichever node is asked tells the
answer that there is, from its start.  What was read before is compared and not shown again.
"""

from __future__ import annotations

import argparse
import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import httpx  # openai stands on it, and lets its errors through when a stream breaks
import openai

TRIES = 40
PAUSE_S = 0.5


def ask(nodes: Sequence[str], *, api_key: str = "none", **request: Any) -> Iterator[str]:
    """The text of a chat, piece by piece, each once, whichever of the nodes dies meanwhile."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    had: list[Any] = []
    for node in itertools.islice(itertools.cycle(nodes), TRIES):
        client = openai.OpenAI(base_url=f"{node}/v1", api_key=api_key, max_retries=0)
        try:
            stream = client.chat.completions.create(**request, stream=True, extra_headers=headers)
            for number, chunk in enumerate(stream):
                if number < len(had):
                    if chunk != had[number]:
                        raise RuntimeError("that run died, and another one says other words")
                    continue
                had.append(chunk)
                yield (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if any(choice.finish_reason for chunk in had for choice in chunk.choices):
                return
        except (httpx.TransportError, openai.APIError) as error:
            if isinstance(error, openai.APIStatusError) and error.status_code < 500:
                raise  # another node would say the same
        time.sleep(PAUSE_S)  # nodes that are down are not to be flooded
    raise TimeoutError(f"no answer after {TRIES} tries at {', '.join(nodes)}")


def main() -> None:
    """Ask once, and print the answer as it comes."""
    options = argparse.ArgumentParser(description="A client that fails over between nodes.")
    options.add_argument("nodes", nargs="+", help="http://NODE:11435, one after another")
    options.add_argument("--model", required=True)
    options.add_argument("--prompt", default="Tell me a long story.")
    options.add_argument("--key", default="none", help="an API key of the mesh, if it wants one")
    given = options.parse_args()
    messages = [{"role": "user", "content": given.prompt}]
    for piece in ask(given.nodes, api_key=given.key, model=given.model, messages=messages):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main()
