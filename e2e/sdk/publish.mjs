// Publishes by the CloudEvents SDK for JavaScript over HTTPS: binary, structured, and a batch.
//
// publish.mjs URL CA-FILE TOKEN-FILE; prints the id of each event that was accepted.

import { readFileSync } from "node:fs";
import { request } from "node:https";
import { CloudEvent, HTTP } from "cloudevents";

const NAME = "javascript";
const [url, caFile, tokenFile] = process.argv.slice(2);
const ca = readFileSync(caFile);

// What is odd in it must arrive as it is.
const event = (number) =>
  new CloudEvent({
    id: `${NAME}-${number}`,
    source: `/sdk/${NAME}`,
    type: "com.example.größe",
    subject: 'Größe "7" 50%',
    time: "2026-01-31T17:31:00Z",
    datacontenttype: "application/json",
    partitionkey: "a.b *>",
    data: { text: "größe", number: 23.5 },
  });

// Any answer but 202 is an error.
const post = (headers, body) =>
  new Promise((resolve, reject) => {
    // Read for each request: the kubelet replaces it.
    const authorization = `Bearer ${readFileSync(tokenFile, "utf8").trim()}`;
    const options = { method: "POST", headers: { ...headers, authorization }, ca, timeout: 30_000 };
    const sending = request(url, options, (response) => {
      response.resume();
      response.on("end", () =>
        response.statusCode === 202 ? resolve() : reject(new Error(`the ingress says ${response.statusCode}`)),
      );
    });
    sending.on("error", reject);
    sending.end(body);
  });

const binary = HTTP.binary(event("binary"));
await post(binary.headers, binary.body);
const structured = HTTP.structured(event("structured"));
await post(structured.headers, structured.body);
// The SDK writes no batches: a batch is an array of structured events.
const batch = [0, 1].map((number) => HTTP.structured(event(`batch-${number}`)).body);
await post({ "content-type": "application/cloudevents-batch+json" }, `[${batch.join(",")}]`);
for (const number of ["binary", "structured", "batch-0", "batch-1"]) {
  console.log(`${NAME}-${number}`);
}
