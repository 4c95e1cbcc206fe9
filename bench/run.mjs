// npm run bench -- NAME [arguments]: runs dist/bench/NAME.js.
import { readdirSync } from "node:fs";

const folder = new URL("../dist/bench/", import.meta.url);
const names = readdirSync(folder).flatMap((file) => (file.endsWith(".js") ? [file.slice(0, -3)] : []));
const [name] = process.argv.splice(2, 1);
if (names.includes(name)) {
  await import(new URL(`${name}.js`, folder));
} else {
  process.stderr.write(`bench: '${name ?? ""}' does not exist; there are ${names.join(", ")}\n`);
  process.exitCode = 2;
}
