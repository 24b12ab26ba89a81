// A handler with the JDK's own server: one POST for each event. `java Handler.java` compiles and runs it.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

public class Handler {
    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.setExecutor(Executors.newFixedThreadPool(16)); // One thread unless set.
        server.createContext("/", Handler::handle);
        server.start();
        // The JVM ends at SIGTERM. The pod is drained before, so nothing is under way.
    }

    static void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String data = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
            // Attributes in headers are percent-encoded. A plus sign is one; URLDecoder would make a space of it.
            String subject = exchange.getRequestHeaders().getFirst("ce-subject");
            subject = subject == null ? "" : URLDecoder.decode(subject.replace("+", "%2B"), StandardCharsets.UTF_8);
            if (data.isBlank()) {
                exchange.sendResponseHeaders(400, -1); // The event will never be right: a dead letter.
                return;
            }
            // Do the work here. The same event (source and id) may come twice.
            System.out.println("handled " + exchange.getRequestHeaders().getFirst("ce-id") + " " + subject + " " + data);
            exchange.sendResponseHeaders(204, -1);
        }
    }
}
