/* dom.js - the few words in which the rest of the page speaks to the document.
 *
 * Text becomes text nodes and nothing else: no file here parses markup from a string, and the policy that the page is
 * served with (require-trusted-types-for) makes the browser refuse it, should one ever try.
 */
"use strict";

const $ = (id) => document.getElementById(id);

/* el("a.link", {href: url, onclick: f}, "text", node, …): an element. Attributes that are false or missing are left out. */
function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else if ((value ?? false) !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/* One of the symbols at the head of index.html. */
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

function iconButton(name, label, onclick) {
  return el("button.quiet", {type: "button", "aria-label": label, title: label, onclick}, icon(name));
}

/* Read out by a screen reader, shown to nobody. */
function announce(text) {
  $("status").textContent = text;
}

/* A line above the message field, until dismissed or replaced; with an action it has a button of that name. */
function notify(text, action, run) {
  const [line, dismiss] = [$("notice").firstElementChild, $("notice").lastElementChild];
  line.replaceChildren(text);
  if (action) line.append(" ", el("button.link", {type: "button", onclick: () => { unnotify(); run(); }}, action));
  dismiss.onclick = unnotify;
  $("notice").hidden = false;
}

function unnotify() {
  $("notice").hidden = true;
}

/* navigator.clipboard exists only on https and localhost; a server in the house is neither. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea.unseen", {readonly: true});
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("The browser did not allow copying.");
}

/* A button that copies text() and says so with a tick. */
function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    try {
      await copyText(text());
    } catch (error) {
      return notify(error.message);
    }
    button.replaceChildren(icon("check"));
    announce("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  el("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/* A textarea as high as its text; CSS bounds it. */
function fitHeight(area) {
  area.style.height = "auto";
  area.style.height = area.scrollHeight + "px";
}

/* Runs paint() in a frame soon after request(), and never more than a tenth of the time: however long an answer grows
 * and however slow the machine is, the page stays responsive. */
class Painter {
  constructor(paint) {
    this.paint = paint;
    this.isWaiting = false;
    this.notBefore = 0;
  }

  request() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    setTimeout(() => requestAnimationFrame(() => this.run()), Math.max(0, this.notBefore - performance.now()));
  }

  run() {
    const start = performance.now();
    this.isWaiting = false;
    this.paint();
    this.notBefore = performance.now() + 9 * (performance.now() - start);
  }
}

/* Light, dark, or as the system says; the switch walks through the three. */
const theme = {
  names: ["auto", "light", "dark"],
  get: () => document.documentElement.dataset.theme || "auto",
  set(name) {
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    $("theme").lastElementChild.textContent = {auto: "Auto", light: "Light", dark: "Dark"}[name];
  },
  next() {
    const name = theme.names[(theme.names.indexOf(theme.get()) + 1) % 3];
    theme.set(name);
    return name;
  },
};
