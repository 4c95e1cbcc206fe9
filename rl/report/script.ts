import { CHART_SCRIPT } from "./chartScript.js";
import { CONVERSATION_SCRIPT } from "./conversationScript.js";
import { formatNumber } from "./format.js";

/** What both parts of the script use. A node's kind is `tag` or `tag.class`; undefined children are left out. */
const HELPERS = `"use strict";
const formatNumber = ${formatNumber};
const byId = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse(byId(id).textContent);
function node(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  element.append(...children.filter((child) => child !== undefined));
  return element;
}
`;

/**
 * The page's script. It builds nodes with their text as text: what a model wrote never passes through an HTML parser.
 */
export const SCRIPT = HELPERS + CHART_SCRIPT + CONVERSATION_SCRIPT;
