"""Lag: how many records of each partition have not been fetched yet."""

from confluent_kafka import Consumer, KafkaException

from config.metrics import Metrics


def measure_lag(consumer: Consumer, metrics: Metrics) -> None:
    """Set `consumer_lag_records` of each assigned partition, from what the client has cached."""
    for partition in consumer.position(consumer.assignment()):
        try:
            _, end = consumer.get_watermark_offsets(partition, cached=True)
        except KafkaException:
            continue
        if partition.offset >= 0 and end >= 0:
            labels = (partition.topic, str(partition.partition))
            metrics.lag.labels(*labels).set(max(end - partition.offset, 0))
