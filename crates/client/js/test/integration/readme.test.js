// Runs each example of README.md, exactly as written, against a node.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import WebSocket from "ws";

import { connect } from "../../src/index.js";
import { Testbed, waitUntil } from "./nodes.js";

const PACKAGE = join(import.meta.dirname, "../..");

/** What each example prints, in order, while messages are published to its topic. */
const OUTPUT = [
  /^\d+:\d+ \{ score: '2:1' \}$/m,
  /^live after \d+:\d+$[^]*^score \{ score: '2:1' \}$/m,
  /^draw \{ score: '2:1' \}$[^]*^draw \{ score: '2:1' \}$/m,
  /^stored at \d+:\d+, replicated$/m,
  /^token needed: connect$[^]*^live$/m,
];

test("examples of the README print what they say", async (context) => {
  const testbed = await Testbed.create(context);
  const { flags, mint } = await testbed.issuer();
  const token = await mint("--subject", "reader", "--subscribe", "**", "--publish", "**");
  const [open, guarded] = [await testbed.node(), await testbed.node(...flags)];
  const issuer = createServer((_, response) => response.end(token));
  await new Promise((resolve) => issuer.listen(0, "127.0.0.1", resolve));
  context.after(() => issuer.close());
  // Below the package, so that its name is found.
  const directory = await mkdtemp(join(PACKAGE, "test/readme-"));
  context.after(() => rm(directory, { recursive: true }));
  await writeFile(
    join(directory, "websocket.mjs"),
    'import WebSocket from "ws";\nglobalThis.WebSocket ??= WebSocket;\n',
  );

  const examples = (await readFile(join(PACKAGE, "README.md"), "utf8")).match(/(?<=^```js\n)[^]*?(?=^```$)/gm) ?? [];
  assert.equal(examples.length, OUTPUT.length);
  const publisher = connect(open.url, { WebSocket });
  context.after(() => publisher.close());
  for (const [index, example] of examples.entries()) {
    const node = example.includes("token") ? guarded : open;
    const code = example
      .replace("https://www.example.com", `http://127.0.0.1:${issuer.address().port}`)
      .replaceAll(/https:\/\/(push|a|b)\.example\.com/g, node.url);
    const path = join(directory, `${index}.mjs`);
    await writeFile(path, code);
    const child = spawn(process.execPath, ["--import", join(directory, "websocket.mjs"), path]);
    let output = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
    const ended = new Promise((resolve) => child.once("exit", resolve));
    try {
      await waitUntil(`example ${index} prints ${OUTPUT[index]}`, async () => {
        assert.ok(child.exitCode === null || OUTPUT[index].test(output), output);
        for (const topic of ["chat/7", "match/final/score"]) {
          if (example.includes(topic)) await publisher.publish(topic, { score: "2:1" });
        }
        return OUTPUT[index].test(output);
      });
    } finally {
      child.kill();
      await ended;
    }
  }
});
