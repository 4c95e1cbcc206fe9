import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "ava";
import { InputError, makeFolders, writeTogether, writeWhole } from "../../lib/index.js";
import { temporaryFolder } from "../temporary.js";

test("a file is written with the folders above it; text ends in one line feed, bytes stay as they are", async (t) => {
  const folder = temporaryFolder(t);
  const read = (name: string) => readFileSync(join(folder, name), "utf8");
  await writeWhole(join(folder, "a", "b", "text"), "größe");
  await writeWhole(join(folder, "a", "b", "line"), "größe\n");
  await writeWhole(join(folder, "bytes"), new TextEncoder().encode("größe"));
  t.deepEqual(["a/b/text", "a/b/line", "bytes"].map(read), ["größe\n", "größe\n", "größe"]);
});

test("of files that belong together none is replaced where one cannot be written, and nothing is left behind", async (t) => {
  const folder = temporaryFolder(t);
  writeFileSync(join(folder, "first"), "old");
  writeFileSync(join(folder, "file"), "");
  const files = [
    [join(folder, "first"), "new"],
    [join(folder, "file", "second"), "new"],
  ] as const;
  const message = /file\/second: cannot be written \(.*\); make room or choose another folder$/;
  await t.throwsAsync(writeTogether(files), { instanceOf: InputError, message });
  t.deepEqual(readdirSync(folder).sort(), ["file", "first"]);
  t.is(readFileSync(join(folder, "first"), "utf8"), "old");
});

test("a folder in the file's place is named", async (t) => {
  const path = join(temporaryFolder(t), "folder");
  mkdirSync(path);
  await t.throwsAsync(writeWhole(path, ""), { instanceOf: InputError, message: /folder: cannot be written/ });
});

test("folders that are there are fine; where none can be made that is said, and not tried forever", async (t) => {
  const folder = temporaryFolder(t);
  await makeFolders(join(folder, "a", "b"));
  await t.notThrowsAsync(makeFolders(join(folder, "a", "b")));
  if (process.platform === "linux") await t.throwsAsync(makeFolders("/proc/nothing/here"), { code: "ENOENT" });
});
