"""Airbyte's CDK: a declarative source whose records are produced with confluent-kafka as they come.

Usage: poll_airbyte.py BOOTSTRAP URL TOPIC FOLDER.
"""

import sys

import orjson
from airbyte_cdk.models import (
    AirbyteStream,
    ConfiguredAirbyteCatalog,
    ConfiguredAirbyteStream,
    DestinationSyncMode,
    SyncMode,
    Type,
)
from airbyte_cdk.sources.declarative.concurrent_declarative_source import ConcurrentDeclarativeSource
from confluent_kafka import Producer


def parameter(name: str) -> dict[str, str]:
    """Return where a page's number or size goes in a request."""
    return {"type": "RequestOption", "inject_into": "request_parameter", "field_name": name}


def manifest(url: str) -> dict[str, object]:
    """Return the source: one stream, paged by number, 100 a page."""
    return {
        "version": "7.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["customers"]},
        "streams": [
            {
                "type": "DeclarativeStream",
                "name": "customers",
                "primary_key": ["id"],
                "schema_loader": {"type": "InlineSchemaLoader", "schema": {"type": "object", "properties": {}}},
                "retriever": {
                    "type": "SimpleRetriever",
                    "requester": {
                        "type": "HttpRequester",
                        "url_base": url,
                        "path": "/api/customers",
                        "http_method": "GET",
                    },
                    "record_selector": {
                        "type": "RecordSelector",
                        "extractor": {"type": "DpathExtractor", "field_path": ["docs"]},
                    },
                    "paginator": {
                        "type": "DefaultPaginator",
                        "page_token_option": parameter("page"),
                        "page_size_option": parameter("limit"),
                        "pagination_strategy": {
                            "type": "PageIncrement",
                            "start_from_page": 1,
                            "page_size": 100,
                            "inject_on_first_request": True,
                        },
                    },
                },
            }
        ],
        "spec": {"type": "Spec", "connection_specification": {"type": "object", "properties": {}}},
    }


def main(bootstrap: str, url: str, topic: str) -> None:
    """Read the stream once."""
    producer = Producer({
        "bootstrap.servers": bootstrap,
        "linger.ms": 20,
        "partitioner": "murmur2_random",
        "enable.idempotence": True,
    })
    stream = AirbyteStream(name="customers", json_schema={}, supported_sync_modes=[SyncMode.full_refresh])
    catalog = ConfiguredAirbyteCatalog(
        streams=[ConfiguredAirbyteStream(stream, SyncMode.full_refresh, DestinationSyncMode.append)]
    )
    source = ConcurrentDeclarativeSource(catalog=catalog, config={}, state=[], source_config=manifest(url))
    for message in source.read(source.logger, {}, catalog, []):
        if message.type != Type.RECORD:
            continue
        data = message.record.data
        while True:
            try:
                producer.produce(topic, orjson.dumps(data), str(data["id"]))
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:4])
