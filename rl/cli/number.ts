import { InputError } from "../../lib/index.js";

export interface NumberLimits {
  readonly least: number;
  readonly most?: number;
  /** Whether only whole numbers will do. Default true. */
  readonly whole?: boolean;
}

/** The number that an option's text spells. @throws InputError that names the option and what it takes. */
export function numberOption(name: string, text: string, { least, most, whole = true }: NumberLimits): number {
  const value = Number(text);
  const isKind = text.trim() !== "" && (whole ? Number.isSafeInteger(value) : Number.isFinite(value));
  if (isKind && value >= least && value <= (most ?? value)) return value;
  const range = most === undefined ? `of at least ${least}` : `from ${least} to ${most}`;
  throw new InputError(`${name} is '${text}'; give a ${whole ? "whole " : ""}number ${range}`);
}

/** The same for an option that need not be given. */
export function optionalNumber(name: string, text: string | undefined, limits: NumberLimits): number | undefined {
  return text === undefined ? undefined : numberOption(name, text, limits);
}
