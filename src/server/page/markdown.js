/* markdown.js - Markdown as models write it, to nodes: CommonMark's common part with tables, task lists and ~~ from GFM.
 *
 * Two layers. parseBlocks cuts lines into blocks (headings, fences, lists, …), inline() turns the text of one into nodes.
 * Text only ever becomes text nodes; HTML in it stays visible text (but <br>, which models put into tables). Work is
 * linear in the text and nesting is bounded, so no answer, however odd, makes the page slow. MarkdownView shows an
 * answer that grows: blocks that are complete are never touched again, only the last one is rendered anew.
 */
"use strict";

const DEPTH_MAX = 8; /* of quotes and lists inside each other; deeper is shown as text */
const OPEN_MAX = 32; /* of emphasis and brackets inside each other */

/* ------------------------------------------------------------------ blocks */

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const DELIMITER_ROW = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

const isBlank = (line) => /^\s*$/.test(line);
const columns = (space) => [...space].reduce((n, c) => n + (c === "\t" ? 4 - (n % 4) : 1), 0);
const indentOf = (line) => columns(/^[ \t]*/.exec(line)[0]);

/* The line without up to n columns of its indent. */
function dedent(line, n) {
  let at = 0;
  while (at < line.length && (line[at] === " " || line[at] === "\t") && columns(line.slice(0, at + 1)) <= n) at++;
  return line.slice(at);
}

const isTable = (lines, i) =>
  i + 1 < lines.length && lines[i].includes("|") && lines[i + 1].includes("-") && DELIMITER_ROW.test(lines[i + 1]) &&
  splitRow(lines[i]).length === splitRow(lines[i + 1]).length;

/* Does line i end a paragraph before it? Of numbered items only a first one does: "in\n2024. Then" is prose. */
function interrupts(lines, i) {
  const line = lines[i];
  const item = ITEM.exec(line);
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || isTable(lines, i) ||
    (item && item[3] && (item[2].length === 1 || parseInt(item[2], 10) === 1));
}

/* Each block has kind, from and to (lines [from, to)); what else it has depends on the kind. */
function parseBlocks(lines, depth = 0) {
  const blocks = [];
  for (let i = 0; i < lines.length;) {
    if (isBlank(lines[i])) { i++; continue; }
    const block = takeFence(lines, i) || takeHeading(lines, i) || takeRule(lines, i) || takeTable(lines, i) ||
      (depth < DEPTH_MAX && (takeQuote(lines, i, depth) || takeList(lines, i, depth))) || takeParagraph(lines, i);
    block.from = i;
    blocks.push(block);
    i = block.to;
  }
  return blocks;
}

function takeFence(lines, i) {
  const m = FENCE.exec(lines[i]);
  if (!m) return null;
  const [, indent, fence, info] = m;
  const isEnd = (line) => {
    const t = line.trim();
    return t.length >= fence.length && t === fence[0].repeat(t.length);
  };
  let to = i + 1;
  while (to < lines.length && !isEnd(lines[to])) to++;
  const code = lines.slice(i + 1, to).map((line) => dedent(line, indent.length)).join("\n");
  return {kind: "code", to: Math.min(to + 1, lines.length), code, language: info.trim().split(/[\s{,]/)[0]};
}

function takeHeading(lines, i) {
  const m = HEADING.exec(lines[i]);
  if (!m) return null;
  return {kind: "heading", to: i + 1, level: m[1].length, text: lines[i].slice(m[0].length).trim().replace(/(^|\s)#+$/, "")};
}

function takeRule(lines, i) {
  return RULE.test(lines[i]) ? {kind: "rule", to: i + 1} : null;
}

function takeQuote(lines, i, depth) {
  if (!QUOTE.test(lines[i])) return null;
  let to = i;
  while (to < lines.length && QUOTE.test(lines[to])) to++;
  const inner = lines.slice(i, to).map((line) => line.replace(QUOTE, ""));
  return {kind: "quote", to, blocks: parseBlocks(inner, depth + 1)};
}

/* Cells of a row, with \| for a bar inside one. */
function splitRow(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(\\)?\|$/, (all, escaped) => (escaped ? all : ""));
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function takeTable(lines, i) {
  if (!isTable(lines, i)) return null;
  const align = splitRow(lines[i + 1]).map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : ""));
  let to = i + 2;
  while (to < lines.length && lines[to].includes("|")) to++;
  const rows = [lines[i], ...lines.slice(i + 2, to)].map(splitRow);
  return {kind: "table", to, align, rows};
}

/* Models indent a nested list by two, three or four columns whatever CommonMark asks for: two more than the marker's
 * own are enough here. */
function takeList(lines, i, depth) {
  const first = ITEM.exec(lines[i]);
  if (!first) return null;
  const [base, isOrdered] = [columns(first[1]), first[2].length > 1];
  const mark = first[2].at(-1);
  const items = [];
  let [to, afterBlank, isLoose] = [i, false, false];
  for (; to < lines.length; to++) {
    const line = lines[to];
    if (isBlank(line)) {
      afterBlank = true;
      if (items.length) items.at(-1).lines.push("");
      continue;
    }
    const m = ITEM.exec(line);
    const indent = indentOf(line);
    if (m && indent < base + 2) {
      if (m[2].at(-1) !== mark || (m[2].length > 1) !== isOrdered || RULE.test(line)) break;
      const width = m[3].length > 4 || !m[3] ? columns(m[1]) + m[2].length + 1 : columns(m[0]);
      isLoose ||= afterBlank && items.length > 0;
      items.push({width, lines: [line.slice(m[1].length + m[2].length).replace(/^[ \t]{1,4}/, "")]});
    } else if (indent >= base + 2) {
      isLoose ||= afterBlank && indent < items.at(-1).width + 2 && !m;
      items.at(-1).lines.push(dedent(line, items.at(-1).width));
    } else if (afterBlank || interrupts(lines, to)) {
      break;
    } else {
      items.at(-1).lines.push(line.trimStart());
    }
    afterBlank = false;
  }
  const start = parseInt(first[2], 10);
  return {kind: "list", to, isOrdered, isLoose, start, items: items.map((item) => parseItem(item.lines, depth))};
}

function parseItem(lines, depth) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task) lines[0] = lines[0].slice(4);
  return {isTask: !!task, isDone: !!task && task[1] !== " ", blocks: parseBlocks(lines, depth + 1)};
}

function takeParagraph(lines, i) {
  let to = i + 1;
  while (to < lines.length && !isBlank(lines[to]) && !interrupts(lines, to)) to++;
  return {kind: "paragraph", to, text: lines.slice(i, to).map((line) => line.trim()).join("\n")};
}

/* ------------------------------------------------------------------ inline */

const SPECIAL = /[\\`*_~[\]!<&\n]|\bhttps?:\/\//g;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}_]/u;
const ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00a0"};

/* Only what cannot run: http, https, mailto. Anything else (javascript:, data:, a path on this server) is no link. */
function safeUrl(text) {
  return /^(?:https?:\/\/|mailto:)[^\s]/i.test(text) && URL.canParse(text) ? new URL(text).href : null;
}

function linkTo(url, ...children) {
  return el("a", {href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow"}, ...children);
}

/* The destination of [text](destination "title") that begins at text[i], a "(": {url, end}, or null. */
function linkTarget(text, i) {
  const LONGEST = 2048;
  let [depth, at, end] = [0, i + 1, 0];
  while (text[at] === " ") at++;
  const scheme = /<?(?:https?:\/\/|mailto:)/iy; /* of those that may stand here: most texts end the search at once */
  scheme.lastIndex = at;
  if (!scheme.test(text)) return null;
  for (end = at; end < text.length && end - at < LONGEST && !/\s/.test(text[end]); end++) {
    if (text[end] === "(") depth++;
    if (text[end] === ")" && depth-- === 0) break;
  }
  const url = safeUrl(text.slice(at, end).replace(/^<(.*)>$/, "$1"));
  const rest = /\s{0,9}(?:"[^"]{0,500}"|'[^']{0,500}')?\s{0,9}\)/y;
  rest.lastIndex = end;
  return url && rest.test(text) ? {url, end: rest.lastIndex} : null;
}

/* Runs of backticks by length, last first: the closing run of a code span is found without searching twice. */
function backtickRuns(text) {
  const runs = new Map();
  for (const m of text.matchAll(/`+/g)) {
    if (!runs.has(m[0].length)) runs.set(m[0].length, []);
    runs.get(m[0].length).push(m.index);
  }
  for (const starts of runs.values()) starts.reverse();
  return runs;
}

/* One pass over the text. `open` is the stack of delimiters and brackets that may still be closed; each is a text node
 * in the output, and closing one moves what follows it into an element. */
class Inline {
  constructor(text) {
    this.text = text;
    this.out = document.createDocumentFragment();
    this.open = [];
    this.ticks = backtickRuns(text);
  }

  run() {
    const {text} = this;
    let at = 0;
    while (at < text.length) {
      SPECIAL.lastIndex = at;
      const m = SPECIAL.exec(text);
      const next = m ? m.index : text.length;
      if (next > at) this.out.append(text.slice(at, next));
      at = m ? this.special(m[0], next) : next;
    }
    return this.out;
  }

  /* Handles what begins at i; returns where to go on. */
  special(what, i) {
    switch (what) {
      case "\\": return this.escape(i);
      case "`": return this.code(i);
      case "*": case "_": case "~": return this.delimiter(what, i);
      case "!": return this.text[i + 1] === "[" ? this.bracket("![", i) : this.plain("!", i);
      case "[": return this.bracket("[", i);
      case "]": return this.closeBracket(i);
      case "\n": return this.out.append(el("br")), i + 1;
      case "<": return this.angle(i);
      case "&": return this.entity(i);
      default: return this.url(i);
    }
  }

  plain(text, i) {
    this.out.append(text);
    return i + text.length;
  }

  /* \( \) \[ \] are TeX more often than escapes: they stay as they are. */
  escape(i) {
    const next = this.text[i + 1] ?? "";
    if (next === "\n") return this.out.append(el("br")), i + 2;
    return PUNCTUATION.test(next) && !/[()[\]]/.test(next) ? (this.out.append(next), i + 2) : this.plain("\\", i);
  }

  code(i) {
    const length = /`+/y.exec(this.text.slice(i, i + 100))[0].length;
    const closers = this.ticks.get(length) ?? [];
    while (closers.length && closers.at(-1) <= i) closers.pop();
    if (!closers.length) return this.plain(this.text.slice(i, i + length), i);
    const end = closers.pop();
    const body = this.text.slice(i + length, end).replaceAll("\n", " ");
    this.out.append(el("code", {}, /^ .*[^ ].* $/.test(body) ? body.slice(1, -1) : body));
    return end + length;
  }

  angle(i) {
    const m = /^<(?:br\s{0,3}\/?|(https?:\/\/[^\s<>]+|mailto:[^\s<>]+))>/i.exec(this.text.slice(i, i + 2048));
    const url = m && m[1] && safeUrl(m[1]);
    if (!m || (m[1] && !url)) return this.plain("<", i);
    this.out.append(m[1] ? linkTo(url, m[1]) : el("br"));
    return i + m[0].length;
  }

  entity(i) {
    const m = /^&(?:lt|gt|amp|quot|#39|nbsp);/.exec(this.text.slice(i, i + 8));
    return m ? (this.out.append(ENTITIES[m[0]]), i + m[0].length) : this.plain("&", i);
  }

  /* A bare address, without the punctuation that ends the sentence around it. */
  url(i) {
    let found = /[^\s<>[\]"`]+/y.exec(this.text.slice(i, i + 2048))[0].replace(/[.,;:!?'*_~]+$/, "");
    while (found.endsWith(")") && found.split(")").length > found.split("(").length) found = found.slice(0, -1);
    const url = safeUrl(found);
    if (!url) return this.plain("http", i);
    this.out.append(linkTo(url, found));
    return i + found.length;
  }

  /* A run of * or _ or ~~ closes what the same character opened, else opens. */
  delimiter(char, i) {
    const run = this.text.slice(i, i + 100).match(char === "*" ? /^\*+/ : char === "_" ? /^_+/ : /^~+/)[0];
    const [before, after] = [this.text[i - 1] ?? " ", this.text[i + run.length] ?? " "];
    const isWordInside = char === "_" && WORD.test(before) && WORD.test(after);
    let count = run.length;
    if ((char === "~" && count !== 2) || count > 3 || isWordInside) return this.plain(run, i);
    if (/\S/.test(before)) count = this.close(char, count);
    if (count === 0) return i + run.length;
    const node = document.createTextNode(char.repeat(count));
    this.out.append(node);
    if (/\S/.test(after) && this.open.length < OPEN_MAX) this.open.push({char, count, node});
    return i + run.length;
  }

  /* Returns how many of the closing characters are left over. */
  close(char, count) {
    while (count > 0) {
      const at = this.open.findLastIndex((o) => o.char === char);
      if (at < 0) break;
      const opener = this.open[at];
      const used = char === "~" ? 2 : Math.min(2, count, opener.count);
      this.wrap(opener.node, el(char === "~" ? "del" : used === 2 ? "strong" : "em"));
      opener.count -= used;
      opener.node.data = char.repeat(opener.count);
      this.open.length = opener.count ? at + 1 : at;
      count -= used;
    }
    return count;
  }

  /* All after `node` goes into the element, which takes its place. */
  wrap(node, element) {
    while (node.nextSibling) element.append(node.nextSibling);
    node.after(element);
  }

  bracket(text, i) {
    const node = document.createTextNode(text);
    this.out.append(node);
    if (this.open.length < OPEN_MAX) this.open.push({char: "[", isImage: text[0] === "!", node});
    return i + text.length;
  }

  /* Images are shown as links: the page loads nothing from elsewhere. */
  closeBracket(i) {
    const at = this.open.findLastIndex((o) => o.char === "[");
    const target = at >= 0 && this.text[i + 1] === "(" ? linkTarget(this.text, i + 1) : null;
    if (at >= 0) {
      const {node} = this.open[at];
      this.open.length = at;
      if (target) {
        const link = linkTo(target.url);
        this.wrap(node, link);
        for (const inner of link.querySelectorAll("a")) inner.replaceWith(...inner.childNodes);
        if (!link.textContent) link.textContent = target.url;
        node.remove();
        return target.end;
      }
    }
    return this.plain("]", i);
  }
}

const inline = (text) => new Inline(text).run();

/* ------------------------------------------------------------------ blocks to elements */

const RENDER = {
  paragraph: (b) => el("p", {}, inline(b.text)),
  heading: (b) => el("h" + Math.min(b.level + 2, 6), {class: "level" + b.level}, inline(b.text)),
  rule: () => el("hr"),
  quote: (b) => el("blockquote", {}, ...b.blocks.map(renderBlock)),
  list: (b) => el(b.isOrdered ? "ol" : "ul", {start: b.isOrdered && b.start !== 1 && String(b.start), class: b.isLoose && "loose"},
    ...b.items.map((item) => {
      const box = {type: "checkbox", disabled: true, checked: item.isDone, "aria-label": item.isDone ? "done" : "to do"};
      return el("li", {class: item.isTask && "task"}, ...(item.isTask ? [el("input", box)] : []), ...item.blocks.map(renderBlock));
    })),
  table: (b) => {
    const row = (cells, tag) => el("tr", {}, ...b.align.map((align, i) => el(tag, {class: align}, inline(cells[i] ?? ""))));
    const body = b.rows.slice(1).map((r) => row(r, "td"));
    return el("div.table", {tabindex: 0, role: "region", "aria-label": "Table"},
      el("table", {}, el("thead", {}, row(b.rows[0], "th")), el("tbody", {}, ...body)));
  },
  code: (b) => {
    const code = el("code", {}, highlight(b.code, b.language));
    const copy = copyButton("Copy this code", () => code.textContent);
    return el("figure.code", {}, el("figcaption", {}, el("span", {}, b.language || "text"), copy), el("pre", {tabindex: 0}, code));
  },
};

const renderBlock = (block) => RENDER[block.kind](block);

/* An element that shows a growing text. update() takes the whole text each time; only what is new is parsed. */
class MarkdownView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.text = "";
    this.done = 0; /* characters in blocks that cannot change any more */
    this.open = []; /* {block, node} of those that may */
  }

  update(text) {
    if (text === this.text) return;
    if (!text.startsWith(this.text.slice(0, this.done))) this.clear();
    this.text = text;
    const lines = text.slice(this.done).split("\n");
    const blocks = parseBlocks(lines);
    while (this.open.length > blocks.length) this.open.pop().node.remove();
    blocks.forEach((block, i) => { this.open[i] = {block, node: this.place(block, this.open[i])}; });
    /* A block is complete when another begins behind it, on a line that is itself complete. */
    const first = Math.max(0, blocks.findLastIndex((b) => b.from < lines.length - 1));
    for (let i = 0; first > 0 && i < blocks[first].from; i++) this.done += lines[i].length + 1;
    this.open.splice(0, first);
  }

  /* A code block that grows keeps its element, and with it where the reader has scrolled to. */
  place(block, before) {
    if (before?.block.kind === "code" && block.kind === "code") {
      const code = before.node.querySelector("code");
      if (before.block.code !== block.code) code.replaceChildren(highlight(block.code, block.language));
      before.node.querySelector("figcaption span").textContent = block.language || "text";
      return before.node;
    }
    const node = renderBlock(block);
    if (before) before.node.replaceWith(node);
    else this.element.append(node);
    return node;
  }
}
