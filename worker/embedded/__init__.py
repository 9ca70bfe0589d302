"""A real Apache Kafka, in KRaft mode, as child processes: for the demo, the tests and a first try. Not for production.

    async with embedded.cluster() as kafka:            one node, data in a temporary folder
    async with embedded.cluster(folder, nodes=3) as kafka:
        kafka.bootstrap, kafka.nodes[0].pid, await kafka.kill(0), await kafka.start_node(0)

    await embedded.start_detached(folder); embedded.status(folder); await embedded.stop_detached(folder)

It guarantees that every broker is Apache Kafka itself, from jars verified against a lock (`jars`); that all of it
listens on 127.0.0.1 only; that no broker of `cluster` outlives the program, however that ends (`guard`); that a data
folder is used once at a time, and a process that merely got a broker's old pid is never signalled (`layout`); and that
every wait has a bound. Linux; needs the extra `embedded`, or a Java 17 and a filled cache.
"""

from worker.embedded.attached import Cluster, cluster
from worker.embedded.detached import Running, start_detached, status, stop_detached
from worker.embedded.layout import Security

__all__ = ["Cluster", "Running", "Security", "cluster", "start_detached", "status", "stop_detached"]
