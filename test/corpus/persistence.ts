/** RFC 9112 sections 9.3 and 9.6, RFC 9110 section 7.6.1: whether the connection goes on. */
import { CHUNKED, CHUNKS, dropped, EMPTY, head, kept, ok } from "./answer-case.ts";

const connection = (...values: string[]) => ok([...values.map((value) => `Connection: ${value}`), EMPTY]);
const old = (...fields: string[]) => head("HTTP/1.0 200 OK", ...fields);

export const PERSISTENCE = [
  ...kept("RFC 9112 9.3", [
    ["HTTP/1.1 that says nothing of it", ok([EMPTY]), 200],
    ["keep-alive", connection("keep-alive"), 200],
    ["keep-alive with its limits", ok(["Connection: keep-alive", "Keep-Alive: timeout=5, max=100", EMPTY]), 200],
    ["an option that nobody knows", connection("x"), 200],
    ["no option", connection(""), 200],
    ["an upgrade that is offered", ok(["Connection: Upgrade", "Upgrade: h2c", EMPTY]), 200],
    ["close in another field", ok(["X-Connection: close", EMPTY]), 200],
    ["keep-alive of HTTP/1.0", `${old("Connection: keep-alive", "Content-Length: 2")}ok`, 200],
    ["Keep-Alive of HTTP/1.0 among others", old("Connection: x, Keep-Alive", EMPTY), 200],
    ["keep-alive of 204 of HTTP/1.0", head("HTTP/1.0 204 x", "Connection: keep-alive"), 204],
  ]),
  ...dropped("RFC 9112 9.3", [
    ["HTTP/1.0 that says nothing of it", old(EMPTY), 200],
    ["HTTP/1.0 with another option", old("Connection: x", EMPTY), 200],
    ["HTTP/1.0 with a field of that name alone", old("Keep-Alive: timeout=5", EMPTY), 200],
    ["HTTP/1.0 with a word that holds keep-alive", old("Connection: no-keep-alive", EMPTY), 200],
    ["HTTP/1.0 with keep-alive and close", old("Connection: keep-alive, close", EMPTY), 200],
    ["HTTP/1.0 with keep-alive and no length", `${old("Connection: keep-alive")}ok`, 200],
    ["HTTP/1.0 with keep-alive and two lengths", old("Connection: keep-alive", EMPTY, EMPTY), 200],
    ["HTTP/1.2 with keep-alive", head("HTTP/1.2 200 OK", "Connection: keep-alive", EMPTY), 200],
    ["HTTP/2.0 with keep-alive", head("HTTP/2.0 200 OK", "Connection: keep-alive", EMPTY), 200],
  ]),
  ...dropped("RFC 9112 9.6", [
    ["close", connection("close"), 200],
    ["close in capitals", connection("CLOSE"), 200],
    ["close behind another option", connection(" foo, Close"), 200],
    ["close before another option", connection("close,foo"), 200],
    ["close between tabs", connection("\tclose\t"), 200],
    ["close behind an empty option", connection(", ,close"), 200],
    ["close in a second field", connection("keep-alive", "close"), 200],
    ["close in a first field", connection("close", "keep-alive"), 200],
    ["close, and chunks", ok(["Connection: close", CHUNKED], CHUNKS), 200],
    ["close, and no length", ok(["Connection: close"], "ok"), 200],
    ["close, on 204", head("HTTP/1.1 204 x", "Connection: close"), 204],
    ["close, on a failure", head("HTTP/1.1 408 Request Timeout", "Connection: close", EMPTY), 408],
    ["close behind the length", ok([EMPTY, "connection:close"]), 200],
    ["close on the line below", ok(["Connection:", " close", EMPTY]), 200],
    ["close with a blank before the colon", ok(["Connection : close", EMPTY]), 200],
  ]),
];
