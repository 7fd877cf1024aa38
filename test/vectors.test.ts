/** docs/vectors.json, made with Python's hmac: our code, the standardwebhooks package and the code of the guide agree with it. */
import { expect, setSystemTime, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Webhook } from "standardwebhooks";
import vectors from "../docs/vectors.json";
import { signFluxdrop, signStandard } from "../src/delivery/signature.ts";
import { verify } from "../src/verify.ts";
import { findSnippet } from "./support/snippets.ts";

test.each(vectors)("$name", async ({ secrets, body, headers }) => {
  const nowSeconds = Number(headers["webhook-timestamp"]);
  expect(signFluxdrop(body, secrets[0] as string)).toBe(headers["x-fluxdrop-signature"]);
  expect(signStandard(headers["webhook-id"], nowSeconds, body, secrets)).toBe(headers["webhook-signature"]);
  const { "webhook-signature": _, ...older } = headers;
  setSystemTime(nowSeconds * 1000);
  try {
    for (const secret of secrets) {
      expect(verify(body, headers, secret, { nowSeconds })).toEqual({ ok: true, payload: JSON.parse(body) });
      const library = secret.startsWith("whsec_") ? new Webhook(secret) : new Webhook(secret, { format: "raw" });
      expect(library.verify(body, headers)).toEqual(JSON.parse(body));
    }
  } finally {
    setSystemTime();
  }
  const options = { nowSeconds, allowUnsignedTime: true };
  expect(verify(body, older, secrets, options)).toEqual({ ok: true, payload: JSON.parse(body) });
});

test("a secret beyond ASCII is read as UTF-8 by us, and otherwise by the library: the guide advises against it", () => {
  const [secret, id, body] = ["größe", "1", '{"id":"1","event":"file.created","timestamp":"","data":{}}'];
  const nowSeconds = Math.floor(Date.now() / 1000);
  const headers = {
    "webhook-id": id,
    "webhook-timestamp": String(nowSeconds),
    "webhook-signature": signStandard(id, nowSeconds, body, [secret]),
  };
  expect(verify(body, headers, secret)).toMatchObject({ ok: true });
  expect(() => new Webhook(secret, { format: "raw" }).verify(body, headers)).toThrow("No matching signature");
});

/** The code that the guide gives to those who verify by hand, each with what reads the vectors and puts them to it. */
const BY_HAND = [
  {
    language: "python",
    command: ["python3", "verify.python"],
    harness: `
import json, sys
for vector in json.load(sys.stdin):
    body, headers, far = vector["body"].encode(), vector["headers"], 10**9
    assert all(verify(body, headers, secret, far) for secret in vector["secrets"])
    secret = vector["secrets"][0]
    assert not verify(body, headers, secret)
    assert not verify(body + b" ", headers, secret, far)
    assert not verify(body, headers, "another", far)
    assert not verify(body, {}, secret, far)
    assert not verify(body, {**headers, "webhook-signature": "v1,\xe9 v1 ,"}, secret, far)
    for empty in ("", "whsec_"):
        try:
            verify(body, headers, empty, far)
            sys.exit("took an empty secret")
        except ValueError:
            pass
print("ok")`,
  },
  {
    language: "php",
    command: ["php", "verify.php"],
    harness: `
function expect(bool $holds, string $what): void { if (!$holds) { echo "$what\n"; exit(1); } }
foreach (json_decode(file_get_contents('php://stdin'), true) as $vector) {
    ['body' => $body, 'headers' => $headers, 'secrets' => $secrets] = $vector;
    $far = 10 ** 9;
    foreach ($secrets as $secret) expect(verify($body, $headers, $secret, $far), 'refused');
    expect(!verify($body, $headers, $secrets[0]), 'took an old one');
    expect(!verify("$body ", $headers, $secrets[0], $far), 'took another body');
    expect(!verify($body, $headers, 'another', $far), 'took another secret');
    expect(!verify($body, [], $secrets[0], $far), 'took no headers');
    foreach (['', 'whsec_'] as $empty) {
        try { verify($body, $headers, $empty, $far); expect(false, 'took an empty secret'); }
        catch (InvalidArgumentException $error) {}
    }
}
echo "ok\n";`,
  },
  {
    language: "ruby",
    command: ["ruby", "verify.ruby"],
    harness: `
require "json"
JSON.parse($stdin.read).each do |vector|
  body, headers, secrets = vector.values_at("body", "headers", "secrets")
  far = 10**9
  secrets.each { |secret| verify(body.b, headers, secret, tolerance: far) or abort "refused" }
  verify(body, headers, secrets[0]) and abort "took an old one"
  verify(body + " ", headers, secrets[0], tolerance: far) and abort "took another body"
  verify(body, headers, "another", tolerance: far) and abort "took another secret"
  verify(body, {}, secrets[0], tolerance: far) and abort "took no headers"
  ["", "whsec_"].each do |empty|
    verify(body, headers, empty, tolerance: far)
    abort "took an empty secret"
  rescue ArgumentError
  end
end
puts "ok"`,
  },
  {
    language: "go",
    command: ["go", "run", "verify.go", "main.go"],
    harness: "",
    main: `package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

func expect(holds bool, what string) {
	if !holds {
		fmt.Println(what)
		os.Exit(1)
	}
}

func main() {
	var vectors []struct {
		Secrets []string
		Body    string
		Headers map[string]string
	}
	expect(json.NewDecoder(os.Stdin).Decode(&vectors) == nil, "no vectors")
	for _, vector := range vectors {
		body, headers, far := []byte(vector.Body), http.Header{}, 250000*time.Hour
		for name, value := range vector.Headers {
			headers.Set(name, value)
		}
		for _, secret := range vector.Secrets {
			expect(verify(body, headers, secret, far) == nil, "refused")
		}
		secret := vector.Secrets[0]
		expect(verify(body, headers, secret, 5*time.Minute) != nil, "took an old one")
		expect(verify(append(body, ' '), headers, secret, far) != nil, "took another body")
		expect(verify(body, headers, "another", far) != nil, "took another secret")
		expect(verify(body, http.Header{}, secret, far) != nil, "took no headers")
		expect(verify(body, headers, "", far) != nil && verify(body, headers, "whsec_", far) != nil, "took an empty secret")
	}
	fmt.Println("ok")
}
`,
  },
];

const isHere = ({ command }: { command: string[] }) => Bun.which(command[0] as string) !== null;

test("Python is here: the others may not be", () => {
  expect(BY_HAND.filter(isHere).map(({ language }) => language)).toContain("python");
});

test.each(BY_HAND.filter(isHere))(
  "the $language that verifies by hand takes them, and nothing old or changed",
  async ({ language, command, harness, main = "" }) => {
    const folder = mkdtempSync(join(tmpdir(), "fluxhook-vectors-"));
    try {
      const snippet = findSnippet("docs/receivers.md", language, { marker: "v1," });
      writeFileSync(join(folder, `verify.${language}`), `${snippet}${harness}`);
      writeFileSync(join(folder, "main.go"), main);
      const child = Bun.spawn(command, {
        cwd: folder,
        stdin: Buffer.from(JSON.stringify(vectors)),
        stdout: "pipe",
        stderr: "pipe",
      });
      const [out, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
      expect(`${errors}${out}`).toBe("ok\n");
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
  60_000,
);
