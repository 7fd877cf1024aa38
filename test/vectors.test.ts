/** docs/vectors.json, made with Python's hmac: our code, the standardwebhooks package and the documented Python agree with it. */
import { expect, setSystemTime, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Webhook } from "standardwebhooks";
import vectors from "../docs/vectors.json";
import { signFluxdrop, signStandard } from "../src/signature.ts";
import { verify } from "../src/verify.ts";

const guide = readFileSync(join(import.meta.dir, "../docs/receivers.md"), "utf8");

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

test("the Python of the guide takes them, and nothing that was changed", async () => {
  const snippet = /```python\n(.*?)```/s.exec(guide)?.[1] as string;
  const program = `${snippet}
import json, sys
for vector in json.load(sys.stdin):
    body, headers = vector["body"].encode(), vector["headers"]
    far = 10**9
    assert all(verify(body, headers, secret, far) for secret in vector["secrets"])
    assert not verify(body + b" ", headers, vector["secrets"][0], far)
    assert not verify(body, headers, "another", far)
print("ok")`;
  const python = Bun.spawn(["python3", "-c", program], {
    stdin: Buffer.from(JSON.stringify(vectors)),
    stdout: "pipe",
    stderr: "pipe",
  });
  expect(`${await new Response(python.stderr).text()}${await new Response(python.stdout).text()}`).toBe("ok\n");
});
