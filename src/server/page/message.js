/* message.js - one message on the page: its text, reasoning, tool calls, error, figures and buttons.
 *
 * A view owns an <article> and reads its message when update() is called; it changes nothing in it. What its buttons do
 * is given to it: {again, edit, remove, go, answerCalls, openKey}, each called with the message.
 */
"use strict";

const number = (n, digits = 0) => n.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits});
const seconds = (ms) => (ms < 10000 ? number(ms / 1000, 2) : number(ms / 1000, 1)) + " s";

/* Tokens a second after the first one; the first is the prompt's time. */
function rateOf(stats) {
  const ms = stats.total_ms - stats.first_ms;
  return stats.completion_tokens > 1 && ms > 20 ? ((stats.completion_tokens - 1) * 1000) / ms : 0;
}

function figuresOf(message, isRunning) {
  const s = message.stats;
  const ends = {length: "cut at the token limit", stopped: "stopped", interrupted: "interrupted"};
  const parts = [];
  const waited = Date.now() - message.created;
  if (isRunning && !s.completion_tokens && waited > 1500) parts.push(`waiting for ${number(waited / 1000)} s`);
  if (s?.completion_tokens) {
    const rate = rateOf(s);
    parts.push(`${number(s.completion_tokens)} token${s.completion_tokens === 1 ? "" : "s"}`);
    if (rate) parts.push(`${number(rate, rate < 100 ? 1 : 0)} tok/s`);
    parts.push(`first after ${seconds(s.first_ms)}`);
    if (s.prompt_tokens && !isRunning)
      parts.push(`prompt ${number(s.prompt_tokens)}` + (s.cached_tokens ? `, ${number(s.cached_tokens)} cached` : ""));
  }
  const end = message.finish ?? (s && !message.error ? "interrupted" : ""); /* by a reload of the page */
  if (!isRunning && ends[end]) parts.push(ends[end]);
  return parts.join("\u2002·\u2002");
}

class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.body = el(message.role === "user" ? "div.said" : "div.prose");
    this.markdown = message.role === "assistant" ? new MarkdownView(this.body) : null;
    this.extras = el("div.extras");
    this.figures = el("span.figures");
    this.branch = el("span.branch");
    this.buttons = el("span.buttons", {}, ...this.makeButtons());
    this.foot = el("footer", {}, this.branch, this.buttons, this.figures);
    const label = {user: "You", assistant: "Answer", tool: "Result of a tool"}[message.role];
    this.node = el("article." + message.role, {"aria-label": label}, this.body, this.extras, this.foot);
  }

  makeButtons() {
    const {role} = this.message;
    return [
      copyButton("Copy", () => this.message.content),
      role === "assistant" && iconButton("again", "Answer again", () => this.actions.again(this.message)),
      role !== "tool" && iconButton("edit", "Edit", () => this.edit()),
      iconButton("trash", "Delete from here on", () => this.actions.remove(this.message)),
    ].filter(Boolean);
  }

  /* siblings: the messages at this place, this one among them. hasResults: its tool calls are answered. */
  update(message, siblings, {isRunning = false, hasResults = false}) {
    const m = this.message = message;
    this.showReasoning(isRunning);
    if (this.markdown) this.markdown.update(m.content);
    else if (this.body.textContent !== m.content) this.body.textContent = m.content;
    this.node.toggleAttribute("aria-busy", isRunning);
    this.node.classList.toggle("waiting", isRunning && !m.content && !m.reasoning);
    this.figures.textContent = figuresOf(m, isRunning);
    this.buttons.hidden = isRunning || (!!m.error && !m.content && !m.reasoning); /* the error has its own */
    this.showBranch(siblings, isRunning);
    this.showExtras(isRunning, hasResults);
  }

  showReasoning(isRunning) {
    const m = this.message;
    if (!m.reasoning) return;
    if (!this.thought) {
      this.thought = {text: el("div.prose"), summary: el("summary")};
      this.thought.view = new MarkdownView(this.thought.text);
      this.thought.node = el("details.thought", {}, this.thought.summary, this.thought.text);
      this.body.before(this.thought.node);
    }
    const isThinking = isRunning && !m.content;
    const took = m.stats?.thought_ms ? `Thought for ${seconds(m.stats.thought_ms)}` : "Thoughts";
    this.thought.view.update(m.reasoning);
    this.thought.summary.textContent = isThinking ? "Thinking" : took;
    this.thought.summary.classList.toggle("live", isThinking);
  }

  showBranch(siblings, isRunning) {
    const at = siblings.indexOf(this.message);
    const state = siblings.length > 1 ? `${at + 1} of ${siblings.length}` : "";
    if (this.branch.dataset.state === state + isRunning) return;
    this.branch.dataset.state = state + isRunning;
    this.branch.replaceChildren();
    if (!state) return;
    const go = (name, label, to) => {
      const button = iconButton(name, label, () => this.actions.go(to));
      button.disabled = !to || isRunning;
      return button;
    };
    const count = el("span", {"aria-label": "Version " + state}, `${at + 1}/${siblings.length}`);
    this.branch.append(go("left", "Previous version", siblings[at - 1]), count, go("right", "Next version", siblings[at + 1]));
  }

  /* Tool calls and an error; rebuilt when they change. */
  showExtras(isRunning, hasResults) {
    const m = this.message;
    const state = JSON.stringify([m.tool_calls, m.error, hasResults, isRunning]);
    if (this.extrasState === state) return;
    this.extrasState = state;
    this.extras.replaceChildren();
    for (const call of m.tool_calls ?? []) this.extras.append(toolCall(call));
    if (m.tool_calls?.length && !isRunning && !hasResults && !m.error) this.extras.append(this.resultsForm());
    if (!m.error) return;
    const retry = el("button", {type: "button", onclick: () => this.actions.again(this.message)}, "Try again");
    const key = el("button", {type: "button", onclick: () => this.actions.openKey()}, "Set the API key");
    const buttons = m.error.needsKey ? [key, retry] : [retry];
    this.extras.append(el("div.error", {role: "alert"}, el("p", {}, m.error.message), ...buttons));
  }

  /* Whoever reads is the tool: results are typed in and sent back. */
  resultsForm() {
    const fields = this.message.tool_calls.map((call) => {
      const label = `Result of ${call.function.name}`;
      return el("textarea", {rows: 2, "aria-label": label, placeholder: label});
    });
    const onsubmit = (event) => {
      event.preventDefault();
      this.actions.answerCalls(this.message, fields.map((f) => f.value));
    };
    const send = el("button", {}, fields.length > 1 ? "Send the results" : "Send the result");
    return el("form.results", {onsubmit}, ...fields, send);
  }

  /* The text becomes a field. Nothing is overwritten: what comes of it is another version beside this one. */
  edit() {
    if (this.node.classList.contains("editing")) return;
    const area = el("textarea", {"aria-label": "Edit this message", oninput: () => fitHeight(area)});
    const close = () => {
      form.remove();
      this.node.classList.remove("editing");
    };
    const send = () => {
      if (!area.value.trim()) return;
      close();
      this.actions.edit(this.message, area.value);
    };
    const onkeydown = (event) => {
      if (event.key === "Escape") { event.stopPropagation(); close(); }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    };
    const onsubmit = (event) => { event.preventDefault(); send(); };
    const cancel = el("button", {type: "button", onclick: close}, "Cancel");
    const done = el("button.primary", {}, this.message.role === "user" ? "Send" : "Keep");
    const form = el("form.edit", {onkeydown, onsubmit}, area, el("p", {}, cancel, done));
    area.value = this.message.content;
    this.node.classList.add("editing");
    this.body.after(form);
    fitHeight(area);
    area.focus();
  }
}

/* A call with its arguments; JSON that is whole is laid out, anything else is shown as it came. */
function toolCall(call) {
  const args = parseJson(call.function.arguments);
  const text = args === null ? call.function.arguments : JSON.stringify(args, null, 2);
  const name = el("span", {}, "calls ", el("b", {}, call.function.name || "…"));
  return el("figure.code.call", {}, el("figcaption", {}, name, copyButton("Copy the arguments", () => text)),
    el("pre", {tabindex: 0}, el("code", {}, highlight(text, "json"))));
}
