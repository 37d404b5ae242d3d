/* store.js - conversations: a tree of messages each, kept in localStorage, exported and imported.
 *
 * A conversation {id, title, created, updated, model, settings, messages, head, draft} holds its messages by id; each
 * knows its parent, so that an edited question or a second answer is a sibling and nothing is overwritten. `head` is the
 * last message of the branch that is shown. Storage has limits; beyond them nothing is thrown away: save() says so, and
 * the conversation stays in memory until there is room.
 */
"use strict";

const CHATS_MAX = 200;
const STORED_MAX = 4500000; /* characters of all conversations; browsers allow about 5 million */
const IMPORT_MAX = 20000000;
const ROLES = ["user", "assistant", "tool"];

/* crypto.randomUUID exists only on https and localhost. */
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(9))].map((b) => b.toString(36).padStart(2, "0")).join("");
}

/* ------------------------------------------------------------------ one conversation */

function newChat(settings = {}, model = "") {
  const now = Date.now();
  const messages = Object.create(null); /* so that no id is the name of something built in */
  return {id: newId(), title: "", created: now, updated: now, model, settings: {...settings}, messages, head: null, draft: ""};
}

/* From the first message to the head. */
function pathOf(chat) {
  const path = [];
  for (let m = chat.messages[chat.head]; m; m = chat.messages[m.parent]) path.unshift(m);
  return path;
}

const byAge = (a, b) => a.created - b.created; /* within a conversation no two are of the same millisecond */
const childrenOf = (chat, id) => Object.values(chat.messages).filter((m) => m.parent === id).sort(byAge);
const siblingsOf = (chat, message) => childrenOf(chat, message.parent);

/* The last message below this one, along the newest branches. */
function tipOf(chat, id) {
  for (let next = id; next;) {
    id = next;
    next = childrenOf(chat, id).at(-1)?.id;
  }
  return id;
}

/* Adds a message behind `parent` (null: the first) and shows its branch. */
function addMessage(chat, parent, fields) {
  const created = Object.values(chat.messages).reduce((at, m) => Math.max(at, m.created + 1), Date.now());
  const message = {id: newId(), parent, created, content: "", ...fields};
  chat.messages[message.id] = message;
  chat.head = message.id;
  chat.updated = Date.now();
  if (!chat.title && message.role === "user") chat.title = message.content.trim().split("\n")[0].slice(0, 60);
  return message;
}

/* Removes a message and all that follows from it. Returns what undoes it. */
function removeMessage(chat, message) {
  const before = chat.head;
  const gone = [message];
  for (const m of gone) gone.push(...childrenOf(chat, m.id));
  for (const m of gone) delete chat.messages[m.id];
  const others = siblingsOf(chat, message);
  const after = chat.head = others.length ? tipOf(chat, others.at(-1).id) : message.parent;
  return () => {
    for (const m of gone) chat.messages[m.id] = m;
    if (chat.head === after) chat.head = before;
  };
}

/* What the API gets. An answer that failed before its first word is no part of the conversation. */
function apiMessages(chat, upTo) {
  const system = chat.settings.system?.trim();
  const path = pathOf({...chat, head: upTo}).filter((m) => m.role !== "assistant" || m.content || m.tool_calls);
  const first = system ? [{role: "system", content: system}] : [];
  return [...first, ...path.map(({role, content, tool_calls, tool_call_id}) => ({role, content, tool_calls, tool_call_id}))];
}

/* ------------------------------------------------------------------ all of them */

class Store {
  constructor() {
    this.chats = new Map(); /* id -> conversation, stored or not */
    for (const key of Object.keys(localStorage)) {
      if (!key.startsWith("sluice.chat.")) continue;
      const chat = readChat(parseJson(localStorage.getItem(key)));
      if (chat) this.chats.set(chat.id, chat);
    }
  }

  list() {
    return [...this.chats.values()].sort((a, b) => b.updated - a.updated);
  }

  /* True when it is stored; false when there is no room. */
  save(chat) {
    const text = JSON.stringify(chat);
    const key = "sluice.chat." + chat.id;
    const others = Object.keys(localStorage).filter((k) => k.startsWith("sluice.chat.") && k !== key);
    const size = others.reduce((n, k) => n + localStorage.getItem(k).length, text.length);
    this.chats.set(chat.id, chat);
    try {
      if (size > STORED_MAX || others.length >= CHATS_MAX) throw new Error("full");
      localStorage.setItem(key, text);
      return true;
    } catch {
      return false;
    }
  }

  remove(chat) {
    this.chats.delete(chat.id);
    localStorage.removeItem("sluice.chat." + chat.id);
  }

  get(name, otherwise) {
    return parseJson(localStorage.getItem("sluice." + name)) ?? otherwise;
  }

  set(name, value) {
    try {
      localStorage.setItem("sluice." + name, JSON.stringify(value));
    } catch { /* a preference that is not remembered is no reason to interrupt */ }
  }
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/* ------------------------------------------------------------------ export and import */

function exportJson(chats) {
  return JSON.stringify({format: "sluice-conversations", version: 1, conversations: chats}, null, 1);
}

function exportMarkdown(chat) {
  const names = {user: "You", assistant: "Assistant", tool: "Tool"};
  const parts = [`# ${chat.title || "Conversation"}`];
  if (chat.settings.system) parts.push("## System", chat.settings.system);
  for (const m of pathOf(chat)) {
    parts.push(`## ${names[m.role]}`);
    if (m.reasoning) parts.push(m.reasoning.replace(/^/gm, "> "));
    if (m.content) parts.push(m.content);
    for (const call of m.tool_calls ?? []) parts.push("```json\n" + JSON.stringify(call.function, null, 2) + "\n```");
  }
  return parts.join("\n\n") + "\n";
}

/* Conversations from an exported file, or from {"messages": [...]} as the API takes it. Throws with a clear line. */
function importJson(text) {
  if (text.length > IMPORT_MAX) throw new Error("This file is too large to import.");
  const file = parseJson(text);
  const found = Array.isArray(file?.messages) ? [fromMessages(file.messages)] : file?.conversations;
  if (!Array.isArray(found)) throw new Error("This file holds no conversations.");
  const chats = found.slice(0, CHATS_MAX).map(readChat).filter(Boolean);
  if (!chats.length) throw new Error("This file holds no conversation that can be read.");
  return chats.map((chat) => ({...chat, id: newId()}));
}

function fromMessages(list) {
  const chat = newChat();
  for (const {role, content, tool_calls, tool_call_id} of list.filter(isRecord)) {
    if (role === "system") chat.settings.system = content;
    else addMessage(chat, chat.head, {role, content: textOr(content, ""), tool_calls, tool_call_id});
  }
  return chat;
}

const isRecord = (v) => typeof v === "object" && v !== null && !Array.isArray(v);
const textOr = (v, otherwise) => (typeof v === "string" ? v : otherwise);
const numberOr = (v, otherwise) => (Number.isFinite(v) ? v : otherwise);

/* A conversation built anew from something that claims to be one, or null: nothing unexpected gets past this. */
function readChat(v) {
  if (!isRecord(v) || !isRecord(v.messages)) return null;
  const chat = newChat();
  for (const m of Object.values(v.messages).map(readMessage))
    if (m) chat.messages[m.id] = m;
  for (const m of Object.values(chat.messages))
    if (!chat.messages[m.parent] || chat.messages[m.parent].created >= m.created) m.parent = null; /* no circles */
  const newest = Object.values(chat.messages).sort(byAge).at(-1);
  return Object.assign(chat, {
    id: /^[0-9a-z]{1,40}$/.test(v.id) ? v.id : newId(),
    title: textOr(v.title, "").slice(0, 120),
    created: numberOr(v.created, chat.created),
    updated: numberOr(v.updated, chat.updated),
    model: textOr(v.model, ""),
    settings: readSettings(v.settings),
    head: chat.messages[v.head] ? v.head : newest?.id ?? null,
    draft: textOr(v.draft, ""),
  });
}

function readSettings(v) {
  const entries = Object.entries(isRecord(v) ? v : {});
  return Object.fromEntries(entries.filter(([, value]) => typeof value === "string" || Number.isFinite(value)));
}

function readMessage(v) {
  if (!isRecord(v) || !ROLES.includes(v.role) || !/^[0-9a-z]{1,40}$/.test(v.id)) return null;
  const message = {id: v.id, parent: textOr(v.parent, null), role: v.role,
    created: numberOr(v.created, 0), content: textOr(v.content, "")};
  for (const key of ["reasoning", "model", "finish", "tool_call_id"])
    if (typeof v[key] === "string") message[key] = v[key];
  if (isRecord(v.error))
    message.error = {message: textOr(v.error.message, "Failed."), needsKey: v.error.needsKey === true};
  if (isRecord(v.stats)) message.stats = Object.fromEntries(Object.entries(v.stats).filter(([, n]) => Number.isFinite(n)));
  if (Array.isArray(v.tool_calls)) message.tool_calls = v.tool_calls.filter((c) => isRecord(c?.function)).map(readCall);
  return message;
}

function readCall(call) {
  return {id: textOr(call.id, ""), type: "function",
    function: {name: textOr(call.function.name, ""), arguments: textOr(call.function.arguments, "")}};
}
