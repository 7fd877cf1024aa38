import com.standardwebhooks.Webhook;
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/** Verify webhooks with the official Standard Webhooks library. SECRET is the secret; RAW=1 uses its bytes as the key. */
public class Receiver {
  static Webhook open(String secret) {
    boolean isRaw = "1".equals(System.getenv("RAW"));
    return isRaw ? new Webhook(secret.getBytes(StandardCharsets.UTF_8)) : new Webhook(secret);
  }

  public static void main(String[] args) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/", exchange -> {
      String body = new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8);
      try {
        open(System.getenv("SECRET")).verify(body, exchange.getRequestHeaders());
        exchange.sendResponseHeaders(204, -1);
      } catch (Exception error) {
        byte[] text = String.valueOf(error.getMessage()).getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(401, text.length);
        exchange.getResponseBody().write(text);
      }
      exchange.close();
    });
    server.start();
    System.out.println("listening " + server.getAddress().getPort());
  }
}
