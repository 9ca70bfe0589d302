"""Quix Streams: a stateful filter, exactly once, its state in RocksDB with a changelog topic.

Usage: drop_quix.py BOOTSTRAP PREFIX FOLDER PARTITIONS.
"""

import logging
import sys
from typing import Any

from quixstreams import Application, State

COMMIT_EVERY = 10_000


def first(_: Any, state: State) -> bool:
    """Return whether a key comes for the first time."""
    if state.get("s") is not None:
        return False
    state.set("s", 1)
    return True


def main(bootstrap: str, prefix: str, folder: str) -> None:
    """Run until terminated."""
    app = Application(
        broker_address=bootstrap,
        consumer_group=prefix,
        state_dir=folder + "/state",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=COMMIT_EVERY,
        commit_interval=1.0,
        loglevel=logging.WARNING,
    )
    source = app.topic(f"{prefix}.in", key_deserializer="bytes", value_deserializer="bytes")
    target = app.topic(f"{prefix}.out", key_serializer="bytes", value_serializer="bytes")
    frame = app.dataframe(source)
    frame = frame.filter(first, stateful=True)
    frame.to_topic(target)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:4])
