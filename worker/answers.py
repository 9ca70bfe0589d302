"""What becomes of a person's command, on the status topic under `command/<id>`: one record, whoever carries it out."""

from collections.abc import Mapping

import orjson


def key(id_: str) -> bytes:
    """Return the key of the answer to a command."""
    return f"command/{id_}".encode()


def answer(given: Mapping[str, object], outcome: str, message: str, now: int) -> tuple[bytes, bytes]:
    """Return key and value of the answer to a command: what was `given` (its `id` among it), and what became of it.

    `message` is a sentence for the person; `now` is in milliseconds since the epoch.
    """
    value = {"kind": "command", **given, "outcome": outcome, "message": message, "handled_at": now}
    return key(str(given["id"])), orjson.dumps(value)
