// Prints what a page loads, minified and compressed, and fails when the core is larger than its limit.

import { build } from "esbuild";
import { gzipSync } from "node:zlib";

/** The next larger library of this kind, phoenix, has 7.6 KB, and does less. */
const CORE_BYTES_MAX = 7_500;
/** What a page with WebTransport loads besides. */
const WEBTRANSPORT_BYTES_MAX = 3_000;

const { outputFiles, metafile } = await build({
  entryPoints: ["src/index.js"],
  bundle: true,
  format: "esm",
  metafile: true,
  minify: true,
  outdir: "size",
  splitting: true,
  target: "es2022",
  write: false,
});
const sizes = new Map(
  outputFiles.map(({ path, contents }) => [path.split("/").at(-1), gzipSync(contents, { level: 9 }).length]),
);

/** The outputs that one loads at once, itself included. */
function closure(path, found = new Set()) {
  if (found.has(path)) return found;
  found.add(path);
  const { imports } = metafile.outputs[path];
  for (const { kind, path: imported } of imports) if (kind === "import-statement") closure(imported, found);
  return found;
}

const size = (paths) => [...paths].reduce((sum, path) => sum + sizes.get(path.split("/").at(-1)), 0);
const core = closure("size/index.js");
/** The modules that each entry point loads beside the core. */
const added = new Map();
const isVerbose = process.argv.includes("--modules");
for (const [path, { entryPoint, inputs }] of Object.entries(metafile.outputs)) {
  if (!entryPoint) continue;
  added.set(
    entryPoint,
    [...closure(path)].filter((output) => output === path || !core.has(output)),
  );
  const what = path === "size/index.js" ? "core, loaded by every page" : `${entryPoint}, loaded when it is used`;
  console.log(
    `${(size(path === "size/index.js" ? core : added.get(entryPoint)) / 1_000).toFixed(2).padStart(6)} KB  ${what}`,
  );
  if (isVerbose)
    for (const [input, { bytesInOutput }] of Object.entries(inputs))
      console.log(`          ${bytesInOutput}  ${input}`);
}
if (size(core) > CORE_BYTES_MAX) {
  console.error(`the core has ${size(core)} bytes, more than ${CORE_BYTES_MAX}: npm run size -- --modules shows where`);
  process.exit(1);
}
const webTransport = size(added.get("src/webtransport.js"));
if (webTransport > WEBTRANSPORT_BYTES_MAX) {
  console.error(`src/webtransport.js has ${webTransport} bytes, more than ${WEBTRANSPORT_BYTES_MAX}`);
  process.exit(1);
}
