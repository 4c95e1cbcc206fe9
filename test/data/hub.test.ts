import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import test from "ava";
import { type DownloadProgress, downloadRepo } from "../../data/hub.js";
import { InputError } from "../../lib/errors.js";
import { temporaryFolder } from "../temporary.js";
import { hubServer } from "./hubServer.js";

const repo = "owner/data";
const bytes = (n: number, seed = 1) => Uint8Array.from({ length: n }, (_, i) => (i * 31 + seed * 7 + (i >> 8)) & 255);
const files = {
  "data/train-0.parquet": bytes(700_000),
  "data/a b.parquet": bytes(1200, 2),
  "README.md": bytes(10),
  "empty.json": bytes(0),
};
const large = ["data/train-0.parquet"];
const wants = (path: string) => path !== "README.md";

test("the files that are wanted arrive whole, smallest first, with progress; a second call fetches nothing", async (t) => {
  const folder = temporaryFolder(t);
  const { url, ranges } = await hubServer(t, { repo: `datasets/${repo}`, files, large });
  const progress: DownloadProgress[] = [];
  const arrived: string[] = [];
  const options = { type: "dataset", repo, folder, hubUrl: `${url}/`, wants } as const;
  const onProgress = (each: DownloadProgress) => progress.push(each);
  const paths = await downloadRepo({ ...options, onProgress, onFile: (path) => void arrived.push(path) });
  t.deepEqual(arrived, ["empty.json", "data/a b.parquet", "data/train-0.parquet"]);
  t.deepEqual(
    paths,
    ["data/a b.parquet", "data/train-0.parquet", "empty.json"].map((path) => join(folder, path)),
  );
  for (const path of arrived)
    t.deepEqual(new Uint8Array(readFileSync(join(folder, path))), files[path as keyof typeof files]);
  t.deepEqual(readdirSync(join(folder, "data")), ["a b.parquet", "train-0.parquet"], "no part is left");
  t.deepEqual(progress.at(-1), { file: "data/train-0.parquet", bytes: 701_200, total: 701_200 });
  t.true(progress.every((each, i) => i === 0 || each.bytes >= progress[i - 1].bytes));

  const asked = ranges.length;
  await downloadRepo(options);
  t.is(ranges.length, asked);
  writeFileSync(join(folder, "data/a b.parquet"), bytes(1200, 3));
  await downloadRepo(options);
  t.deepEqual(
    ranges.slice(asked).map(({ path }) => path),
    ["data/a b.parquet"],
    "a file that was altered comes anew",
  );
});

test("a connection that breaks off is gone on with, from the byte where it broke", async (t) => {
  const folder = temporaryFolder(t);
  const { url, ranges } = await hubServer(t, { repo, files, large, cutAfter: 200_000 });
  await downloadRepo({ type: "model", repo, folder, hubUrl: url, wants });
  t.deepEqual(new Uint8Array(readFileSync(join(folder, large[0]))), files["data/train-0.parquet"]);
  const parts = ranges.filter(({ path }) => path === large[0]);
  t.true(parts.length >= 4, "it was cut three times");
  t.true(
    parts.every(({ from }, i) => i === 0 || from > parts[i - 1].from),
    "no byte is fetched from the beginning again",
  );
});

test("what an earlier call left is used; of another version of the file it is not", async (t) => {
  const folder = temporaryFolder(t);
  const stop = await hubServer(t, { repo, files, large, cutAfter: 300_000 });
  await t.throwsAsync(
    downloadRepo({
      type: "model",
      repo,
      folder,
      hubUrl: stop.url,
      wants: (path) => path === large[0],
      retries: 0,
      onProgress: ({ bytes }) => {
        if (bytes > 100_000) throw new InputError("stopped");
      },
    }),
    { message: "stopped" },
  );
  const [part] = readdirSync(join(folder, "data"));
  t.regex(part, /^train-0\.parquet\.[0-9a-f]{12}\.part$/);
  const had = statSync(join(folder, "data", part)).size;
  t.true(had > 100_000);

  const other = await hubServer(t, { repo, files: { [large[0]]: bytes(5000, 9) }, large });
  await downloadRepo({ type: "model", repo, folder, hubUrl: other.url, wants });
  t.is(other.ranges[0].from, 0);
  const { url, ranges } = await hubServer(t, { repo, files, large });
  await downloadRepo({ type: "model", repo, folder, hubUrl: url, wants });
  t.is(ranges.find(({ path }) => path === large[0])!.from, had);
  t.deepEqual(new Uint8Array(readFileSync(join(folder, large[0]))), files["data/train-0.parquet"]);
});

test("other bytes than the Hub lists are refused, and nothing of them is kept", async (t) => {
  const folder = temporaryFolder(t);
  const { url } = await hubServer(t, {
    ...{ repo, files, large },
    meddle(request, response) {
      if (!request.url!.startsWith("/cdn/")) return false;
      const size = files["data/train-0.parquet"].length;
      response.writeHead(206, { ETag: '"1"', "Content-Range": `bytes 0-${size - 1}/${size}` });
      response.end(bytes(size, 5));
      return true;
    },
  });
  await t.throwsAsync(downloadRepo({ type: "model", repo, folder, hubUrl: url, wants }), {
    instanceOf: InputError,
    message: "data/train-0.parquet: arrived with another checksum than the Hub lists; run the command again",
  });
  t.deepEqual(readdirSync(join(folder, "data")), ["a b.parquet"]);
});

test("what cannot be had is one line that says what to do", async (t) => {
  const folder = temporaryFolder(t);
  const at = (hubUrl: string) => downloadRepo({ type: "model", repo, folder, hubUrl, wants, retries: 1 });
  const answering = async (status: number) => {
    const meddle: NonNullable<Parameters<typeof hubServer>[1]["meddle"]> = (_, response) => {
      response.writeHead(status, { "Content-Type": "application/json" });
      response.end('{"error": "a longer\\nstory"}');
      return true;
    };
    return (await hubServer(t, { repo, files, meddle })).url;
  };
  const closed = () =>
    new Promise<string>((resolve) => {
      const server = createServer().listen(0, "127.0.0.1", () => {
        const { port } = server.address() as AddressInfo;
        server.close(() => resolve(`http://127.0.0.1:${port}`));
      });
    });
  for (const [url, message] of [
    [await answering(401), /owner\/data: needs a login, or is not there; .* set HF_TOKEN/],
    [await answering(403), /accept its terms on the Hub/],
    [await answering(404), /is not at 127\.0\.0\.1:\d+; check the name/],
    [await answering(500), /answers 500; run the command again later/],
    [await closed(), /cannot be had from 127\.0\.0\.1:\d+ \(.*ECONNREFUSED.*\); check the network/],
    [(await hubServer(t, { repo, files: { "README.md": bytes(1) } })).url, /none of its 1 files is of use/],
  ] as const) {
    const error = await t.throwsAsync(at(url), { instanceOf: InputError, message });
    t.false(error.message.includes("\n"), error.message);
  }
  writeFileSync(join(folder, "data"), "a file where a folder must be");
  const { url } = await hubServer(t, { repo, files });
  await t.throwsAsync(at(url), { instanceOf: InputError, message: /cannot be written .* choose another folder/ });
});

test("a file that would lie outside the folder is refused, and the token goes with each request", async (t) => {
  const folder = join(temporaryFolder(t), "in");
  mkdirSync(folder);
  for (const path of ["../out.json", "/etc/out.json", "a/../../out.json"]) {
    const { url } = await hubServer(t, { repo, files: { [path]: bytes(3) } });
    await t.throwsAsync(downloadRepo({ type: "model", repo, folder, hubUrl: url, wants }), {
      instanceOf: InputError,
      message: /lies outside/,
    });
  }
  t.false(existsSync(join(folder, "..", "out.json")));
  for (const [options, message] of [
    [{ token: "secret" }, /^HF_TOKEN is no access token of the Hub/],
    [{ hubUrl: "huggingface.co" }, /^HF_ENDPOINT is 'huggingface\.co'; give an address/],
    [{ repo: "../data" }, /^'\.\.\/data' is no repository of the Hub; give OWNER\/NAME/],
  ] as const) {
    const asked = downloadRepo({ type: "model", repo, folder, wants, hubUrl: "http://127.0.0.1", ...options });
    await t.throwsAsync(asked, { instanceOf: InputError, message });
  }
  const { url, authorizations } = await hubServer(t, { repo, files });
  await downloadRepo({ type: "model", repo, folder, hubUrl: url, wants, token: "hf_secret" });
  t.true(authorizations.length > 3 && authorizations.every((each) => each === "Bearer hf_secret"));
});
