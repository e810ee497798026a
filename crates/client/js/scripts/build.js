// Makes the files that are published beside the sources: the types, one minified file, and the licences. `npm pack` runs it.

import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { copyFileSync, rmSync } from "node:fs";

for (const folder of ["dist", "types"]) rmSync(folder, { force: true, recursive: true });
execFileSync("node_modules/.bin/tsc", ["--project", "tsconfig.types.json"], { stdio: "inherit" });
await build({
  entryPoints: ["src/index.js"],
  bundle: true,
  format: "esm",
  legalComments: "none",
  logLevel: "warning",
  minify: true,
  outdir: "dist",
  sourcemap: true,
  splitting: true,
  target: "es2022",
});
for (const licence of ["LICENSE-MIT", "LICENSE-APACHE"]) copyFileSync(`../../../${licence}`, licence);
