"""Verify webhooks with the official Standard Webhooks library. SECRET is the secret; RAW=1 uses its bytes as the key."""
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks import Webhook

secret = os.environ["SECRET"]
key = secret.encode() if os.environ.get("RAW") == "1" else secret


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            Webhook(key).verify(body, dict(self.headers))
            status, answer = 204, b""
        except Exception as error:  # a secret that the library cannot decode is not a verification error
            status, answer = 401, str(error).encode()
        self.send_response(status)
        if answer:
            self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(f"listening {server.server_port}", flush=True)
server.serve_forever()
