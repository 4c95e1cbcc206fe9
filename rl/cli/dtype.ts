import { type Backend, type DType, InputError } from "../../lib/index.js";

/** The element type that `--dtype` names. */
export function dtypeOption(text: string, { name, dtypes }: Backend): DType {
  if (text !== "f32" && text !== "bf16") throw new InputError(`--dtype is '${text}'; give f32 or bf16`);
  if (!dtypes.has(text)) throw new InputError(`--dtype ${text}: ${name} does not hold it; use f32`);
  return text;
}
