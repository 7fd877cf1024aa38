/** RFC 9112 section 3, RFC 9113 sections 3.4 and 6: what answers, and is no HTTP/1.1. */
import { dropped, EMPTY, head, ok } from "./answer-case.ts";

/** The head of an HTTP/2 frame: 24 bits of length, type, flags, 32 bits of stream. */
const frame = (length: number, type: number, flags = 0, stream = 0) =>
  String.fromCharCode(length >> 16, (length >> 8) & 255, length & 255, type, flags, 0, 0, 0, stream);
const SETTINGS = 4;
const GOAWAY = 7;

export const OTHER_PROTOCOLS = [
  ...dropped("RFC 9113 3.4", [
    ["SETTINGS without any", frame(0, SETTINGS), "http2"],
    ["SETTINGS with three", frame(18, SETTINGS) + "\0\x03\0\0\0\x80".repeat(3), "http2"],
    ["SETTINGS, cut off behind its head", frame(6, SETTINGS), "http2"],
    ["SETTINGS, then GOAWAY", frame(0, SETTINGS) + frame(8, GOAWAY) + "\0".repeat(8), "http2"],
    ["GOAWAY at once", `${frame(8, GOAWAY)}${"\0".repeat(7)}\x01`, "http2"],
    ["GOAWAY with words", `${frame(20, GOAWAY)}${"\0".repeat(7)}\x01invalid hello`, "http2"],
    ["GOAWAY with flags that mean nothing", frame(8, GOAWAY, 255) + "\0".repeat(8), "http2"],
    ["SETTINGS, cut off in its head", frame(6, SETTINGS).slice(0, 8), "invalid"],
    ["SETTINGS of a stream", frame(6, SETTINGS, 0, 1), "invalid"],
    ["SETTINGS that acknowledge", frame(0, SETTINGS, 1), "invalid"],
    ["a frame of data", frame(5, 0, 0, 1), "invalid"],
    ["a frame of another type", frame(8, 6), "invalid"],
    ["a frame longer than any may be", frame(1 << 20, SETTINGS), "invalid"],
    ["SETTINGS longer than we allowed", frame(0x4100, SETTINGS), "invalid"],
    ["the preface of a client", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "invalid"],
  ]),
  ...dropped("RFC 9112 3", [
    ["a page without a head, as HTTP/0.9 has it", "<html>hello</html>", "invalid"],
    ["a page that speaks of HTTP", "OK, see HTTP/1.1 200 OK\r\n\r\n", "invalid"],
    ["a field before the status line", head("Server: x", "HTTP/1.1 200 OK", EMPTY), "invalid"],
    ["ICY", head("ICY 200 OK"), "invalid"],
    ["RTSP", head("RTSP/1.0 200 OK"), "invalid"],
    ["SIP", head("SIP/2.0 200 OK"), "invalid"],
    ["SSH", "SSH-2.0-OpenSSH_9.9\r\n", "invalid"],
    ["SMTP", "220 mx.example ESMTP\r\n", "invalid"],
    ["a status alone", "200 OK\r\n\r\n", "invalid"],
    ["CGI", head("Status: 200 OK"), "invalid"],
    ["a TLS alert", "\x15\x03\x01\0\x02\x02\x46", "invalid"],
    ["a request of its own", head("POST / HTTP/1.1", "Host: x"), "invalid"],
    ["our request, sent back", head("POST /hooks HTTP/1.1", EMPTY), "invalid"],
    ["a mark of byte order before the status line", `\xef\xbb\xbf${ok([EMPTY])}`, "invalid"],
    ["a NUL before the status line", `\0${ok([EMPTY])}`, "invalid"],
    ["NULs", "\0".repeat(20), "invalid"],
    ["a WebSocket frame", "\x81\x05hello", "invalid"],
    ["the body of an answer before", '{"status":"ok"}', "invalid"],
    ["the end of chunks of an answer before", `0\r\n\r\n${ok([EMPTY])}`, "invalid"],
  ]),
];
