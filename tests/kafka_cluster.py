"""A real cluster of Apache Kafka, of three brokers: its jars come by Maven, Java runs them.

Each node is broker and controller at once (KRaft). Topics are not made by themselves; there is a listener with TLS and
SASL/PLAIN besides the plain one, for the user `pixel` with the password `right`.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from consuming import consume
from pausing import pause
from processes import PATIENCE_S, Program, reserved_port, until

VERSION = "3.9.1"
JARS = Path(os.environ.get("PIXEL_KAFKA_JARS", Path.home() / ".cache" / "pixel-middleware" / f"kafka-{VERSION}"))
POM = f"""<project><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>tests</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>"""
NODES = (1, 2, 3)


def missing():
    """Why there can be no cluster here; `None` if there can."""
    for program in ("java", "mvn", "openssl"):
        if shutil.which(program) is None:
            return f"a cluster of Apache Kafka needs {program}"
    with _only_one_process():
        if not (JARS / "complete").exists():
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "pom.xml").write_text(POM)
                command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
                done = subprocess.run(
                    [*command, f"-DoutputDirectory={JARS}"], cwd=folder, capture_output=True, text=True, timeout=600
                )
            if done.returncode:
                return f"Maven cannot get Apache Kafka: {done.stdout.strip()[-200:]}"
            (JARS / "complete").touch()
    return None


@contextmanager
def _only_one_process():
    """Workers of one test run download once."""
    JARS.mkdir(parents=True, exist_ok=True)
    with (JARS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Cluster:
    """Three brokers. `folder` takes their files; `close()` ends them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.id = uuid.uuid4().hex[:22]
        self._reservations = ExitStack()
        reserve = self._reservations.enter_context
        uses = ("plain", "secure", "controller")
        self.ports = {node: {use: reserve(reserved_port()) for use in uses} for node in NODES}
        self.address = ",".join(f"127.0.0.1:{self.ports[node]['plain']}" for node in NODES)
        self.secure_address = ",".join(f"127.0.0.1:{self.ports[node]['secure']}" for node in NODES)
        self._processes = {}
        self._make_certificate()
        for node in NODES:
            self._configure(node)
            self.start(node)
        self.until_all_are_up()

    def _make_certificate(self):
        self.certificate = self.folder / "broker.pem"
        key, pair = self.folder / "broker.key", self.folder / "pair.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run([*command, *names], check=True, capture_output=True)
        pair.write_text(key.read_text() + self.certificate.read_text())

    def _configure(self, node):
        ports = self.ports[node]
        home = self.folder / str(node)
        (home / "data").mkdir(parents=True)
        # What `kafka-storage.sh format` writes, without the JVM that it takes.
        (home / "data" / "meta.properties").write_text(f"version=1\ncluster.id={self.id}\nnode.id={node}\n")
        listeners = {"PLAINTEXT": ports["plain"], "SASL_SSL": ports["secure"]}
        jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required user_pixel='right';"
        settings = {
            "process.roles": "broker,controller",
            "node.id": node,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{self.ports[n]['controller']}" for n in NODES),
            "listeners": ",".join(
                f"{name}://127.0.0.1:{port}" for name, port in {**listeners, "CONTROLLER": ports["controller"]}.items()
            ),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items()),
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": home / "data",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.folder / "pair.pem",
            "default.replication.factor": 3,
            "min.insync.replicas": 2,
            "offsets.topic.replication.factor": 3,
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 6000,
            "num.network.threads": 2,
            "num.io.threads": 2,
        }
        (home / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        (home / "log4j.properties").write_text(
            "log4j.rootLogger=WARN, out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n"
            "log4j.appender.out.layout=org.apache.log4j.PatternLayout\n"
        )

    def start(self, node):
        """Start a broker on what it has on disk."""
        home = self.folder / str(node)
        memory = ["-Xms192m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        with (home / "output.log").open("a") as log:
            command = ["java", *memory, "-cp", f"{JARS}/*", "kafka.Kafka", home / "server.properties"]
            self._processes[node] = Program(command, stdout=log, stderr=log)

    def kill(self, *nodes):
        """SIGKILL."""
        self._end(nodes, signal.SIGKILL)

    def shut_down(self, *nodes):
        """SIGTERM: a broker hands over what it leads."""
        self._end(nodes, signal.SIGTERM)

    def _end(self, nodes, how):
        for node in nodes:
            self._processes[node].send_signal(how)
        for node in nodes:
            self._processes[node].wait(PATIENCE_S)
            self._processes[node].end()

    def pause(self, *nodes):
        """They hang: connections stay, and nothing is answered."""
        for node in nodes:
            pause(self._processes[node])

    def resume(self, *nodes):
        for node in nodes:
            self._processes[node].send_signal(signal.SIGCONT)

    def close(self):
        for process in self._processes.values():
            process.send_signal(signal.SIGKILL)
            process.end()
        self._reservations.close()

    def admin(self):
        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def until_all_are_up(self):
        """Return once each broker answers for itself, and leads or follows in step wherever it should."""
        until(lambda: all(map(self._is_up, NODES)) and self._in_sync(), "a cluster whose brokers are all in sync")

    def _is_up(self, node):
        try:
            address = f"127.0.0.1:{self.ports[node]['plain']}"
            seen = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(timeout=2)
        except KafkaException:
            return False
        return set(seen.brokers) == set(NODES)

    def _in_sync(self):
        topics = self.admin().list_topics(timeout=5).topics.values()
        partitions = [partition for topic in topics for partition in topic.partitions.values()]
        return all(len(partition.isrs) == len(partition.replicas) for partition in partitions)

    def create(self, topic, partitions=6, **limits):
        """Create a topic on all three, once they are up; limits are a topic's settings, with `_` for dots."""
        self.until_all_are_up()
        settings = {name.replace("_", "."): str(value) for name, value in limits.items()}
        new = NewTopic(topic, partitions, 3, config=settings)
        admin = self.admin()  # whose end would end what it does
        admin.create_topics([new])[topic].result(PATIENCE_S)
        until(lambda: all(self._knows(node, topic, partitions) for node in NODES), f"brokers that all know {topic!r}")
        # A broker tells of a partition that it leads before it takes any message for it: one that can be read is there.
        self.consume(topic)

    def _knows(self, node, topic, partitions):
        address = f"127.0.0.1:{self.ports[node]['plain']}"
        # librdkafka asks any broker that it knows of: only a new client asks the one it is pointed at.
        seen = AdminClient({"bootstrap.servers": address, "log_level": 0}).list_topics(topic, timeout=5)
        leaders = [partition.leader for partition in seen.topics[topic].partitions.values()]
        return len(leaders) == partitions and all(leader > 0 for leader in leaders)

    def consume(self, topic):
        """All messages that a topic has now."""
        return consume(self.address, topic)
