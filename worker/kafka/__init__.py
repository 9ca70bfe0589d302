"""Kafka's clients as the tasks need them: every wait bounded, every error told apart, no half-known outcome.

Guarantees that aiokafka does not give by itself, each beside the code that gives it:

- a record that the broker rejects fails the transaction, where aiokafka would commit without it (`producer`);
- EndTxn is sent once: what became of an unanswered one is unknown, and sending it again under the same epoch can end
  the next transaction instead (the torn transaction of Jepsen's analysis of Bufstream 0.1.0; `producer`);
- a consumer that can fetch nothing any more says so, and `stop()` of a client never hangs its caller (`clients`).
"""

from worker.kafka.admin import Admin
from worker.kafka.clients import CLOSE_TIMEOUT, bounded_stop, linger, unawaited
from worker.kafka.connection import Connection, apply_topics, plan_topics
from worker.kafka.inputs import MARKERS_SECONDS, emptied, undecodable, unreadable
from worker.kafka.producer import Encoded, Outputs, TransactionalProducer, demand_assertions

__all__ = [
    "CLOSE_TIMEOUT",
    "MARKERS_SECONDS",
    "Admin",
    "Connection",
    "Encoded",
    "Outputs",
    "TransactionalProducer",
    "apply_topics",
    "bounded_stop",
    "demand_assertions",
    "emptied",
    "linger",
    "plan_topics",
    "unawaited",
    "undecodable",
    "unreadable",
]
