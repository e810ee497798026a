// Makes elements. Text is always set as text.

/** @typedef {{ [name: string]: string | number | boolean | undefined | ((event: any) => void) }} Attributes */
/** @typedef {Node | string | number | undefined} Child */

/**
 * An HTML element. An attribute with a function is a listener, `true` is an empty attribute, `false` and `undefined`
 * are none.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Attributes} [attributes]
 * @param {Child[]} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(made, attributes);
  append(made, children);
  return made;
}

/** Replaces the children of an element. @param {Element} parent @param {Child[]} children */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * Makes the children of an element equal to these, and keeps every node that is equal or of the same kind: a link keeps
 * the focus, a selection stays, and a press ends on the element on which it began. For elements without listeners.
 * @param {Element} parent @param {(Node | undefined)[]} children
 */
export function refresh(parent, ...children) {
  const next = children.filter((child) => child !== undefined);
  next.forEach((node, index) => {
    const current = parent.childNodes[index];
    if (!current) parent.append(node);
    else if (current.isEqualNode(node)) return;
    else if (current instanceof Element && node instanceof Element && current.tagName === node.tagName) {
      copyAttributes(node, current);
      refresh(current, ...node.childNodes);
    } else current.replaceWith(node);
  });
  while (parent.childNodes.length > next.length) parent.lastChild?.remove();
}

/** @param {Element} from @param {Element} to */
function copyAttributes(from, to) {
  for (const { name } of [...to.attributes]) if (!from.hasAttribute(name)) to.removeAttribute(name);
  for (const { name, value } of from.attributes) if (to.getAttribute(name) !== value) to.setAttribute(name, value);
}

/** Sets a text, if it is another one: screen readers announce each change. @param {Element} node @param {string} text */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Element} made @param {Attributes} attributes */
function setAttributes(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
}

/** @param {Element} parent @param {Child[]} children */
function append(parent, children) {
  for (const child of children) {
    if (child !== undefined) parent.append(typeof child === "number" ? String(child) : child);
  }
}
