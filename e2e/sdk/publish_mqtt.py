"""Publishes over MQTT by paho, the common client: MQTT 5 in binary and structured mode, and MQTT 3.1.1.

publish_mqtt.py HOST PORT CA-FILE TOKEN-FILE; prints the id of each event that was acknowledged. Also checks that what is no event
gets its reason code, and that with MQTT 3.1.1 the connection ends without an acknowledgement.
"""

import sys
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.formats.json import JSONFormat
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from events import event

NAME = "paho"
PAYLOAD_FORMAT_INVALID = 0x99


class Device:
    """One connection. Each publish waits for its acknowledgement."""

    def __init__(self, version: int) -> None:
        host, port, ca, token = sys.argv[1:]
        self.codes: dict[int, int] = {}
        self.answered = threading.Condition()
        self.ended = False
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="sensor-1", protocol=version)
        self.client.tls_set(ca_certs=ca)
        # The token is the password; the name means nothing.
        self.client.username_pw_set("token", Path(token).read_text().strip())
        self.client.on_publish = self.on_publish
        self.client.on_disconnect = self.on_disconnect
        self.client.connect(host, int(port), keepalive=30)
        self.client.loop_start()

    def on_publish(self, client, userdata, packet_id, reason_code, properties) -> None:
        with self.answered:
            self.codes[packet_id] = reason_code.value
            self.answered.notify_all()

    def on_disconnect(self, *_) -> None:
        with self.answered:
            self.ended = True
            self.answered.notify_all()

    def publish(self, payload: bytes, properties: Properties | None = None) -> int | None:
        """The reason code, or nothing if none came."""
        packet_id = self.client.publish("any/topic", payload, qos=1, properties=properties).mid
        with self.answered:
            self.answered.wait_for(lambda: packet_id in self.codes or self.ended, timeout=30)
            return self.codes.get(packet_id)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def properties_of(content_type: str, attributes: dict[str, str]) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = content_type
    properties.UserProperty = list(attributes.items())
    return properties


def check(what: str, code: int | None, wanted: int | None) -> None:
    if code != wanted:
        raise SystemExit(f"{what}: the ingress says {code}, not {wanted}")


def mqtt_5() -> None:
    device = Device(mqtt.MQTTv5)
    binary = event(NAME, "binary")
    text = {name: value if isinstance(value, str) else value.isoformat().replace("+00:00", "Z")
            for name, value in binary.get_attributes().items() if name != "datacontenttype"}
    data = JSONFormat().write_data(binary.get_data(), binary.get_datacontenttype())
    check("binary", device.publish(data, properties_of("application/json", text)), 0)
    structured = to_structured_event(event(NAME, "structured"))
    check("structured", device.publish(structured.body, properties_of("application/cloudevents+json", {})), 0)
    check("no event", device.publish(b"23.5", properties_of("text/plain", {})), PAYLOAD_FORMAT_INVALID)
    device.close()


def mqtt_3() -> None:
    device = Device(mqtt.MQTTv311)
    check("3.1.1", device.publish(to_structured_event(event(NAME, "3.1.1")).body), 0)
    check("no event", device.publish(b"23.5"), None)
    device.close()


mqtt_5()
mqtt_3()
for number in ("binary", "structured", "3.1.1"):
    print(f"{NAME}-{number}")
