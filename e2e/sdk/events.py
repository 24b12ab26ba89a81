"""The events of every check here: what is odd in them must arrive as it is."""

from datetime import datetime, timezone

from cloudevents.core.v1.event import CloudEvent


def event(name: str, number: str) -> CloudEvent:
    """An event whose id says who sent it and how."""
    attributes = {
        "id": f"{name}-{number}",
        "source": f"/sdk/{name}",
        "type": "com.example.größe",
        "subject": 'Größe "7" 50%',
        "time": datetime(2026, 1, 31, 17, 31, tzinfo=timezone.utc),
        "datacontenttype": "application/json",
        "partitionkey": "a.b *>",
    }
    return CloudEvent(attributes, {"text": "größe", "number": 23.5})
