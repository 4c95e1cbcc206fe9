import { Template } from "@huggingface/jinja";
import { InputError } from "../lib/errors.js";
import { memo } from "./memo.js";
import type { Message, Role } from "./message.js";
import { oneLine } from "./tokenizer/files.js";
import type { TokenizerConfig } from "./tokenizer/tokenizer.js";

/** The template of models that have none of their own. */
export const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

export interface TemplateOptions {
  /** Jinja chat template; by default the tokenizer's own, else `CHATML`. */
  readonly template?: string;
  /** Further variables of the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** How a chat template lays out conversations: literals[0] contents[0] literals[1] … contents[n − 1] literals[n]. */
export interface TemplateLayout {
  /** The template's own text before, between and after contents, generation prompt included, for messages of `roles`. */
  literals(roles: readonly Role[]): readonly string[];
  /**
   * The contents as the template writes them: unchanged, or trimmed, escaped or cut by it.
   * @throws InputError when the rendering is not the literals with contents between them.
   */
  contents(messages: readonly Message[]): readonly string[];
  /** Whether, for neutral contents and up to three exchanges, what is rendered before a turn stays when more follows. */
  keepsHistory(): boolean;
}

/** A message whose content stands for any other: private-use characters, which no template looks for. */
export function neutral(role: Role, index: number): Message {
  return { role, content: `\ue000${index}\ue001` };
}

/** @throws InputError when the template does not parse. */
export function templateLayout(config: TokenizerConfig, options: TemplateOptions): TemplateLayout {
  const template = parse(options.template ?? config.chatTemplate ?? CHATML);
  const variables = {
    bos_token: config.bosToken ?? "",
    eos_token: config.eosToken ?? "",
    pad_token: config.padToken ?? "",
    unk_token: config.unkToken ?? "",
    ...options.variables,
  };

  function render(messages: readonly Message[]): string {
    try {
      return template.render({ ...variables, messages, add_generation_prompt: true });
    } catch (error) {
      throw new InputError(`chat template: ${oneLine(error)}`);
    }
  }

  const literals = memo(256, (roles: readonly Role[]) => {
    const messages = roles.map(neutral);
    const parts: string[] = [];
    let rest = render(messages);
    for (const { content } of messages) {
      const [before, ...after] = rest.split(content);
      if (after.length !== 1) throw new InputError("chat template: it must write each message's content exactly once");
      parts.push(before);
      rest = after[0];
    }
    return [...parts, rest];
  });

  /** Content of message `index` as it is written among neutral ones. */
  function writtenAlone(messages: readonly Message[], index: number): string {
    const parts = literals(messages.map(({ role }) => role));
    const others = messages.map(({ role }, i) => neutral(role, i).content);
    const before = interleave(parts.slice(0, index + 1), others);
    const after = interleave(["", ...parts.slice(index + 1)], ["", ...others.slice(index + 1)]);
    const rendered = render(messages.map((message, i) => (i === index ? message : neutral(message.role, i))));
    if (rendered.startsWith(before) && rendered.endsWith(after) && rendered.length >= before.length + after.length) {
      return rendered.slice(before.length, rendered.length - after.length);
    }
    throw new InputError(`chat template: it changes more than the content for ${quote(messages[index].content)}`);
  }

  return {
    literals,
    contents(messages) {
      const parts = literals(messages.map(({ role }) => role));
      const given = messages.map(({ content }) => content);
      const rendered = render(messages);
      if (rendered === interleave(parts, given)) return given;
      const written = messages.map((_, i) => writtenAlone(messages, i));
      if (rendered === interleave(parts, written)) return written;
      throw new InputError("chat template: what it writes for one message depends on the content of another");
    },
    keepsHistory() {
      const starts: Role[][] = [["user"], ["system", "user"]];
      return starts
        .filter((start) => accepts(() => literals(start)))
        .every((start) => {
          const [, , ...tail] = literals(["user", "assistant", "user"]);
          let roles = start;
          return [1, 2, 3].every(() => {
            const expected = [...literals(roles), ...tail];
            roles = [...roles, "assistant", "user"];
            return JSON.stringify(literals(roles)) === JSON.stringify(expected);
          });
        });
    },
  };
}

/** `text` in quotes, cut to what fits an error message. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}

function parse(template: string): Template {
  try {
    return new Template(template);
  } catch (error) {
    throw new InputError(`chat template: does not parse: ${oneLine(error)}`);
  }
}

function accepts(render: () => unknown): boolean {
  try {
    render();
    return true;
  } catch {
    return false;
  }
}

/** literals[0] contents[0] literals[1] … up to the last literal. */
function interleave(literals: readonly string[], contents: readonly string[]): string {
  return literals.map((literal, i) => literal + (i + 1 < literals.length ? contents[i] : "")).join("");
}
