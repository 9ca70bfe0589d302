"""dlt: its REST source into a destination of its own kind that produces with confluent-kafka.

Usage: poll_dlt.py BOOTSTRAP URL TOPIC FOLDER.
"""

import os
import sys
from typing import Any

os.environ |= {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}

import dlt
import orjson
from confluent_kafka import Producer
from dlt.sources.rest_api import rest_api_source


def main(bootstrap: str, url: str, topic: str, folder: str) -> None:
    """Run the pipeline once."""
    producer = Producer({
        "bootstrap.servers": bootstrap,
        "linger.ms": 20,
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
    })

    @dlt.destination(
        batch_size=1000,
        name="kafka",
        naming_convention="direct",
        skip_dlt_columns_and_tables=True,
        max_table_nesting=0,
    )
    def kafka(items: Any, _: Any) -> None:
        for item in items:
            producer.produce(topic, orjson.dumps(item), str(item["id"]))
        producer.flush()

    source = rest_api_source({
        "client": {"base_url": f"{url}/api/"},
        "resources": [
            {
                "name": "customers",
                "max_table_nesting": 0,
                "endpoint": {
                    "path": "customers",
                    "params": {"limit": 100},
                    "data_selector": "docs",
                    "paginator": {
                        "type": "page_number",
                        "base_page": 1,
                        "total_path": None,
                        "stop_after_empty_page": True,
                    },
                },
            }
        ],
    })
    pipeline = dlt.pipeline(pipeline_name="bench", destination=kafka, pipelines_dir=folder, dataset_name="bench")
    pipeline.run(source)


if __name__ == "__main__":
    main(*sys.argv[1:5])
