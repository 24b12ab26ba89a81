"""Publishes over NATS by the common client for Python: a plain request, and JetStream's publish.

publish_nats.py tls://HOST:PORT IDENTITY-FOLDER; prints the id of each event that was acknowledged.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

import nats
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from nats.js.errors import APIError

from events import event

NAME = "nats"
SUBJECT = "publish"


async def main() -> None:
    server, folder = sys.argv[1], Path(sys.argv[2])
    tls = ssl.create_default_context(cafile=folder / "ca.crt")
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    credentials = (str(folder / "user.jwt"), str(folder / "user.seed"))
    client = await nats.connect(server, tls=tls, user_credentials=credentials)

    binary = to_binary_event(event(NAME, "binary"))
    answer = await client.request(SUBJECT, binary.body, headers=binary.headers, timeout=10)
    if "seq" not in json.loads(answer.data):
        raise SystemExit(f"the ingress says {answer.data!r}")
    structured = to_structured_event(event(NAME, "structured"))
    stream = client.jetstream()
    first = await stream.publish(SUBJECT, structured.body, headers=structured.headers)
    again = await stream.publish(SUBJECT, structured.body, headers=structured.headers)
    if first.duplicate or not again.duplicate or first.seq != again.seq:
        raise SystemExit(f"a repetition was not recognised: {first} {again}")
    try:
        await stream.publish(SUBJECT, b"23.5")
        raise SystemExit("what is no event was taken")
    except APIError as error:
        if error.code != 400:
            raise SystemExit(f"the ingress says {error}") from error
    await client.close()
    for number in ("binary", "structured"):
        print(f"{NAME}-{number}")


asyncio.run(main())
