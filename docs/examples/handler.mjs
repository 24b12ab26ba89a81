// A handler with Node's standard library: one POST for each event.
import { createServer } from "node:http";

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  let subject, data;
  try {
    // Attributes in headers are percent-encoded.
    subject = decodeURIComponent(request.headers["ce-subject"] ?? "");
    data = JSON.parse(Buffer.concat(chunks));
  } catch {
    response.writeHead(400).end(); // The event will never be right: a dead letter.
    return;
  }
  // Do the work here. The same event (source and id) may come twice.
  console.log("handled", request.headers["ce-id"], subject, JSON.stringify(data));
  response.writeHead(204).end();
});

// The pod is drained before this signal comes, so nothing is under way.
process.on("SIGTERM", () => process.exit(0));
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1");
