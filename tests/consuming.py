"""Reads what a topic of Kafka has."""

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from processes import PATIENCE_S, until


def consume(address, topic):
    """All messages that a topic has now, in the order of each partition."""
    options = {"bootstrap.servers": address, "group.id": "tests", "enable.auto.commit": False, "log_level": 0}
    # To ask where a partition ends is no way: the small broker gives too low a number, and reading does find the end.
    consumer = Consumer(options | {"enable.partition.eof": True, "fetch.wait.max.ms": 50})
    unread = set(consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in unread])
    messages = []

    def are_here():
        for message in consumer.consume(10_000, timeout=0.2):
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                unread.discard(message.partition())
        return not unread

    until(are_here, f"the messages of {topic!r}")
    consumer.close()
    return messages
