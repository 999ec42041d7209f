"""A client that loses nothing when the node it asked dies, freezes or is cut off.

    python -m examples.failover llama3.2 "Tell me a story." http://127.0.0.1:11435 http://attic:11435

It asks the next node the same again.  All it needs is the `openai` package (3.14 or newer: older
ones let other errors through when a stream breaks) and one header.  Since all tries have the same
Idempotency-Key and the same API key (`OPENAI_API_KEY`), they are one request to the mesh: the model
is asked once, and whichever node is asked tells the answer there is, from its start.
"""

import itertools
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import openai

TRIES, PAUSE_S = 40, 0.5
SILENCE_S = 10.0  # the library tells the node, which then says something every 5 s


def ask(nodes: Sequence[str], *, silence_s: float = SILENCE_S, **request: Any) -> Iterator[str]:
    """The text of a chat as it comes, each piece once, whatever becomes of the nodes."""
    same, told = {"Idempotency-Key": str(uuid.uuid4())}, ""
    key, patience = os.environ.get("OPENAI_API_KEY", "none"), openai.Timeout(silence_s, connect=3)
    for node in itertools.islice(itertools.cycle(nodes), TRIES):
        client = openai.OpenAI(base_url=f"{node}/v1", api_key=key, timeout=patience, max_retries=0)
        heard = ""
        try:
            chunks = client.chat.completions.create(**request, stream=True, extra_headers=same)
            for choice in (choice for chunk in chunks for choice in chunk.choices):
                heard += choice.delta.content or ""
                new = heard[len(told) :]
                if not (told + new).startswith(heard):
                    raise RuntimeError("that run was lost, and another one says other words")
                told += new
                yield new
                if choice.finish_reason:
                    return
        except openai.APIStatusError as error:
            if error.status_code < 500:
                raise  # another node would say the same
        except openai.APIError:
            pass  # it died, or there was silence for too long
        time.sleep(PAUSE_S)  # a mesh in trouble is not to be flooded
    raise TimeoutError(f"no answer after {TRIES} tries at {', '.join(nodes)}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    model, prompt, *urls = sys.argv[1:]
    for piece in ask(urls, model=model, messages=[{"role": "user", "content": prompt}]):
        print(piece, end="", flush=True)
