import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parse } from "yaml";
import { InputError } from "../lib/index.js";

/** A configuration before it is checked. */
export type Tree = Record<string, unknown>;

const recipeFolder = join(dirname(fileURLToPath(import.meta.resolve("itpo/package.json"))), "rl", "recipes");
/** Recipes that come in variants, such as math-itpo-rloo. */
const variantFolder = join(recipeFolder, "paper");

/** Keys of which a mapping has one: naming one takes the place of the other. */
const ALTERNATIVES: readonly (readonly [string, string])[] = [
  ["path", "scratch"],
  ["server", "local"],
];

/**
 * Reads a recipe by name or a YAML file by path, puts it on top of those that it `extends`, and applies `key.path=value`
 * overrides.
 * @throws InputError for a file that is not there or no mapping, and an override that is none.
 */
export async function readRecipe(recipe: string, overrides: readonly string[] = []): Promise<Tree> {
  const config = isPath(recipe) ? await readExtended(recipe, []) : await readNamed(recipe, []);
  dropReplaced(config, overrides);
  for (const override of overrides) applyOverride(config, override);
  return config;
}

/** The names of all recipes. */
export async function recipeNames(): Promise<string[]> {
  const families = await variantFamilies();
  return [...(await plainNames()), ...families.flatMap(({ names }) => [...names.keys()])];
}

function isPath(recipe: string): boolean {
  return /\.ya?ml$/.test(recipe);
}

async function plainNames(): Promise<string[]> {
  return (await readdir(recipeFolder)).filter(isPath).map((file) => file.replace(/\.yaml$/, ""));
}

async function readNamed(name: string, parents: readonly string[]): Promise<Tree> {
  if ((await plainNames()).includes(name)) return readExtended(join(recipeFolder, `${name}.yaml`), parents);
  const families = await variantFamilies();
  for (const { config, names } of families) {
    const chosen = names.get(name);
    if (chosen) return { ...chosen.reduce(merge, config), name };
  }
  const known = [...(await plainNames()), ...families.map(({ summary }) => summary)].join(", ");
  throw new InputError(
    `recipe '${name}': there is none of that name; recipes are ${known}; or give a path ending in .yaml`,
  );
}

/** A recipe in variants: what all have in common, and by name what each puts on top of it. */
interface Family {
  readonly config: Tree;
  readonly names: ReadonlyMap<string, readonly Tree[]>;
  /** All names in one. */
  readonly summary: string;
}

/** Files whose `variants` are groups of which a name takes one each: TASK-METHOD-ESTIMATOR. */
async function variantFamilies(): Promise<Family[]> {
  const files = (await readdir(variantFolder)).filter((file) => isPath(file) && file !== "base.yaml").sort();
  return Promise.all(
    files.map(async (file) => {
      const { variants, ...config } = await readExtended(join(variantFolder, file), []);
      const groups = Object.values(variants as Record<string, Record<string, Tree>>);
      const task = basename(file, ".yaml");
      let names: [string, readonly Tree[]][] = [[task, []]];
      for (const group of groups) {
        names = names.flatMap(([name, chosen]) =>
          Object.entries(group).map(([variant, tree]): [string, Tree[]] => [`${name}-${variant}`, [...chosen, tree]]),
        );
      }
      const summary = [task, ...groups.map((group) => `{${Object.keys(group).join("|")}}`)].join("-");
      return { config, names: new Map(names), summary };
    }),
  );
}

/** A file on top of the files and recipes that its `extends` names, in their order. */
async function readExtended(path: string, parents: readonly string[]): Promise<Tree> {
  if (parents.includes(path)) throw new InputError(`${path}: extends itself; take it out of the circle`);
  const { extends: bases = [], ...own } = await readMapping(path);
  let config: Tree = {};
  for (const base of [bases].flat()) {
    if (typeof base !== "string") throw new InputError(`${path}: extends must name recipes or files`);
    const chain = [...parents, path];
    const under = isPath(base) ? await readExtended(join(dirname(path), base), chain) : await readNamed(base, chain);
    config = merge(config, under);
  }
  return merge(config, own);
}

async function readMapping(path: string): Promise<Tree> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    throw new InputError(`${path}: cannot be read; give the name of a recipe, or a path ending in .yaml`);
  }
  const config = parseYaml(text, path);
  if (!isTree(config)) throw new InputError(`${path}: not a mapping of keys to values`);
  return config;
}

function isTree(value: unknown): value is Tree {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** `over` on top of `under`, mapping by mapping; a mapping with another `name` inside takes the other's place. */
function merge(under: Tree, over: Tree): Tree {
  const merged = new Map(Object.entries(under));
  for (const [one, other] of ALTERNATIVES) {
    if (one in over) merged.delete(other);
    if (other in over) merged.delete(one);
  }
  for (const [key, value] of Object.entries(over)) {
    const old = merged.get(key);
    const isOther = isTree(old) && isTree(value) && "name" in value && value.name !== old.name;
    merged.set(key, isTree(old) && isTree(value) && !isOther ? merge(old, value) : value);
  }
  return Object.fromEntries(merged);
}

/** An override that names one of two alternatives takes the place of the recipe's other. */
function dropReplaced(config: Tree, overrides: readonly string[]): void {
  for (const override of overrides) {
    const keys = override.split("=")[0].split(".");
    let parent: unknown = config;
    for (const key of keys) {
      if (!isTree(parent) || !Object.hasOwn(parent, key)) {
        if (isTree(parent)) dropOther(parent, key);
        break;
      }
      dropOther(parent, key);
      parent = parent[key];
    }
  }
}

function dropOther(parent: Tree, key: string): void {
  const pair = ALTERNATIVES.find((names) => names.includes(key));
  if (pair) delete parent[pair[0] === key ? pair[1] : pair[0]];
}

function parseYaml(text: string, where: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    throw new InputError(`${where}: ${(error as Error).message.split("\n")[0]}`);
  }
}

function applyOverride(config: Tree, override: string): void {
  const at = override.indexOf("=");
  if (at < 1) throw new InputError(`'${override}' is no override; write key.path=value`);
  const path = override.slice(0, at).split(".");
  let target = config;
  for (const key of path.slice(0, -1)) {
    const next = Object.hasOwn(target, key) ? target[key] : undefined;
    if (next === null || typeof next !== "object") {
      Object.defineProperty(target, key, { value: {}, writable: true, enumerable: true, configurable: true });
    }
    target = target[key] as Tree;
  }
  const value = parseYaml(override.slice(at + 1), override);
  Object.defineProperty(target, path.at(-1)!, { value, writable: true, enumerable: true, configurable: true });
}
