// A handler that reads what it is sent by the CloudEvents SDK for JavaScript.
//
// receive.mjs PORT; prints one line of JSON for each event, as the SDK understands it.

import { createServer } from "node:http";
import { HTTP } from "cloudevents";

const mode = (headers) => {
  const type = headers["content-type"] ?? "";
  if (type.startsWith("application/cloudevents-batch+json")) return "batch";
  return type.startsWith("application/cloudevents+json") ? "structured" : "binary";
};

// In binary mode attributes are percent-encoded (HTTP binding 1.0.2, section 3.1.3.2), and the SDK leaves them so: a
// handler with more than ASCII in its attributes does this, or takes another mode.
const decoded = ({ datacontenttype, ...attributes }) => {
  const set = Object.entries(attributes).filter(([, value]) => value !== undefined);
  return { datacontenttype, ...Object.fromEntries(set.map(([name, value]) => [name, decodeURIComponent(value)])) };
};

const told = (mode, event) => {
  const { data, data_base64: base64, ...encoded } = event.toJSON();
  const attributes = mode === "binary" ? decoded(encoded) : encoded;
  // What is no JSON and no text comes as bytes.
  const bytes = base64 ?? (ArrayBuffer.isView(data) ? Buffer.from(data).toString("base64") : undefined);
  return { mode, attributes, data: bytes === undefined ? (data ?? null) : { base64: bytes } };
};

const received = (headers, body) => {
  const events = HTTP.toEvent({ headers, body });
  return (Array.isArray(events) ? events : [events]).map((event) => told(mode(headers), event));
};

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    try {
      // The SDK wants text where the body is text.
      const text = !(request.headers["content-type"] ?? "").startsWith("application/octet-stream");
      for (const event of received(request.headers, text ? body.toString() : body)) {
        console.log(JSON.stringify(event));
      }
      response.writeHead(204).end();
    } catch (error) {
      console.log(JSON.stringify({ error: `${error.stack}` }));
      response.writeHead(400).end();
    }
  });
}).listen(Number(process.argv[2]), "127.0.0.1");
