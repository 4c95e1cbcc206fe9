import { type Backend, InputError, openDevice } from "../../lib/index.js";
import { loadQwen, loadTokenizer, type Qwen, type Tokenizer } from "../../models/index.js";
import type { Sampling } from "../serve/sampling.js";
import { dtypeOption } from "./dtype.js";
import { numberOption, optionalNumber } from "./number.js";

/** The options that say which model runs where. */
export interface ModelOptions {
  readonly model: string;
  readonly device: string;
  readonly dtype: string;
}

/** A model that runs somewhere, with its tokenizer. */
export interface OpenModel {
  readonly backend: Backend;
  readonly model: Qwen;
  readonly tokenizer: Tokenizer;
}

/** @throws InputError where the folder or the device will not do. */
export async function openModel(options: ModelOptions): Promise<OpenModel> {
  const tokenizer = await loadTokenizer(options.model);
  const backend = await openDevice(options.device);
  const model = await loadQwen(options.model, { backend, dtype: dtypeOption(options.dtype, backend) });
  const { vocabSize } = model.config;
  if (tokenizer.vocabSize > vocabSize) {
    throw new InputError(
      `${options.model}: its tokenizer has ${tokenizer.vocabSize} ids, its model ${vocabSize}; mend the folder`,
    );
  }
  return { backend, model, tokenizer };
}

/** The options that say how tokens are drawn. */
export interface SamplingOptions {
  readonly temperature: string;
  readonly topP?: string;
}

/** @throws InputError where one is out of its range. */
export function samplingOptions({ temperature, topP }: SamplingOptions): Sampling {
  return {
    temperature: numberOption("--temperature", temperature, { least: 0, whole: false }),
    topP: optionalNumber("--top-p", topP, { least: 1e-6, most: 1, whole: false }),
  };
}
